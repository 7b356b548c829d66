"""matching and margin_matching against PyTorch and a NumPy reference in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax import losses


@pytest.fixture
def pairs():
    """Logits, cosine similarities of real unit vectors, which are matches, and a mask."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 40, 4))
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    similarities = np.sum(image * text, axis=1).astype(np.float32)
    logits = rng.normal(size=40).astype(np.float32) * 3
    return logits, similarities, rng.random(40) < 0.4, rng.random(40) < 0.7


def binary_cross_entropy(logits, is_match):
    probability = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    return -np.mean(np.log(np.where(is_match, probability, 1 - probability)))


def hadsell(similarities, is_match, margin):
    distances = np.sqrt(2 - 2 * np.asarray(similarities, np.float64))
    pushed = np.maximum(0, margin - distances) ** 2
    return np.mean(is_match * distances**2 + (1 - is_match) * pushed)


def test_matching_equals_pytorch(pairs):
    torch = pytest.importorskip("torch")
    logits, _, is_match, _ = pairs
    leaf = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        leaf, torch.tensor(is_match, dtype=torch.float32)
    )
    expected.backward()
    value, gradient = jax.value_and_grad(lambda x: losses.matching(x, is_match)[0])(logits)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_matching_stays_exact_for_sure_logits():
    """1 - sigmoid(200) is 0 in float32; the loss of a wrong pair is not infinite but 200."""
    is_match = jnp.array([False, True])
    value, gradient = jax.value_and_grad(lambda x: losses.matching(x, is_match)[0])(
        jnp.array([200.0, -200.0])
    )
    assert value == 200.0
    np.testing.assert_allclose(gradient, [0.5, -0.5])


def test_margin_matching_equals_the_reference(pairs):
    _, similarities, is_match, _ = pairs
    for margin in (0.5, 1.5):
        loss, _ = losses.margin_matching(similarities, is_match, margin=margin)
        assert loss == pytest.approx(hadsell(similarities, is_match, margin), rel=1e-5)
    assert hadsell(similarities, is_match, 1.5) > hadsell(similarities, is_match, 0.5) + 0.01


def test_gradients_equal_finite_differences(pairs, assert_slope):
    logits, similarities, is_match, _ = pairs
    assert_slope(
        lambda x: losses.matching(x, is_match)[0],
        lambda x: binary_cross_entropy(x, is_match),
        logits,
    )
    assert_slope(
        lambda x: losses.margin_matching(x, is_match, margin=1.5)[0],
        lambda x: hadsell(x, is_match, 1.5),
        similarities,
    )


def test_the_gradient_at_the_closest_and_the_farthest_is_finite():
    """The distance has an infinite slope at cosine 1, and rounding may take the cosine past it."""
    similarities = jnp.array([1.0, 1.0, 1.0000001, 1.0000001, -1.0, -1.0])
    is_match = jnp.array([True, False] * 3)
    value, gradient = jax.value_and_grad(lambda x: losses.margin_matching(x, is_match)[0])(
        similarities
    )
    assert value == pytest.approx((2 * 0.5**2 + 4) / 6)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(gradient[4:], [-2 / 6, 0.0])


def test_accuracies_are_of_all_of_the_matches_and_of_the_rest():
    logits = jnp.array([1.0, 2.0, -1.0, -2.0, -3.0, 0.5])
    is_match = jnp.array([True, True, True, False, False, False])
    _, metrics = losses.matching(logits, is_match)
    expected = {"accuracy": 4 / 6, "positive_accuracy": 2 / 3, "negative_accuracy": 2 / 3}
    assert metrics == pytest.approx(expected)
    # Of the distances 0.2, 0.3 and 0.6 only the first is below half the margin.
    similarities = 1 - jnp.array([0.2, 0.3, 0.6]) ** 2 / 2
    _, metrics = losses.margin_matching(similarities, jnp.array([True, True, False]), margin=0.5)
    expected = {"accuracy": 2 / 3, "positive_accuracy": 0.5, "negative_accuracy": 1.0}
    assert metrics == pytest.approx(expected)


@pytest.mark.parametrize("loss_fn", [losses.matching, losses.margin_matching])
def test_a_mask_is_the_same_as_the_rows_alone(pairs, loss_fn):
    logits, similarities, is_match, mask = pairs
    values = logits if loss_fn is losses.matching else similarities
    masked, metrics = loss_fn(values, is_match, mask=mask)
    alone, expected = loss_fn(values[mask], is_match[mask])
    assert masked == pytest.approx(float(alone), rel=1e-6)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-6)
    gradient = jax.grad(lambda x: loss_fn(x, is_match, mask=mask)[0])(values)
    expected = jax.grad(lambda x: loss_fn(x, is_match[mask])[0])(values[mask])
    np.testing.assert_allclose(gradient[mask], expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(gradient[~mask], 0.0)


@pytest.mark.parametrize("loss_fn", [losses.matching, losses.margin_matching])
def test_without_rows_all_is_zero(loss_fn):
    values, is_match, nothing = jnp.ones(4), jnp.array([True, False] * 2), jnp.zeros(4, bool)
    loss, metrics = loss_fn(values, is_match, mask=nothing)
    assert loss == 0.0 and set(map(float, metrics.values())) == {0.0}
    gradient = jax.grad(lambda x: loss_fn(x, is_match, mask=nothing)[0])(values)
    np.testing.assert_array_equal(gradient, 0.0)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="for each pair"):
        losses.matching(jnp.ones(4), jnp.ones((4, 1), bool))
    with pytest.raises(ValueError, match="margin must be positive"):
        losses.margin_matching(jnp.ones(4), jnp.ones(4, bool), margin=0.0)
