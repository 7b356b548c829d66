"""info_nce against a dense NumPy reference in float64, and against PyTorch's gradients."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax import losses


def reference(image, text, temperature, weight=0.5, groups=None):
    """ConVIRT's equations 2 to 4, row by row in float64."""
    image, text = image.astype(np.float64), text.astype(np.float64)
    image = image / np.linalg.norm(image, axis=1, keepdims=True)
    text = text / np.linalg.norm(text, axis=1, keepdims=True)
    logits = image @ text.T / temperature
    total = {"image": 0.0, "text": 0.0}
    for i in range(len(image)):
        allowed = [
            j
            for j in range(len(image))
            if j == i or groups is None or not np.any(groups[i] == groups[j])
        ]
        total["image"] -= np.log(np.exp(logits[i, i]) / np.exp(logits[i, allowed]).sum())
        total["text"] -= np.log(np.exp(logits[i, i]) / np.exp(logits[allowed, i]).sum())
    return (weight * total["image"] + (1 - weight) * total["text"]) / len(image)


@functools.partial(jax.jit, static_argnames=("tile_size", "image_to_text_weight"))
def value_and_gradients(image, text, temperature, group_ids=None, mask=None, **options):
    def loss(image, text, temperature):
        return losses.info_nce(
            image, text, temperature=temperature, group_ids=group_ids, mask=mask, **options
        )[0]

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(image, text, temperature)


def assert_same(one, other, tolerance=1e-6):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), one, other
    )


@pytest.mark.parametrize("tile_size", [None, 5])
@pytest.mark.parametrize("weight", [0.5, 0.75])
@pytest.mark.parametrize("use_groups", [False, True])
def test_value_equals_the_reference(make_batch, tile_size, weight, use_groups):
    image, text, groups = make_batch(23)
    groups = groups if use_groups else None
    loss, _ = losses.info_nce(
        image,
        text,
        temperature=0.1,
        image_to_text_weight=weight,
        group_ids=groups,
        tile_size=tile_size,
    )
    assert loss == pytest.approx(reference(image, text, 0.1, weight, groups), rel=1e-5)


@pytest.mark.parametrize("tile_size", [None, 8])
def test_gradients_equal_pytorch_autograd(make_batch, tile_size):
    torch = pytest.importorskip("torch")
    image, text, groups = make_batch(24)
    arguments = [
        torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (image, text, 0.1)
    ]
    unit = [torch.nn.functional.normalize(value, dim=1) for value in arguments[:2]]
    logits = unit[0] @ unit[1].T / arguments[2]
    siblings = torch.tensor(
        (groups[:, None] == groups[None]).any(axis=-1) & ~np.eye(24, dtype=bool)
    )
    logits = logits.masked_fill(siblings, -torch.inf)
    target = torch.arange(24)
    by_image = torch.nn.functional.cross_entropy(logits, target)
    by_text = torch.nn.functional.cross_entropy(logits.T, target)
    (0.75 * by_image + 0.25 * by_text).backward()
    _, gradients = value_and_gradients(
        image, text, 0.1, group_ids=groups, image_to_text_weight=0.75, tile_size=tile_size
    )
    for gradient, argument in zip(gradients, arguments, strict=True):
        np.testing.assert_allclose(gradient, argument.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tile_size", [None, 3])
def test_gradient_equals_finite_differences(make_batch, tile_size):
    image, text, groups = make_batch(10)
    rng = np.random.default_rng(1)
    direction = [rng.normal(size=image.shape), rng.normal(size=text.shape), 0.05]

    def along(step):
        moved = [v + step * d for v, d in zip((image, text, 0.2), direction, strict=True)]
        return reference(*moved, groups=groups)

    expected = (along(1e-5) - along(-1e-5)) / 2e-5
    _, gradients = value_and_gradients(image, text, 0.2, group_ids=groups, tile_size=tile_size)
    slope = sum(np.sum(np.asarray(g) * d) for g, d in zip(gradients, direction, strict=True))
    assert slope == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("size", "tile_size"), [(1, 1), (37, 8), (64, 16), (31, 100)])
def test_tiled_equals_dense(make_batch, size, tile_size):
    image, text, groups = make_batch(size)
    for temperature in (0.01, 0.1, 1.0):
        dense = value_and_gradients(image, text, temperature, group_ids=groups)
        tiled = value_and_gradients(image, text, temperature, group_ids=groups, tile_size=tile_size)
        np.testing.assert_allclose(tiled[0], dense[0], rtol=1e-6, atol=1e-6)
        # Gradients grow with 1 / temperature, so they are compared at a size of about one.
        scale = max(1.0, max(float(jnp.abs(g).max()) for g in dense[1]))
        assert_same([g / scale for g in tiled[1]], [g / scale for g in dense[1]])


@pytest.mark.parametrize("tile_size", [None, 4])
def test_metrics_equal_the_reference(make_batch, tile_size):
    image, text, groups = make_batch(30, dim=4)
    _, metrics = losses.info_nce(
        image, text, temperature=0.1, group_ids=groups, tile_size=tile_size
    )
    cosine = (image / np.linalg.norm(image, axis=1, keepdims=True)) @ (
        text / np.linalg.norm(text, axis=1, keepdims=True)
    ).T
    siblings = (groups[:, None] == groups[None]).any(axis=-1)
    np.fill_diagonal(siblings, False)
    cosine = np.where(siblings, -np.inf, cosine)
    hits = np.arange(30)
    by_image, by_text = (cosine.argmax(1) == hits).mean(), (cosine.argmax(0) == hits).mean()
    assert 0.1 < by_image < 0.9 and by_image != by_text
    assert metrics["image_to_text_accuracy"] == pytest.approx(by_image)
    assert metrics["text_to_image_accuracy"] == pytest.approx(by_text)
    assert metrics["temperature"] == pytest.approx(0.1)
    expected = reference(image, text, 0.1, weight=1.0, groups=groups)
    assert metrics["image_to_text_loss"] == pytest.approx(expected, rel=1e-5)


def test_weight_one_is_the_choice_of_a_text_for_each_image():
    """Two images close to the first text: image 1 finds its text, text 0 finds a wrong image."""
    image = jnp.array([[1.0, 0.2], [1.0, 0.1]])
    text = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    logits = np.array([[1.0, 0.2], [1.0, 0.1]]) / np.hypot(1, [[0.2], [0.1]]) / 0.5
    rows = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(0)) - np.diag(logits)
    for weight, expected in ((1.0, rows.mean()), (0.0, columns.mean())):
        loss, metrics = losses.info_nce(image, text, temperature=0.5, image_to_text_weight=weight)
        assert loss == pytest.approx(expected, rel=1e-5)
    assert metrics["image_to_text_loss"] == pytest.approx(rows.mean(), rel=1e-5)
    assert abs(rows.mean() - columns.mean()) > 0.1


@pytest.mark.parametrize("tile_size", [None, 2])
def test_siblings_are_left_out_and_not_counted_as_positives(make_batch, tile_size):
    """Rows 0 and 1 share a study, rows 1 and 2 a sentence: only 0 and 2 are negatives."""
    image, text, _ = make_batch(3)
    groups = np.array([[7, 1], [7, 2], [8, 2]])
    unit = [value / np.linalg.norm(value, axis=1, keepdims=True) for value in (image, text)]
    logits = unit[0] @ unit[1].T / 0.2
    differences = [logits[0, 2] - logits[0, 0], logits[2, 0] - logits[2, 2]]
    expected = np.log1p(np.exp(differences)).sum() / 3
    options = {"group_ids": groups, "image_to_text_weight": 1.0, "tile_size": tile_size}
    loss, gradients = value_and_gradients(image, text, 0.2, **options)
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(gradients[0][1], 0.0)
    np.testing.assert_array_equal(gradients[1][1], 0.0)


def test_one_column_of_groups_may_be_flat(make_batch):
    image, text, groups = make_batch(12, num_keys=1)
    flat, _ = losses.info_nce(image, text, temperature=0.1, group_ids=groups[:, 0])
    column, _ = losses.info_nce(image, text, temperature=0.1, group_ids=groups)
    assert float(flat) == float(column)
    assert flat == pytest.approx(reference(image, text, 0.1, groups=groups), rel=1e-5)


@pytest.mark.parametrize("tile_size", [None, 4])
def test_without_any_negative_the_loss_and_its_gradient_are_zero(make_batch, tile_size):
    image, text, _ = make_batch(9)
    same = np.zeros(9, np.int32)
    loss, gradients = value_and_gradients(image, text, 0.05, group_ids=same, tile_size=tile_size)
    assert loss == 0.0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("tile_size", [None, 5])
def test_a_mask_is_the_same_as_the_rows_alone(make_batch, tile_size):
    image, text, groups = make_batch(23)
    mask = np.random.default_rng(2).random(23) < 0.6
    options = {"image_to_text_weight": 0.75, "tile_size": tile_size}
    value, gradients = value_and_gradients(image, text, 0.1, groups, mask, **options)
    alone, expected = value_and_gradients(image[mask], text[mask], 0.1, groups[mask], **options)
    assert value == pytest.approx(float(alone), rel=1e-6)
    assert value == pytest.approx(reference(image[mask], text[mask], 0.1, 0.75, groups[mask]))
    assert_same([gradients[0][mask], gradients[1][mask], gradients[2]], list(expected), 2e-6)
    for gradient in gradients[:2]:
        np.testing.assert_array_equal(gradient[~mask], 0.0)


@pytest.mark.parametrize("tile_size", [None, 4])
def test_metrics_are_those_of_the_rows_that_count(make_batch, tile_size):
    image, text, groups = make_batch(30, dim=4)
    mask = np.arange(30) % 3 != 0
    options = {"temperature": 0.1, "tile_size": tile_size}
    _, metrics = losses.info_nce(image, text, group_ids=groups, mask=mask, **options)
    _, expected = losses.info_nce(image[mask], text[mask], group_ids=groups[mask], **options)
    assert 0.1 < expected["image_to_text_accuracy"] < 0.9
    assert_same(metrics, expected)


@pytest.mark.parametrize("tile_size", [None, 4])
@pytest.mark.parametrize("rows", [0, 1])
def test_with_one_row_or_none_the_loss_and_its_gradient_are_zero(make_batch, tile_size, rows):
    image, text, groups = make_batch(9)
    image[5:] = np.nan  # What incomplete rows hold does not matter.
    mask = np.arange(9) < rows
    loss, gradients = value_and_gradients(image, text, 0.05, groups, mask, tile_size=tile_size)
    assert loss == 0.0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("tile_size", [None, 4])
def test_rows_of_zeros_and_tiny_temperatures_stay_finite(make_batch, tile_size):
    image, text, _ = make_batch(9)
    image[3] = 0.0
    loss, gradients = value_and_gradients(image, text, 1e-3, tile_size=tile_size)
    assert all(np.all(np.isfinite(value)) for value in (loss, *gradients))
    np.testing.assert_array_equal(gradients[0][3], 0.0)
    assert np.any(gradients[0][2] != 0.0)


@pytest.mark.parametrize("tile_size", [None, 6])
def test_a_tie_is_not_a_hit(tile_size):
    collapsed = jnp.ones((12, 8))
    _, metrics = losses.info_nce(collapsed, collapsed, temperature=0.1, tile_size=tile_size)
    assert metrics["image_to_text_accuracy"] == 0.0
    assert metrics["text_to_image_accuracy"] == 0.0


@pytest.mark.parametrize("tile_size", [None, 4])
def test_bfloat16_embeddings_are_computed_in_float32(make_batch, tile_size):
    image, text, groups = make_batch(16)
    image, text = jnp.asarray(image, jnp.bfloat16), jnp.asarray(text, jnp.bfloat16)
    loss, gradients = value_and_gradients(image, text, 0.05, group_ids=groups, tile_size=tile_size)
    assert loss.dtype == jnp.float32 and gradients[0].dtype == jnp.bfloat16
    exact = reference(
        np.asarray(image, np.float64), np.asarray(text, np.float64), 0.05, 0.5, groups
    )
    assert loss == pytest.approx(exact, rel=1e-5)


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
@hypothesis.given(seed=st.integers(0, 2**31), tile_size=st.sampled_from([None, 5]))
def test_permuting_the_batch_permutes_the_gradients(seed, tile_size):
    rng = np.random.default_rng(seed)
    image, text = rng.normal(size=(2, 12, 6)).astype(np.float32)
    groups = rng.integers(0, 6, size=12)
    order = rng.permutation(12)
    loss, gradients = value_and_gradients(image, text, 0.2, group_ids=groups, tile_size=tile_size)
    permuted, moved = value_and_gradients(
        image[order], text[order], 0.2, group_ids=groups[order], tile_size=tile_size
    )
    assert_same(permuted, loss)
    assert_same(moved[:2], tuple(gradient[order] for gradient in gradients[:2]))


@pytest.mark.parametrize("tile_size", [None, 16, 12])
def test_eight_devices_give_the_same_as_one(make_batch, shard_rows, tile_size):
    image, text, groups = make_batch(64)
    mask = np.arange(64) % 5 != 1
    options = {"image_to_text_weight": 0.75, "tile_size": tile_size}
    one = value_and_gradients(image, text, 0.1, groups, mask, **options)
    sharded = [shard_rows(value) for value in (image, text, groups, mask)]
    many = value_and_gradients(*sharded[:2], 0.1, *sharded[2:], **options)
    assert len(many[1][0].sharding.device_set) == 8
    assert_same(many, one)


def temporary_bytes(size, tile_size):
    shape = jax.ShapeDtypeStruct((size, 64), jnp.float32)

    def loss(image, text):
        return losses.info_nce(image, text, temperature=0.1, tile_size=tile_size)[0]

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(shape, shape).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_tiles_need_little_memory_which_grows_linearly():
    assert temporary_bytes(2048, 64) < temporary_bytes(2048, None) / 10
    assert temporary_bytes(4096, 64) < 2.2 * temporary_bytes(2048, 64)


@pytest.mark.parametrize(
    ("image_shape", "text_shape", "options", "message"),
    [
        ((4, 8), (5, 8), {}, "image and text embeddings must both be"),
        ((4,), (4,), {}, "image and text embeddings must both be"),
        ((4, 8), (4, 8), {"group_ids": np.zeros(3, np.int32)}, "group_ids must be"),
        ((4, 8), (4, 8), {"mask": np.ones(3, bool)}, r"mask must be \[4\]"),
        ((4, 8), (4, 8), {"tile_size": 0}, "tile_size must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(image_shape, text_shape, options, message):
    with pytest.raises(ValueError, match=message):
        losses.info_nce(jnp.ones(image_shape), jnp.ones(text_shape), temperature=0.1, **options)
