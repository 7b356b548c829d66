"""Projection heads and normalisation against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.models.heads import ProjectionHead, normalize

FEATURES = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)


def test_nonlinear_head_is_convirts(make_variables):
    head = ProjectionHead(size=4)
    params = make_variables(head, FEATURES)["params"]
    hidden, output = params["hidden"], params["output"]
    assert hidden["kernel"].shape == (6, 6)
    expected = np.maximum(FEATURES @ hidden["kernel"] + hidden["bias"], 0)
    expected = expected @ output["kernel"] + output["bias"]
    np.testing.assert_allclose(head.apply({"params": params}, FEATURES), expected, atol=1e-6)


def test_linear_head_without_bias_is_one_matrix(make_variables):
    head = ProjectionHead(size=4, nonlinear=False, use_bias=False)
    params = make_variables(head, FEATURES)["params"]
    assert jax.tree.map(np.shape, params) == {"output": {"kernel": (6, 4)}}
    expected = FEATURES @ params["output"]["kernel"]
    np.testing.assert_allclose(head.apply({"params": params}, FEATURES), expected, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_normalize_gives_unit_length(scale):
    lengths = np.linalg.norm(normalize(scale * FEATURES), axis=-1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_normalize_has_the_gradient_of_the_quotient():
    direction = np.arange(6, dtype=np.float32)
    gradient = jax.grad(lambda v: normalize(v) @ direction)(FEATURES[0])
    length = np.linalg.norm(FEATURES[0])
    unit = FEATURES[0] / length
    np.testing.assert_allclose(
        gradient, (direction - unit * (unit @ direction)) / length, atol=1e-5
    )


def test_normalize_is_finite_at_zero():
    value, gradient = jax.value_and_grad(lambda v: normalize(v).sum())(jnp.zeros(6))
    assert float(value) == 0
    assert np.isfinite(gradient).all()


def test_normalize_returns_float32_from_bfloat16():
    normalized = normalize(jnp.asarray(FEATURES, jnp.bfloat16))
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(normalized, axis=-1), 1, atol=1e-6)
