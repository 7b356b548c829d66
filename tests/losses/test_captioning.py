"""captioning, and the cross entropy that it shares with masked modelling, against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax import losses


@pytest.fixture
def tokens():
    """Logits, targets and a mask of which some places are false."""
    rng = np.random.default_rng(0)
    logits = (3 * rng.normal(size=(3, 7, 11))).astype(np.float32)
    targets = np.where(rng.random((3, 7)) < 0.4, logits.argmax(-1), rng.integers(11, size=(3, 7)))
    return logits, targets.astype(np.int32), rng.random((3, 7)) < 0.6


def reference(logits, targets, mask, smoothing):
    """With the smoothed one-hot targets written out."""
    logits = np.asarray(logits, np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    smoothed = (1 - smoothing) * np.eye(logits.shape[-1])[targets] + smoothing / logits.shape[-1]
    return -np.sum(smoothed * log_probabilities, axis=-1)[mask].mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_value_and_gradient_equal_pytorch(tokens, smoothing):
    torch = pytest.importorskip("torch")
    logits, targets, mask = tokens
    leaf = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, ignore_index=-100)(
        leaf.flatten(0, 1), torch.tensor(np.where(mask, targets, -100)).long().flatten()
    )
    expected.backward()
    value, gradient = jax.value_and_grad(
        lambda x: losses.captioning(x, targets, mask, label_smoothing=smoothing)[0]
    )(logits)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_gradient_equals_finite_differences(tokens, assert_slope):
    logits, targets, mask = tokens
    assert_slope(
        lambda x: losses.captioning(x, targets, mask, label_smoothing=0.2)[0],
        lambda x: reference(x, targets, mask, 0.2),
        logits,
    )


def test_metrics_are_without_smoothing(tokens):
    logits, targets, mask = tokens
    loss, metrics = losses.captioning(logits, targets, mask, label_smoothing=0.3)
    assert loss == pytest.approx(reference(logits, targets, mask, 0.3), rel=1e-5)
    plain = reference(logits, targets, mask, 0.0)
    assert abs(plain - loss) > 0.1
    assert metrics["cross_entropy"] == pytest.approx(plain, rel=1e-5)
    hits = (logits.argmax(-1) == targets)[mask].mean()
    assert 0.1 < hits < 0.9
    assert metrics["accuracy"] == pytest.approx(hits)


def test_what_is_masked_does_not_count(tokens):
    """Whatever stands at the places that do not count, as targets outside the vocabulary."""
    logits, targets, mask = tokens
    other = np.where(mask, targets, -100)
    value_and_grad = jax.value_and_grad(
        lambda x, targets: losses.captioning(x, targets, mask, label_smoothing=0.1)[0]
    )
    value, gradient = value_and_grad(logits, targets)
    moved, same = value_and_grad(np.where(mask[..., None], logits, 50.0), other)
    assert value == moved
    np.testing.assert_array_equal(gradient, same)
    np.testing.assert_array_equal(gradient[~mask], 0.0)


def test_a_target_outside_the_vocabulary_is_not_hidden(tokens):
    logits, targets, mask = tokens
    loss, _ = losses.captioning(logits, np.where(mask, 11, targets), mask)
    assert np.isnan(loss)


def test_without_tokens_all_is_zero(tokens):
    logits, targets, _ = tokens
    nothing = np.zeros(targets.shape, bool)
    loss, metrics = losses.captioning(logits, targets, nothing)
    assert loss == 0.0 and set(map(float, metrics.values())) == {0.0}
    gradient = jax.grad(lambda x: losses.captioning(x, targets, nothing)[0])(logits)
    np.testing.assert_array_equal(gradient, 0.0)


def test_bfloat16_logits_are_computed_in_float32(tokens):
    logits, targets, mask = tokens
    logits = jnp.asarray(logits, jnp.bfloat16)
    loss, _ = losses.captioning(logits, targets, mask, label_smoothing=0.1)
    assert loss.dtype == jnp.float32
    exact = reference(np.asarray(logits, np.float64), targets, mask, 0.1)
    assert loss == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_out_of_its_range_is_named(tokens, smoothing):
    with pytest.raises(ValueError, match="label_smoothing must be"):
        losses.captioning(*tokens, label_smoothing=smoothing)


def test_wrong_shapes_are_named(tokens):
    logits, targets, mask = tokens
    with pytest.raises(ValueError, match="logits must be"):
        losses.captioning(logits[:, :-1], targets, mask)
    with pytest.raises(ValueError, match="mask must be"):
        losses.captioning(logits, targets, mask[:1])
