"""Masked language modelling and patch regression against PyTorch and NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax import losses


@pytest.fixture
def tokens():
    """Logits, targets, of which a third are the likeliest, and a mask."""
    rng = np.random.default_rng(0)
    logits = (2 * rng.normal(size=(4, 9, 13))).astype(np.float32)
    targets = np.where(rng.random((4, 9)) < 0.3, logits.argmax(-1), rng.integers(13, size=(4, 9)))
    return logits, targets.astype(np.int32), rng.random((4, 9)) < 0.4


@pytest.fixture
def patches():
    """Predictions, pixels of patches that are dark and bright, flat and rough, and a mask."""
    rng = np.random.default_rng(0)
    level, contrast = rng.uniform(-2, 2, (2, 4, 6, 1))
    targets = (level + contrast * rng.normal(size=(4, 6, 16))).astype(np.float32)
    predictions = (targets + rng.normal(size=targets.shape)).astype(np.float32)
    return predictions, targets, rng.random((4, 6)) < 0.5


def token_reference(logits, targets, mask):
    logits = np.asarray(logits, np.float64)[mask]
    chosen = np.take_along_axis(logits, targets[mask][:, None], 1)[:, 0]
    return np.mean(np.log(np.exp(logits).sum(1)) - chosen)


def patch_reference(predictions, targets, mask, normalize):
    """Patch by patch, with the variance as `torch.Tensor.var` computes it."""
    total = []
    for prediction, target in zip(predictions[mask], targets[mask], strict=True):
        target = np.asarray(target, np.float64)
        if normalize:
            variance = np.sum((target - target.mean()) ** 2) / (len(target) - 1)
            target = (target - target.mean()) / (variance + 1e-6) ** 0.5
        total.append(np.mean((prediction - target) ** 2))
    return np.mean(total)


def test_language_modeling_equals_pytorch(tokens):
    torch = pytest.importorskip("torch")
    logits, targets, mask = tokens
    leaf = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        leaf.flatten(0, 1), torch.tensor(np.where(mask, targets, -100)).long().flatten()
    )
    expected.backward()
    (value, metrics), gradient = jax.value_and_grad(
        lambda x: losses.masked_language_modeling(x, targets, mask), has_aux=True
    )(logits)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-5, atol=1e-6)
    hits = (logits.argmax(-1) == targets)[mask].mean()
    assert 0.1 < hits < 0.9
    assert metrics["accuracy"] == pytest.approx(hits)


@pytest.mark.parametrize("normalize", [True, False])
def test_patch_regression_equals_the_reference(patches, normalize):
    predictions, targets, mask = patches
    loss, metrics = losses.masked_patch_regression(
        predictions, targets, mask, normalize_patches=normalize
    )
    expected = patch_reference(predictions, targets, mask, normalize)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert metrics["mean_squared_error"] == loss
    if not normalize:
        absolute = np.abs(predictions - targets)[mask].mean()
        assert metrics["mean_absolute_error"] == pytest.approx(absolute, rel=1e-5)


def test_gradients_equal_finite_differences(tokens, patches, assert_slope):
    logits, *labels = tokens
    assert_slope(
        lambda x: losses.masked_language_modeling(x, *labels)[0],
        lambda x: token_reference(x, *labels),
        logits,
    )
    predictions, *rest = patches
    for normalize in (True, False):
        assert_slope(
            lambda x, n=normalize: losses.masked_patch_regression(x, *rest, normalize_patches=n)[0],
            lambda x, n=normalize: patch_reference(x, *rest, n),
            predictions,
        )


def test_normalised_targets_know_neither_brightness_nor_contrast(patches):
    predictions, targets, mask = patches
    loss, _ = losses.masked_patch_regression(predictions, targets, mask)
    same, _ = losses.masked_patch_regression(predictions, 30.0 * targets + 5.0, mask)
    assert same == pytest.approx(float(loss), rel=1e-4)
    zeros, _ = losses.masked_patch_regression(np.zeros_like(targets), 30.0 * targets, mask)
    assert zeros == pytest.approx(15 / 16, rel=1e-4)


def test_a_patch_of_one_grey_is_all_zeros():
    flat = jnp.full((1, 2, 16), 0.7)
    loss, _ = losses.masked_patch_regression(jnp.ones_like(flat), flat, jnp.ones((1, 2), bool))
    assert loss == pytest.approx(1.0, rel=1e-3)


def assert_only_masked_counts(loss_fn, values, targets, mask, other):
    """Visible places get no gradient, and neither their predictions nor their targets matter."""
    value_and_grad = jax.value_and_grad(lambda x, targets: loss_fn(x, targets, mask)[0])
    value, gradient = value_and_grad(values, targets)
    moved, same = value_and_grad(np.where(mask[..., None], values, 7.0), other)
    assert value == moved and np.any(gradient != 0)
    np.testing.assert_array_equal(gradient, same)
    np.testing.assert_array_equal(gradient[~mask], 0.0)


def test_tokens_that_are_not_masked_do_not_count(tokens):
    _, targets, mask = tokens
    other = np.where(mask, targets, -100)
    assert_only_masked_counts(losses.masked_language_modeling, *tokens, other)


def test_patches_that_are_not_masked_do_not_count(patches):
    _, targets, mask = patches
    other = np.where(mask[..., None], targets, 9.0)
    assert_only_masked_counts(losses.masked_patch_regression, *patches, other)


def test_without_masked_tokens_or_patches_all_is_zero(tokens, patches):
    for loss_fn, (values, targets, mask) in (
        (losses.masked_language_modeling, tokens),
        (losses.masked_patch_regression, patches),
    ):
        nothing = np.zeros_like(mask)
        (loss, metrics), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            values, targets, nothing
        )
        assert loss == 0.0 and set(map(float, metrics.values())) == {0.0}
        np.testing.assert_array_equal(gradient, 0.0)


def test_wrong_shapes_are_named():
    ones, mask = jnp.ones((2, 3, 4)), jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match="predictions and targets must have one shape"):
        losses.masked_patch_regression(ones, ones[:1], mask)
    with pytest.raises(ValueError, match="two pixels or more"):
        losses.masked_patch_regression(ones[..., :1], ones[..., :1], mask)
    with pytest.raises(ValueError, match="mask must be"):
        losses.masked_patch_regression(ones, ones, mask[:1])
    with pytest.raises(ValueError, match="logits must be"):
        losses.masked_language_modeling(ones, jnp.ones((2, 4), int), mask)
