"""The embedding of patches against PyTorch, and the cutting of images into patches and back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.models.patches import PatchEmbedding, patchify, unpatchify

MODEL = PatchEmbedding(hidden_size=6, patch_size=4)


@pytest.fixture
def image(random_image):
    return random_image(3, 8, 12, 2)


def test_embedding_is_a_strided_convolution(make_variables, image):
    torch = pytest.importorskip("torch")
    variables = make_variables(MODEL, image, train=False)
    weights = variables["params"]["patch_embedding"]
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(image).permute(0, 3, 1, 2),
        torch.from_numpy(weights["kernel"]).permute(3, 2, 0, 1),
        torch.from_numpy(weights["bias"]),
        stride=4,
    ).permute(0, 2, 3, 1)
    ours = MODEL.apply(variables, image, train=True)
    np.testing.assert_allclose(ours.grid, expected, atol=1e-5)
    np.testing.assert_allclose(ours.features, expected.mean(dim=(1, 2)), atol=1e-5)


def test_embedding_is_linear_in_the_pixels_of_patchify(make_variables, image):
    variables = make_variables(MODEL, image, train=False)
    weights = variables["params"]["patch_embedding"]
    expected = patchify(image, 4) @ weights["kernel"].reshape(-1, 6) + weights["bias"]
    ours = MODEL.apply(variables, image, train=False).grid.reshape(3, 6, 6)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_masked_patches_do_not_leak(make_variables, image, random_image):
    variables = make_variables(MODEL, image, train=False)
    mask = np.random.default_rng(0).permuted(np.arange(18).reshape(3, 6) % 6 < 2, axis=1)
    patches = np.array(patchify(image, 4))
    patches[mask] = random_image(*patches[mask].shape, seed=1)
    before = MODEL.apply(variables, image, False, mask, 4)
    after = MODEL.apply(variables, unpatchify(patches, 2, 4), False, mask, 4)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    full = MODEL.apply(variables, image, False).grid.reshape(3, 6, 6)
    visible = np.asarray(before.grid).reshape(3, 6, 6)
    assert not visible[mask].any()
    np.testing.assert_array_equal(visible[~mask], full[~mask])
    expected = [row[~hidden].mean(axis=0) for row, hidden in zip(full, mask, strict=True)]
    np.testing.assert_allclose(before.features, expected, atol=1e-6)


def test_bfloat16_keeps_parameters_and_features_in_float32(make_variables, image):
    half = dataclasses.replace(MODEL, dtype=jnp.bfloat16)
    variables = make_variables(half, image, train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    encoding = half.apply(variables, image, train=False)
    assert (encoding.grid.dtype, encoding.features.dtype) == (jnp.bfloat16, jnp.float32)


def test_patches_lie_row_by_row(image):
    patches = patchify(image, 4)
    assert patches.shape == (3, 6, 32)
    for row, column in np.ndindex(2, 3):
        square = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        np.testing.assert_array_equal(patches[:, 3 * row + column], square.reshape(3, 32))


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_unpatchify_is_the_inverse(image, patch_size):
    patches = patchify(image, patch_size)
    restored = unpatchify(patches, 8 // patch_size, patch_size)
    np.testing.assert_array_equal(restored, image)


def test_what_does_not_fit_is_refused(image):
    with pytest.raises(ValueError, match="8 x 12 do not divide into patches of 3"):
        patchify(image, 3)
    with pytest.raises(ValueError, match="do not make 4 rows"):
        unpatchify(np.zeros((1, 6, 16)), 4, 4)
    with pytest.raises(ValueError, match="do not make 2 rows"):
        unpatchify(np.zeros((1, 6, 15)), 2, 4)
