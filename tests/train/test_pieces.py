"""A batch in pieces is one big step: loss, metrics and gradients, on one device and on eight."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from support import tiny

from medclip_jax import objectives, sharding
from medclip_jax.errors import UserError
from medclip_jax.train.pieces import check_microbatch_size, loss_in_pieces

# Batch normalisation has statistics of its own in each piece: all images go through a ViT.
VIT = {"image_encoder.name": "vit", "image_encoder.pooling": "mean"}
CASES = {
    "convirt": ("convirt", VIT),
    "tiled": ("convirt", VIT | {"objectives.contrastive.tile_size": 4}),
    "matching": ("matching", VIT),
    "margin": ("matching", VIT | {"objectives.matching.kind": "margin"}),
    "radtex": ("radtex", VIT),
    "mixed": ("mixed", VIT),
    "combined": ("combined", {"objectives.masked_vision.ratios": (0.25, 0.5)}),
    "sigmoid": ("convirt", VIT | {"objectives.sigmoid_contrastive.weight": 1.0}),
    "several views": ("convirt", VIT | {"objectives.multi_view_contrastive.weight": 1.0}),
    "local": ("convirt", VIT | {"objectives.local_contrastive.weight": 1.0}),
    "soft": ("convirt", VIT | {"objectives.soft_contrastive.weight": 1.0}),
}
ROWS = 16


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


def make_loss(case: str, tokens: Any) -> tuple[Any, Any, dict, ConfigDict]:
    """(loss of variables, batch and size, variables, batch, config) of a case, without dropout."""
    name, changes = CASES[case]
    config = tiny.tiny_config(name, **changes)
    for part in ("text_encoder", "fusion", "caption_decoder"):
        config[part].dropout_rate = 0.0
    model, masks = tiny.model_and_masks(config, tokens)
    variables = tiny.variables(model, tiny.example(config, masks))
    batch = tiny.batch(tokens, ROWS)
    # No two texts are alike, so that no similarity is a tie.
    words = np.random.default_rng(0).integers(5, tokens.vocab_size, batch["token_ids"].shape)
    inner = batch["token_mask"][:, 1:-1] & batch["token_mask"][:, 2:]
    ids = jnp.where(inner, words[:, 1:-1], batch["token_ids"][:, 1:-1])
    batch["token_ids"] = batch["token_ids"].at[:, 1:-1].set(ids)
    # Rows without an image or a text lie unevenly over the pieces.
    batch["has_image"] = batch["has_image"].at[1].set(False).at[5].set(False)
    batch["has_text"] = batch["has_text"].at[3].set(False)
    batch = tiny.masked(config, masks, batch)
    keys = {"dropout": jax.random.key(2), "negatives": jax.random.key(3)}

    def loss(variables: Any, batch: Any, size: int) -> Any:
        if size < ROWS:
            pieces = variables | {"batch_stats": variables.get("batch_stats", {})}
            total, (metrics, _) = loss_in_pieces(model, pieces, batch, keys, config, size)
            return total, metrics
        outputs = model.apply(variables, batch, True, rngs=keys, mutable=["batch_stats"])[0]
        return objectives.total_loss(outputs, batch, config.objectives)

    return jax.value_and_grad(loss, has_aux=True), variables, batch, config


def assert_same(found: Any, expected: Any) -> None:
    (loss, metrics), gradients = found
    (whole_loss, whole_metrics), whole_gradients = expected
    np.testing.assert_allclose(loss, whole_loss, rtol=1e-5, atol=1e-5)
    assert metrics.keys() == whole_metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(value, whole_metrics[name], rtol=1e-5, atol=1e-5, err_msg=name)
    for path, leaf in jax.tree_util.tree_leaves_with_path(whole_gradients):
        other = gradients
        for key in path:
            other = other[key.key]
        np.testing.assert_allclose(other, leaf, rtol=1e-5, atol=1e-5, err_msg=str(path))


# What these have in them, the others have too.
ALWAYS = ("convirt", "tiled", "soft")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in ALWAYS else pytest.mark.slow) for case in CASES],
)
def test_loss_metrics_and_gradients_are_those_of_one_step(case: str, tokens: Any) -> None:
    loss, variables, batch, _ = make_loss(case, tokens)
    run = jax.jit(loss, static_argnums=2)
    assert_same(run(variables, batch, 4), run(variables, batch, ROWS))


@pytest.mark.slow
def test_pieces_lie_over_all_devices(tokens: Any) -> None:
    loss, variables, batch, config = make_loss("combined", tokens)
    run = jax.jit(loss, static_argnums=2)
    expected = run(variables, batch, ROWS)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    shardings = sharding.state_shardings(mesh, variables, 1)
    sharded = jax.device_put(variables, shardings)
    rows = jax.device_put(batch, sharding.batch_sharding(mesh))
    assert_same(run(sharded, rows, 8), expected)


def test_less_is_held_at_once(tokens: Any) -> None:
    loss, variables, batch, _ = make_loss("mixed", tokens)
    run = jax.jit(loss, static_argnums=2)
    needed = [
        run.lower(variables, batch, size).compile().memory_analysis().temp_size_in_bytes
        for size in (ROWS, 4, 1)
    ]
    assert needed[0] > 2 * needed[1] > 2 * needed[2]


@pytest.mark.parametrize(("size", "shards"), [(3, 1), (4, 8), (32, 1)])
def test_sizes_that_do_not_divide(size: int, shards: int) -> None:
    with pytest.raises(UserError, match="config.microbatch_size"):
        check_microbatch_size(size, 16, shards)


def test_sizes_that_do() -> None:
    for size in (0, -1, 8, 16):
        check_microbatch_size(size, 16, 8)
