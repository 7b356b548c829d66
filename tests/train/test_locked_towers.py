"""A tower that is frozen is locked: neither its parameters nor its statistics move."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.models.layers import locked_norms
from medclip_jax.train import optimizer as optimizers


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokens"))


@pytest.mark.parametrize(
    ("pattern", "microbatch_size", "remat"),
    [
        ("^image_encoder/", 0, False),
        pytest.param("^image_encoder/", 4, True, marks=pytest.mark.slow),
        (r"^image_encoder/(stem|stage[12])", 4, False),
    ],
)
def test_neither_parameters_nor_statistics_of_what_is_frozen_move(
    pattern: str, microbatch_size: int, remat: bool, tokens: Tokenizer
) -> None:
    changes = {"optimizer.frozen": (pattern,), "image_encoder.remat": remat, "batch_size": 8}
    config = tiny.tiny_config("convirt", microbatch_size=microbatch_size, **changes)
    state, step = tiny.start(config, tokens)
    after = state
    for seed in range(3):
        after, metrics = step(after, tiny.batch(tokens, seed=seed))
    assert np.isfinite(float(metrics["loss"]))
    for collection in ("params", "batch_stats"):
        before, now = (
            optimizers.flatten_params(getattr(one, collection)) for one in (state, after)
        )
        moved = {name for name in before if not np.array_equal(before[name], now[name])}
        assert moved == {name for name in before if not re.search(pattern, name)}, collection


def test_features_of_a_locked_tower_do_not_depend_on_the_batch(tokens: Tokenizer) -> None:
    config = tiny.tiny_config("convirt")
    model, masks = tiny.model_and_masks(config, tokens)
    variables: Any = tiny.variables(model, tiny.example(config, masks))
    images = tiny.masked(config, masks, tiny.batch(tokens))["image"]
    frozen = {f"image_encoder/{name}" for name in flat_names(variables["params"]["image_encoder"])}

    def features(images: jax.Array, train: bool) -> jax.Array:
        with locked_norms(frozen):
            outputs: Any = model.apply(
                variables, images, train, method="encode_image", mutable=["batch_stats"]
            )
        return outputs[0]["image_features"]

    expected = features(images, False)
    np.testing.assert_array_equal(features(images, True), expected)
    others = jnp.concatenate([images[:2], 2 * images[2:]])
    np.testing.assert_allclose(features(others, True)[:2], expected[:2], atol=1e-6)


def flat_names(params: Any) -> list[str]:
    return list(optimizers.flatten_params(params))
