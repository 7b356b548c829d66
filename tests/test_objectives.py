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


@pytest.fixture
def whole() -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Outputs of every part for eight rows, of which one lacks its image and one its text."""
    keys = iter(jax.random.split(jax.random.key(1), 20))
    normal = lambda *shape: jax.random.normal(next(keys), shape)  # noqa: E731
    outputs = {
        "image_embeddings": normal(8, 4),
        "text_embeddings": normal(8, 4),
        "temperature": jnp.float32(0.2),
        "image_regions": normal(8, 9, 4),
        "word_embeddings": normal(8, 6, 4),
        "match_logits": normal(16),
        "match_similarities": jnp.tanh(normal(16)),
        "is_match": jnp.arange(16) < 8,
        "match_mask": jnp.arange(16) % 5 != 0,
        "caption_logits": normal(8, 5, 11),
        "backward_caption_logits": normal(8, 5, 11),
        "token_logits": normal(8, 6, 11),
        "patch_predictions": normal(8, 9, 16),
    }
    lengths = jnp.array([6, 5, 4, 3, 6, 5, 2, 4])
    batch = {
        "image": normal(8, 12, 12, 1),
        "token_ids": jax.random.randint(next(keys), (8, 6), 0, 11),
        "token_mask": jnp.arange(6) < lengths[:, None],
        "group_ids": jnp.array([[i // 2, 10 + i] for i in range(8)]),
        "has_image": jnp.arange(8) != 2,
        "has_text": jnp.arange(8) != 5,
        "labels": jnp.array([[i % 2, i // 4, jnp.nan] for i in range(8)]),
        "token_is_masked": normal(8, 6) > 0,
        "patch_is_masked": normal(8, 9) > 0,
    }
    return outputs, batch


def test_each_objective_calls_its_loss_on_the_rows_that_it_can_use(whole: tuple) -> None:
    outputs, batch = whole
    image, text = outputs["image_embeddings"], outputs["text_embeddings"]
    pairs = np.array([True, True, False, True, True, False, True, True])
    ids, mask = np.asarray(batch["token_ids"]), np.asarray(batch["token_mask"])
    words, backward = np.zeros_like(mask), ids.copy()
    for row, length in enumerate(mask.sum(axis=1)):
        words[row, 1 : length - 1] = True  # without the first and the last token
        backward[row, 1 : length - 1] = ids[row, 1 : length - 1][::-1]
    caption = mask[:, 1:] & pairs[:, None]
    patches = np.asarray(batch["image"]).reshape(8, 3, 4, 3, 4).swapaxes(2, 3).reshape(8, 9, 16)
    common = {"temperature": 0.2, "group_ids": batch["group_ids"], "mask": jnp.asarray(pairs)}
    expected = {
        "contrastive": losses.info_nce(image, text, **common)[0],
        "soft_contrastive": losses.soft_target_contrastive(
            image,
            text,
            temperature=0.2,
            image_labels=batch["labels"],
            text_labels=batch["labels"],
            image_mask=batch["has_image"],
            text_mask=batch["has_text"],
        )[0],
        "multi_view_contrastive": losses.multi_view_contrastive(
            image.reshape(4, 2, 4),
            text.reshape(4, 2, 4),
            temperature=0.2,
            group_ids=batch["group_ids"][::2],
            mask=jnp.array([True, False, False, True]),
        )[0],
        "local_contrastive": losses.local_alignment(
            outputs["image_regions"],
            outputs["word_embeddings"],
            jnp.asarray(words),
            group_ids=batch["group_ids"],
            mask=jnp.asarray(pairs),
        )[0],
        "matching": losses.matching(
            outputs["match_logits"], outputs["is_match"], mask=outputs["match_mask"]
        )[0],
        "captioning": losses.captioning(
            outputs["caption_logits"], jnp.asarray(ids[:, 1:]), jnp.asarray(caption)
        )[0]
        + losses.captioning(
            outputs["backward_caption_logits"], jnp.asarray(backward[:, 1:]), jnp.asarray(caption)
        )[0],
        "masked_language": losses.masked_language_modeling(
            outputs["token_logits"],
            batch["token_ids"],
            batch["token_is_masked"] & batch["has_text"][:, None],
        )[0],
        "masked_vision": losses.masked_patch_regression(
            outputs["patch_predictions"],
            jnp.asarray(patches),
            batch["patch_is_masked"] & batch["has_image"][:, None],
            normalize_patches=False,
        )[0],
    }
    assert set(expected) | {"sigmoid_contrastive"} == set(objectives.OBJECTIVES)
    for name, loss in expected.items():
        total, metrics = objectives.total_loss(outputs, batch, options(**{name: 1.0}))
        np.testing.assert_allclose(total, loss, rtol=1e-6, err_msg=name)
        assert metrics[f"{name}/loss"] == total and np.isfinite(total)


def test_captions_do_not_end_nor_begin_where_a_text_was_cut(whole: tuple) -> None:
    outputs, batch = whole
    ids, mask = np.asarray(batch["token_ids"]), np.asarray(batch["token_mask"])
    is_cut = np.array([True, False, True, False, True, False, False, False])
    pairs = np.asarray(batch["has_image"] & batch["has_text"])
    losses_of = {"caption_logits": [], "backward_caption_logits": []}
    for row in np.flatnonzero(pairs):
        length = mask[row].sum()
        forward = ids[row, :length].tolist()
        backward = [forward[0], *forward[-2:0:-1], forward[-1]]
        for name, text in (("caption_logits", forward), ("backward_caption_logits", backward)):
            targets = list(enumerate(text[1:]))
            if is_cut[row]:
                targets = targets[:-1] if text is forward else targets[1:]
            logits = np.asarray(outputs[name], np.float64)[row]
            log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            losses_of[name] += [-log_p[place, target] for place, target in targets]
    expected = sum(np.mean(values) for values in losses_of.values())
    batch = batch | {"text_is_cut": jnp.asarray(is_cut)}
    total, _ = objectives.total_loss(outputs, batch, options(captioning=1.0))
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    count_fn = objectives.OBJECTIVES["captioning"].count_fn
    assert {len(values) for values in losses_of.values()} == {int(count_fn(batch))}


def test_matching_may_be_by_distance_and_captioning_forward_only(whole: tuple) -> None:
    outputs, batch = whole
    config = options(matching=1.0)
    config.matching.update(kind="margin", margin=0.7)
    expected = losses.margin_matching(
        outputs["match_similarities"], outputs["is_match"], margin=0.7, mask=outputs["match_mask"]
    )[0]
    assert float(objectives.total_loss(outputs, batch, config)[0]) == pytest.approx(float(expected))
    config = options(captioning=1.0)
    both = objectives.total_loss(outputs, batch, config)[0]
    config.captioning.backward = False
    assert objectives.total_loss(outputs, batch, config)[0] < both
