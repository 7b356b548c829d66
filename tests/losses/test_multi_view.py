"""multi_view_contrastive against CXR-CLIP's sums written out in float64, and against PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax import losses


@pytest.fixture
def studies():
    """Nine studies with two images, two texts, group ids and a mask."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 9, 2, 6)).astype(np.float32)
    text += 0.5 * image
    return image, text, rng.integers(0, 6, (9, 2)).astype(np.int32), rng.random(9) < 0.7


def info_nce(first, second, temperature, groups):
    """The mean of both directions, row by row."""
    first, second = (
        np.asarray(rows, np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (first, second)
    )
    logits = first @ second.T / temperature
    total = 0.0
    for i in range(len(logits)):
        siblings = [] if groups is None else np.flatnonzero(np.any(groups == groups[i], axis=1))
        allowed = [j for j in range(len(logits)) if j == i or j not in siblings]
        for row in (logits[i, allowed], logits[allowed, i]):
            total += np.log(np.exp(row).sum()) - logits[i, i]
    return total / 2 / len(logits)


def reference(image, text, temperature, groups=None, image_weight=1.0, text_weight=0.5):
    images, texts = np.moveaxis(image, 1, 0), np.moveaxis(text, 1, 0)
    contrast = functools.partial(info_nce, temperature=temperature, groups=groups)
    supervision = [contrast(view, other) for view in images for other in texts]
    return (
        np.mean(supervision)
        + image_weight * contrast(images[0], images[1])
        + text_weight * contrast(texts[0], texts[1])
    )


@functools.partial(jax.jit, static_argnames="tile_size")
def value_and_gradients(image, text, temperature, group_ids=None, mask=None, tile_size=None):
    def loss(image, text, temperature):
        return losses.multi_view_contrastive(
            image,
            text,
            temperature=temperature,
            group_ids=group_ids,
            mask=mask,
            tile_size=tile_size,
        )

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(image, text, temperature)


@pytest.mark.parametrize("tile_size", [None, 4])
def test_value_equals_the_reference(studies, tile_size):
    image, text, groups, _ = studies
    (loss, _), _ = value_and_gradients(image, text, 0.2, groups, tile_size=tile_size)
    assert loss == pytest.approx(reference(image, text, 0.2, groups), rel=1e-5)


def test_value_and_gradients_equal_pytorch(studies):
    """The loss as CXR-CLIP's code computes it, with its weights."""
    torch = pytest.importorskip("torch")
    image, text, _, _ = studies
    leaves = [torch.tensor(value, requires_grad=True) for value in (image, text, np.float32(0.2))]
    images, texts = (torch.nn.functional.normalize(leaf, dim=2).unbind(1) for leaf in leaves[:2])
    own = torch.arange(9)

    def contrast(first, second):
        logits = first @ second.T / leaves[2]
        entropy = torch.nn.functional.cross_entropy
        return (entropy(logits, own) + entropy(logits.T, own)) / 2

    supervision = sum(contrast(view, other) for view in images for other in texts) / 4
    expected = supervision + contrast(*images) + 0.5 * contrast(*texts)
    expected.backward()
    (loss, metrics), gradients = value_and_gradients(image, text, 0.2)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["image_text_loss"] == pytest.approx(supervision.item(), rel=1e-5)
    assert metrics["image_image_loss"] == pytest.approx(contrast(*images).item(), rel=1e-5)
    assert metrics["text_text_loss"] == pytest.approx(contrast(*texts).item(), rel=1e-5)
    assert metrics["temperature"] == pytest.approx(0.2)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_gradient_equals_finite_differences(studies, assert_slope):
    image, text, groups, _ = studies

    def loss(image, text, temperature):
        return losses.multi_view_contrastive(
            image, text, temperature=temperature, group_ids=groups
        )[0]

    expected = functools.partial(reference, groups=groups)
    assert_slope(jax.jit(loss), expected, image, text, np.float32(0.2))


def test_a_mask_is_the_same_as_the_studies_alone(studies):
    image, text, groups, mask = studies
    (value, metrics), gradients = value_and_gradients(image, text, 0.2, groups, mask)
    alone, expected = value_and_gradients(image[mask], text[mask], 0.2, groups[mask])
    gradients = (gradients[0][mask], gradients[1][mask], gradients[2])
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(same, ((value, metrics), gradients), (alone, expected))


def test_without_studies_all_is_zero(studies):
    image, text, groups, _ = studies
    (value, _), gradients = value_and_gradients(image, text, 0.2, groups, np.zeros(9, bool))
    assert value == 0.0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)


def test_one_text_has_no_contrast_among_texts(studies):
    """Three images and one text: three terms of both kinds, and none of the texts."""
    rng = np.random.default_rng(1)
    image, text = rng.normal(size=(9, 3, 6)), rng.normal(size=(9, 1, 6))
    loss, metrics = losses.multi_view_contrastive(
        jnp.asarray(image), jnp.asarray(text), temperature=0.2, image_weight=2.0, text_weight=3.0
    )
    supervision = np.mean([info_nce(image[:, v], text[:, 0], 0.2, None) for v in range(3)])
    pairs = ((0, 1), (0, 2), (1, 2))
    among = np.mean([info_nce(image[:, v], image[:, w], 0.2, None) for v, w in pairs])
    assert metrics["text_text_loss"] == 0.0
    assert metrics["image_image_loss"] == pytest.approx(among, rel=1e-5)
    assert loss == pytest.approx(supervision + 2.0 * among, rel=1e-5)


def test_embeddings_without_views_are_named():
    with pytest.raises(ValueError, match=r"embeddings must be \[studies, views, dim\]"):
        losses.multi_view_contrastive(jnp.ones((4, 8)), jnp.ones((4, 2, 8)), temperature=0.1)
