"""The fusion transformer against PyTorch's, what it ignores, and which parameters it has."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.models.fusion import FusionTransformer, sine_positions

PATCHES, LENGTH = 9, 5
MODEL = FusionTransformer(hidden_size=8, num_layers=2, num_heads=2, masked_images=True)
IN_VIEW = np.array([True, False, True])


@pytest.fixture
def inputs():
    """A grid and tokens of other widths than the transformer's, and their masks."""
    generator = np.random.default_rng(0)
    grid = generator.standard_normal((3, PATCHES, 10)).astype(np.float32)
    tokens = generator.standard_normal((3, LENGTH, 7)).astype(np.float32)
    token_mask = np.arange(LENGTH) < np.array([[5], [3], [2]])
    patch_is_masked = generator.random((3, PATCHES)) < 0.5
    return grid, tokens, {"token_mask": token_mask, "patch_is_masked": patch_is_masked}


@pytest.fixture
def fuse(make_variables, inputs):
    """A function that applies `MODEL` with random parameters."""
    grid, tokens, _ = inputs
    variables = make_variables(MODEL, grid, tokens, deterministic=True)

    @jax.jit
    def apply(grid, tokens, options):
        return MODEL.apply(variables, grid, tokens, **options, deterministic=True)

    return lambda grid, tokens, **options: apply(grid, tokens, options)


def torch_layers(params: dict[str, Any], x: np.ndarray, mask: np.ndarray) -> Any:
    """PyTorch's pre-norm encoder with our parameters."""
    import torch

    layer = torch.nn.TransformerEncoderLayer(
        8, 2, 32, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    norm = torch.nn.LayerNorm(8, eps=1e-6)
    reference = torch.nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
    state = {"norm.weight": params["norm"]["scale"], "norm.bias": params["norm"]["bias"]}
    for index in range(2):
        ours, theirs = params[f"layer_{index}"], f"layers.{index}.{{}}".format
        projections = [ours["attention"][name] for name in ("query", "key", "value")]
        state[theirs("self_attn.in_proj_weight")] = np.hstack([p["kernel"] for p in projections]).T
        state[theirs("self_attn.in_proj_bias")] = np.hstack([p["bias"] for p in projections])
        for name, dense in (
            ("self_attn.out_proj", ours["attention"]["output"]),
            ("linear1", ours["mlp"]["hidden"]),
            ("linear2", ours["mlp"]["output"]),
        ):
            state[theirs(f"{name}.weight")] = dense["kernel"].T
            state[theirs(f"{name}.bias")] = dense["bias"]
        for name, ln in (("norm1", ours["attention_norm"]), ("norm2", ours["mlp_norm"])):
            state[theirs(f"{name}.weight")], state[theirs(f"{name}.bias")] = ln["scale"], ln["bias"]
    reference.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()})
    with torch.no_grad():
        x_torch, padding = torch.from_numpy(x), torch.from_numpy(~mask)
        return reference(x_torch, src_key_padding_mask=padding).numpy()


def test_equals_torch(make_variables, inputs):
    pytest.importorskip("torch")
    grid, tokens, options = inputs
    params = make_variables(MODEL, grid, tokens, deterministic=True)["params"]
    image = grid @ params["image_input"]["kernel"]
    is_masked = options["patch_is_masked"][:, :, None]
    image = np.where(is_masked, params["image_mask_token"], image)
    image = image + params["image_positions"] + params["image_modality"]
    text = tokens @ params["text_input"]["kernel"] + params["text_modality"]
    cls = np.broadcast_to(params["cls_token"], (3, 1, 8))
    masks = [np.ones((3, 1), bool), np.repeat(IN_VIEW[:, None], PATCHES, 1), options["token_mask"]]
    expected = torch_layers(params, np.hstack([cls, image, text]), np.hstack(masks))
    ours = MODEL.apply(
        {"params": params}, grid, tokens, **options, image_in_view=IN_VIEW, deterministic=True
    )
    np.testing.assert_allclose(ours.cls, expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(ours.image, expected[:, 1 : 1 + PATCHES], atol=1e-5)
    np.testing.assert_allclose(ours.text, expected[:, 1 + PATCHES :], atol=1e-5)


def test_masked_patches_and_padding_do_not_leak(fuse, inputs):
    grid, tokens, options = inputs
    is_masked, token_mask = options["patch_is_masked"][:, :, None], options["token_mask"]
    before = fuse(grid, tokens, **options)
    after = fuse(np.where(is_masked, 100.0, grid), tokens, **options)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    after = fuse(grid, np.where(token_mask[:, :, None], tokens, 100.0), **options)
    np.testing.assert_array_equal(before.cls, after.cls)
    np.testing.assert_array_equal(before.image, after.image)
    np.testing.assert_array_equal(before.text[token_mask], after.text[token_mask])
    changed = fuse(np.where(is_masked, grid, grid + 1), tokens, **options)
    assert np.abs(changed.cls - before.cls).max() > 0.01


def test_a_modality_out_of_view_is_as_if_there_were_none(fuse, inputs):
    grid, tokens, options = inputs
    image_alone, text_alone = (
        fuse(grid, None, patch_is_masked=options["patch_is_masked"]),
        fuse(None, tokens, token_mask=options["token_mask"]),
    )
    assert image_alone.text is None and text_alone.image is None
    both = fuse(grid, tokens, **options)
    without_image = fuse(grid, tokens, **options, image_in_view=IN_VIEW)
    without_text = fuse(grid, tokens, **options, text_in_view=IN_VIEW)
    for name, fused, alone in (
        ("text", without_image, text_alone),
        ("image", without_text, image_alone),
    ):
        for ours, single, together in (
            (fused.cls, alone.cls, both.cls),
            (getattr(fused, name), getattr(alone, name), getattr(both, name)),
        ):
            np.testing.assert_allclose(ours[1], single[1], atol=1e-5)
            np.testing.assert_allclose(ours[IN_VIEW], together[IN_VIEW], atol=1e-5)
            assert np.abs(ours[1] - together[1]).max() > 0.01
    other = fuse(grid + 1, tokens, **options, image_in_view=IN_VIEW)
    np.testing.assert_array_equal(other.cls[1], without_image.cls[1])
    np.testing.assert_array_equal(other.text[1], without_image.text[1])
    neither = fuse(grid, tokens, **options, image_in_view=~IN_VIEW, text_in_view=IN_VIEW)
    assert all(np.isfinite(output).all() for output in neither)


def test_patches_have_positions_and_tokens_have_none(fuse, inputs):
    """Texts bring their own positions; without them the order would change nothing."""
    grid, tokens, _ = inputs
    before = fuse(grid, tokens)
    np.testing.assert_allclose(fuse(grid, tokens[:, ::-1]).cls, before.cls, atol=1e-5)
    assert np.abs(fuse(grid[:, ::-1], tokens).cls - before.cls).max() > 0.01


@pytest.mark.parametrize("masked_images", [True, False])
def test_every_parameter_has_a_gradient(make_variables, inputs, masked_images):
    grid, tokens, options = inputs
    model = dataclasses.replace(MODEL, masked_images=masked_images)
    options = options if masked_images else {"token_mask": options["token_mask"]}
    params = make_variables(model, grid, tokens, **options, deterministic=True)["params"]
    assert ("image_mask_token" in params) == masked_images

    def loss(params):
        fused = model.apply({"params": params}, grid, tokens, **options, deterministic=True)
        return sum((output**3).sum() for output in fused)

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # The softmax over keys does not see a constant added to all of them.
        assert name.endswith("key/bias") or 1e-3 < np.abs(gradient).max() < np.inf, name


class OneAfterTheOther(nn.Module):
    """Uses one transformer for images, for texts, and for both."""

    fusion: FusionTransformer

    def __call__(self, grid: Any, tokens: Any) -> Any:
        image = self.fusion(grid, None, deterministic=True)
        text = self.fusion(None, tokens, deterministic=True)
        return image, text, self.fusion(grid, tokens, deterministic=True)


def test_parameters_are_those_of_the_modalities_seen(inputs):
    grid, tokens, _ = inputs

    def names(model, *arguments, **options):
        init = jax.eval_shape(lambda: model.init(jax.random.key(0), *arguments, **options))
        return set(init["params"])

    text = names(MODEL, None, tokens, deterministic=True)
    image = names(MODEL, grid, None, deterministic=True)
    both = names(MODEL, grid, tokens, deterministic=True)
    shared = {"cls_token", "norm", "layer_0", "layer_1"}
    assert text == shared | {"text_input", "text_modality"}
    assert image == shared | {
        f"image_{n}" for n in ("input", "modality", "positions", "mask_token")
    }
    assert both == text | image
    together = OneAfterTheOther(MODEL)
    variables = jax.eval_shape(lambda: together.init(jax.random.key(0), grid, tokens))
    assert set(variables["params"]["fusion"]) == both


def test_dropout_needs_a_key_and_vanishes_in_evaluation(make_variables, inputs):
    grid, tokens, options = inputs
    model = dataclasses.replace(MODEL, dropout_rate=0.5)
    variables = make_variables(model, grid, tokens, deterministic=True)

    @jax.jit
    def apply(key):
        rngs = {"dropout": key}
        return model.apply(variables, grid, tokens, **options, deterministic=False, rngs=rngs).cls

    first, second = apply(jax.random.key(0)), apply(jax.random.key(1))
    np.testing.assert_array_equal(apply(jax.random.key(0)), first)
    assert np.abs(first - second).max() > 0.1
    without = model.apply(variables, grid, tokens, **options, deterministic=True)
    expected = MODEL.apply(variables, grid, tokens, **options, deterministic=True)
    np.testing.assert_array_equal(without.cls, expected.cls)


def test_remat_changes_nothing(make_variables, count_remats, inputs):
    grid, tokens, options = inputs
    remat = dataclasses.replace(MODEL, remat=True)
    params = make_variables(MODEL, grid, tokens, deterministic=True)["params"]

    def loss(params, model):
        fused = model.apply({"params": params}, grid, tokens, **options, deterministic=True)
        return (fused.image**3).mean()

    assert count_remats(lambda p: loss(p, MODEL), params) == 0
    assert count_remats(lambda p: loss(p, remat), params) == MODEL.num_layers
    evaluate = jax.jit(jax.grad(loss), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        evaluate(params, MODEL),
        evaluate(params, remat),
    )


def test_bfloat16_is_close_and_keeps_parameters_in_float32(make_variables, inputs):
    grid, tokens, options = inputs
    half = dataclasses.replace(MODEL, dtype=jnp.bfloat16)
    variables = make_variables(half, grid, tokens, deterministic=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    ours = half.apply(variables, grid, tokens, **options, deterministic=True)
    expected = MODEL.apply(variables, grid, tokens, **options, deterministic=True)
    for output, reference in zip(ours, expected, strict=True):
        assert output.dtype == jnp.bfloat16
        assert 0 < np.abs(output.astype(jnp.float32) - reference).mean() < 0.02


def test_what_cannot_be_fused_is_refused(inputs):
    grid, _, options = inputs
    key, mask = jax.random.key(0), options["patch_is_masked"]
    with pytest.raises(ValueError, match="neither an image nor a text"):
        MODEL.init(key, None, None, deterministic=True)
    plain = dataclasses.replace(MODEL, masked_images=False)
    with pytest.raises(ValueError, match="masked_images=True"):
        plain.init(key, grid, None, patch_is_masked=mask, deterministic=True)


def test_positions_start_as_mae_has_them():
    positions = np.asarray(sine_positions(jax.random.key(0), (9, 8)))
    for patch, (row, column) in enumerate(np.ndindex(3, 3)):
        expected = [
            wave(place / 10_000 ** (channel / 2))
            for place in (row, column)
            for wave in (np.sin, np.cos)
            for channel in range(2)
        ]
        np.testing.assert_allclose(positions[patch], expected, atol=1e-6)
    for shape in ((8, 8), (9, 6)):
        with pytest.raises(ValueError, match="a square of patches"):
            sine_positions(jax.random.key(0), shape)
