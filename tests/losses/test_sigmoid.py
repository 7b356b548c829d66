"""sigmoid_contrastive against a dense NumPy reference in float64, and PyTorch's gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax import losses


def reference(image, text, temperature, bias, groups=None):
    """Algorithm 1 of SigLIP, pair by pair in float64."""
    image, text = image.astype(np.float64), text.astype(np.float64)
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            if i != j and groups is not None and np.any(groups[i] == groups[j]):
                continue
            cosine = image[i] @ text[j] / np.linalg.norm(image[i]) / np.linalg.norm(text[j])
            sign = 1.0 if i == j else -1.0
            total += np.log1p(np.exp(-sign * (cosine / temperature + bias)))
    return total / len(image)


@functools.partial(jax.jit, static_argnames="tile_size")
def value_and_gradients(image, text, temperature, bias, group_ids=None, tile_size=None, mask=None):
    def loss(image, text, temperature, bias):
        return losses.sigmoid_contrastive(
            image,
            text,
            temperature=temperature,
            bias=bias,
            group_ids=group_ids,
            mask=mask,
            tile_size=tile_size,
        )[0]

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(image, text, temperature, bias)


def assert_same(one, other, tolerance=1e-6):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), one, other
    )


@pytest.mark.parametrize("tile_size", [None, 5])
@pytest.mark.parametrize("use_groups", [False, True])
def test_value_and_parts_equal_the_reference(make_batch, tile_size, use_groups):
    image, text, groups = make_batch(23)
    groups = groups if use_groups else None
    loss, metrics = losses.sigmoid_contrastive(
        image, text, temperature=0.1, bias=-3.0, group_ids=groups, tile_size=tile_size
    )
    assert loss == pytest.approx(reference(image, text, 0.1, -3.0, groups), rel=1e-5)
    own = np.arange(23)
    unit = [value / np.linalg.norm(value, axis=1, keepdims=True) for value in (image, text)]
    logits = unit[0] @ unit[1].T / 0.1 - 3.0
    positive = np.log1p(np.exp(-np.diag(logits))).mean()
    assert metrics["positive_loss"] == pytest.approx(positive, rel=1e-5)
    assert metrics["negative_loss"] == pytest.approx(float(loss) - positive, rel=1e-4)
    if not use_groups:
        assert metrics["image_to_text_accuracy"] == pytest.approx((logits.argmax(1) == own).mean())
        assert metrics["text_to_image_accuracy"] == pytest.approx((logits.argmax(0) == own).mean())


@pytest.mark.parametrize("tile_size", [None, 8])
def test_gradients_equal_pytorch_autograd(make_batch, tile_size):
    torch = pytest.importorskip("torch")
    image, text, groups = make_batch(24)
    arguments = [
        torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for value in (image, text, 0.1, -3.0)
    ]
    unit = [torch.nn.functional.normalize(value, dim=1) for value in arguments[:2]]
    logits = unit[0] @ unit[1].T / arguments[2] + arguments[3]
    own = torch.eye(24)
    siblings = torch.tensor((groups[:, None] == groups[None]).any(axis=-1)) & (own == 0)
    each = -torch.nn.functional.logsigmoid((2 * own - 1) * logits)
    (each.masked_fill(siblings, 0.0).sum() / 24).backward()
    _, gradients = value_and_gradients(image, text, 0.1, -3.0, groups, tile_size)
    for gradient, argument in zip(gradients, arguments, strict=True):
        np.testing.assert_allclose(gradient, argument.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "tile_size"), [(1, 1), (37, 8), (64, 16), (31, 100)])
def test_tiled_equals_dense(make_batch, size, tile_size):
    image, text, groups = make_batch(size)
    for temperature in (0.02, 0.1, 1.0):
        dense = value_and_gradients(image, text, temperature, -3.0, groups)
        tiled = value_and_gradients(image, text, temperature, -3.0, groups, tile_size)
        np.testing.assert_allclose(tiled[0], dense[0], rtol=1e-6, atol=1e-6)
        # Gradients grow with 1 / temperature, so they are compared at a size of about one.
        scale = max(1.0, max(float(jnp.abs(g).max()) for g in dense[1]))
        assert_same([g / scale for g in tiled[1]], [g / scale for g in dense[1]])


@pytest.mark.parametrize("tile_size", [None, 4])
def test_without_any_negative_only_the_positives_count(make_batch, tile_size):
    image, text, _ = make_batch(9)
    same = np.zeros(9, np.int32)
    loss, gradients = value_and_gradients(image, text, 0.1, -3.0, same, tile_size)
    assert loss == pytest.approx(reference(image, text, 0.1, -3.0, same[:, None]), rel=1e-5)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@pytest.mark.parametrize("tile_size", [None, 5])
def test_a_mask_is_the_same_as_the_rows_alone(make_batch, tile_size):
    image, text, groups = make_batch(23)
    mask = np.random.default_rng(2).random(23) < 0.6
    value, gradients = value_and_gradients(image, text, 0.1, -3.0, groups, tile_size, mask)
    kept = image[mask], text[mask]
    alone, expected = value_and_gradients(*kept, 0.1, -3.0, groups[mask], tile_size)
    assert value == pytest.approx(float(alone), rel=1e-6)
    assert value == pytest.approx(reference(*kept, 0.1, -3.0, groups[mask]), rel=1e-5)
    assert_same([*(g[mask] for g in gradients[:2]), *gradients[2:]], list(expected), 2e-6)
    for gradient in gradients[:2]:
        np.testing.assert_array_equal(gradient[~mask], 0.0)
    options = {"temperature": 0.1, "bias": -3.0, "tile_size": tile_size}
    _, metrics = losses.sigmoid_contrastive(image, text, group_ids=groups, mask=mask, **options)
    _, expected = losses.sigmoid_contrastive(*kept, group_ids=groups[mask], **options)
    assert_same(metrics, expected)


@pytest.mark.parametrize("tile_size", [None, 4])
def test_without_rows_the_loss_and_its_gradient_are_zero(make_batch, tile_size):
    image, text, groups = make_batch(9)
    image[5:] = np.nan  # What incomplete rows hold does not matter.
    nothing = np.zeros(9, bool)
    loss, gradients = value_and_gradients(image, text, 0.1, -3.0, groups, tile_size, nothing)
    assert loss == 0.0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("tile_size", [None, 16, 12])
def test_eight_devices_give_the_same_as_one(make_batch, shard_rows, tile_size):
    image, text, groups = make_batch(64)
    mask = np.arange(64) % 5 != 1
    one = value_and_gradients(image, text, 0.1, -3.0, groups, tile_size, mask)
    sharded = [shard_rows(value) for value in (image, text, groups, mask)]
    many = value_and_gradients(*sharded[:2], 0.1, -3.0, sharded[2], tile_size, sharded[3])
    assert len(many[1][0].sharding.device_set) == 8
    assert_same(many, one)


def compiled(size, tile_size, gradient=True):
    shape = jax.ShapeDtypeStruct((size, 64), jnp.float32)

    def loss(image, text):
        return losses.sigmoid_contrastive(
            image, text, temperature=0.1, bias=-10.0, tile_size=tile_size
        )[0]

    function = jax.grad(loss, argnums=(0, 1)) if gradient else loss
    return jax.jit(function).lower(shape, shape).compile()


def test_tiles_need_little_memory_which_grows_linearly():
    dense, tiled, larger = (
        compiled(size, tile_size).memory_analysis().temp_size_in_bytes
        for size, tile_size in ((4096, None), (4096, 64), (8192, 64))
    )
    assert tiled < dense / 10
    assert larger < 2.2 * tiled


def test_the_loss_alone_does_not_compute_the_gradient():
    with_gradient = compiled(512, 64).cost_analysis()["flops"]
    assert compiled(512, 64, gradient=False).cost_analysis()["flops"] < with_gradient / 2
