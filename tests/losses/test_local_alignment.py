"""local_alignment and word_attention against GLoRIA's sums written out in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax import losses

TEMPERATURES = {"attention_temperature": 1 / 4, "word_temperature": 1 / 5}


@pytest.fixture
def pairs():
    """Ten images of nine regions, texts of one to six words, group ids, and a mask."""
    rng = np.random.default_rng(0)
    regions = rng.normal(size=(10, 9, 5)).astype(np.float32)
    words = (0.5 * regions[:, :6] + rng.normal(size=(10, 6, 5))).astype(np.float32)
    word_mask = np.arange(6) < rng.integers(1, 7, size=(10, 1))
    groups = rng.integers(0, 8, (10, 2)).astype(np.int32)
    return regions, words, word_mask, groups, np.arange(10) % 4 != 1


def softmax(values, axis):
    return np.exp(values) / np.exp(values).sum(axis=axis, keepdims=True)


def attention_reference(regions, words):
    """As in GLoRIA's code: over the words, times 4, over the regions."""
    return softmax(4.0 * softmax(words @ regions.T, axis=0), axis=1)


def similarity_reference(regions, words):
    context = attention_reference(regions, words) @ regions
    lengths = np.linalg.norm(context, axis=1) * np.linalg.norm(words, axis=1)
    return np.log(np.sum(np.exp(5.0 * np.sum(context * words, axis=1) / lengths)))


def reference(regions, words, temperature, word_mask, groups=None):
    """Image by image and text by text, without the padding."""
    regions, words = np.asarray(regions, np.float64), np.asarray(words, np.float64)
    logits = np.array(
        [
            [
                similarity_reference(image, text[mask])
                for text, mask in zip(words, word_mask, strict=True)
            ]
            for image in regions
        ]
    )
    logits /= temperature
    siblings = np.zeros((len(regions),) * 2, bool)
    if groups is not None:
        siblings = (groups[:, None] == groups[None]).any(-1) & ~np.eye(len(regions), dtype=bool)
    exponential = np.where(siblings, 0.0, np.exp(logits))
    own = 2 * np.diag(logits)
    return np.mean(np.log(exponential.sum(1)) + np.log(exponential.sum(0)) - own) / 2


@jax.jit
def value_and_gradients(regions, words, temperature, word_mask, group_ids=None, mask=None):
    def loss(regions, words, temperature):
        return losses.local_alignment(
            regions, words, word_mask, temperature=temperature, group_ids=group_ids, mask=mask
        )

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(regions, words, temperature)


def test_attention_equals_the_reference(pairs):
    """Of one text to all images, and of each text to its own image."""
    regions, words, word_mask, _, _ = pairs
    one = losses.word_attention(regions, words[3], word_mask[3])
    each = losses.word_attention(regions, words, word_mask)
    assert one.shape == each.shape == (10, 6, 9)
    np.testing.assert_allclose(one.sum(axis=-1), 1.0, rtol=1e-5)
    for index in range(10):
        kept, own = word_mask[3], word_mask[index]
        expected = attention_reference(regions[index], words[3][kept])
        np.testing.assert_allclose(one[index][kept], expected, rtol=1e-5)
        expected = attention_reference(regions[index], words[index][own])
        np.testing.assert_allclose(each[index][own], expected, rtol=1e-5)


def test_a_word_attends_to_the_region_that_looks_like_it():
    regions = 9.0 * jnp.eye(4)[None]
    attention = losses.word_attention(
        regions, jnp.eye(4)[jnp.array([2, 0])], jnp.ones(2, bool), attention_temperature=0.1
    )
    assert attention.argmax(axis=-1).tolist() == [[2, 0]]
    assert attention.max(axis=-1).min() > 0.95


@pytest.mark.parametrize("use_groups", [False, True])
def test_value_equals_the_reference(pairs, use_groups):
    regions, words, word_mask, groups, _ = pairs
    groups = groups if use_groups else None
    (loss, metrics), _ = value_and_gradients(regions, words, 0.1, word_mask, groups)
    assert loss == pytest.approx(reference(regions, words, 0.1, word_mask, groups), rel=1e-5)
    assert metrics["temperature"] == pytest.approx(0.1)
    halves = metrics["image_to_text_loss"] + metrics["text_to_image_loss"]
    assert loss == pytest.approx(float(halves) / 2, rel=1e-6)


def test_the_defaults_are_those_of_gloria(pairs):
    regions, words, word_mask, _, _ = pairs
    loss, metrics = losses.local_alignment(regions, words, word_mask)
    other, _ = losses.local_alignment(
        regions, words, word_mask, attention_temperature=0.1, word_temperature=0.1
    )
    assert loss == pytest.approx(reference(regions, words, 0.1, word_mask), rel=1e-5)
    assert abs(loss - other) > 0.01
    assert 0.1 < metrics["image_to_text_accuracy"] < 1


def test_gradient_equals_finite_differences(pairs, assert_slope):
    regions, words, word_mask, groups, _ = pairs

    def loss(regions, words, temperature):
        return losses.local_alignment(
            regions, words, word_mask, temperature=temperature, group_ids=groups
        )[0]

    expected = functools.partial(reference, word_mask=word_mask, groups=groups)
    assert_slope(jax.jit(loss), expected, regions, words, np.float32(0.5))


def test_padding_does_not_matter(pairs):
    regions, words, word_mask, groups, _ = pairs
    value, gradients = value_and_gradients(regions, words, 0.1, word_mask, groups)
    moved = np.where(word_mask[..., None], words, 5.0)
    other, same = value_and_gradients(regions, moved, 0.1, word_mask, groups)
    jax.tree.map(np.testing.assert_array_equal, (value, gradients), (other, same))
    np.testing.assert_array_equal(gradients[1][~word_mask], 0.0)


def test_a_mask_is_the_same_as_the_rows_alone(pairs):
    """A text without words is left out like a masked row."""
    regions, words, word_mask, groups, mask = pairs
    word_mask[6] = False
    (value, metrics), gradients = value_and_gradients(regions, words, 0.1, word_mask, groups, mask)
    kept = mask & (np.arange(10) != 6)
    assert mask.sum() == kept.sum() + 1
    alone, expected = value_and_gradients(
        regions[kept], words[kept], 0.1, word_mask[kept], groups[kept]
    )
    for gradient in gradients[:2]:
        np.testing.assert_array_equal(gradient[~kept], 0.0)
    gradients = (gradients[0][kept], gradients[1][kept], gradients[2])
    same = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
    jax.tree.map(same, ((value, metrics), gradients), (alone, expected))


@pytest.mark.parametrize("rows", [0, 1])
def test_with_one_row_or_none_all_is_zero(pairs, rows):
    regions, words, word_mask, groups, _ = pairs
    regions[4] = np.nan  # What incomplete rows hold does not matter.
    word_mask[5] = False
    (value, _), gradients = value_and_gradients(
        regions, words, 0.1, word_mask, groups, np.arange(10) < rows
    )
    assert value == 0.0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)


def test_eight_devices_give_the_same_as_one(pairs, shard_rows):
    arrays = [np.resize(value, (16, *value.shape[1:])) for value in pairs]
    regions, words, word_mask, groups, mask = arrays
    groups[:, 0] = np.arange(16)
    one = value_and_gradients(regions, words, 0.1, word_mask, groups, mask)
    regions, words, *rest = (shard_rows(value) for value in arrays)
    many = value_and_gradients(regions, words, 0.1, *rest)
    same = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
    jax.tree.map(same, many, one)


def test_nothing_is_held_for_each_image_text_word_and_region():
    batch, num_regions, num_words, dim = 64, 49, 32, 16
    shapes = [(batch, num_regions, dim), (batch, num_words, dim)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    word_mask = jnp.ones((batch, num_words), bool)
    loss = jax.grad(lambda *x: losses.local_alignment(*x, word_mask)[0], argnums=(0, 1))
    memory = jax.jit(loss).lower(*arguments).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * batch**2 * num_regions * num_words / 4


def test_wrong_shapes_are_named():
    regions, words, word_mask = jnp.ones((4, 9, 8)), jnp.ones((4, 6, 8)), jnp.ones((4, 6), bool)
    for arguments in (
        (regions[:3], words, word_mask),
        (regions[..., :7], words, word_mask),
        (regions, words, word_mask[:, :5]),
    ):
        with pytest.raises(ValueError, match="regions must be"):
            losses.local_alignment(*arguments)
