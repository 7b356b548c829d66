"""Objectives: weighted, named, and checked before anything is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from medclip_jax import losses, objectives
from medclip_jax.config import base_config
from medclip_jax.errors import UserError


def options(**weights: float) -> ConfigDict:
    config = base_config().objectives
    for name in config:
        config[name].weight = weights.get(name, 0.0)
    return config


@pytest.fixture
def outputs() -> dict[str, jax.Array]:
    image, text = jax.random.normal(jax.random.key(0), (2, 6, 4))
    return {
        "image_embeddings": image,
        "text_embeddings": text,
        "temperature": jnp.float32(0.2),
        "bias": jnp.float32(-3.0),
    }


BATCH = {
    "group_ids": jnp.array([0, 1, 2, 3, 3, 4]),
    "has_image": jnp.ones(6, bool),
    "has_text": jnp.ones(6, bool),
}


def test_the_total_is_the_weighted_sum_of_the_losses(outputs: dict) -> None:
    config = options(contrastive=0.7, sigmoid_contrastive=2.0)
    config.contrastive.image_to_text_weight = 0.75
    total, metrics = objectives.total_loss(outputs, BATCH, config)
    image, text = outputs["image_embeddings"], outputs["text_embeddings"]
    first, _ = losses.info_nce(
        image, text, temperature=0.2, image_to_text_weight=0.75, group_ids=BATCH["group_ids"]
    )
    second, _ = losses.sigmoid_contrastive(
        image, text, temperature=0.2, bias=-3.0, group_ids=BATCH["group_ids"]
    )
    np.testing.assert_allclose(total, 0.7 * first + 2.0 * second, rtol=1e-6)
    np.testing.assert_allclose(metrics["contrastive/loss"], first, rtol=1e-6)
    np.testing.assert_allclose(metrics["sigmoid_contrastive/loss"], second, rtol=1e-6)
    assert metrics["loss"] == total


def test_an_objective_without_weight_is_not_computed(outputs: dict) -> None:
    del outputs["bias"]
    _, metrics = objectives.total_loss(outputs, BATCH, options(contrastive=1.0))
    assert not any(name.startswith("sigmoid") for name in metrics)


@pytest.mark.parametrize("missing", ["bias", "text_embeddings"])
def test_a_missing_output_is_named(outputs: dict, missing: str) -> None:
    del outputs[missing]
    with pytest.raises(UserError, match=f"model output '{missing}'"):
        objectives.check_inputs(options(sigmoid_contrastive=1.0), tuple(outputs), tuple(BATCH))


def test_a_missing_batch_array_is_named(outputs: dict) -> None:
    with pytest.raises(UserError, match="batch array 'group_ids'"):
        objectives.check_inputs(options(contrastive=1.0), tuple(outputs), ())


def test_wrong_weights() -> None:
    with pytest.raises(UserError, match="every weight is 0"):
        objectives.active(options())
    with pytest.raises(UserError, match="negative"):
        objectives.active(options(contrastive=-1.0))


def test_every_objective_has_options_in_the_base_config() -> None:
    assert set(base_config().objectives) == set(objectives.OBJECTIVES)
