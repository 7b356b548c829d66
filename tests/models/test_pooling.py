"""Pooling against NumPy, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.models.pooling import POOLINGS, pool_tokens

TOKENS = np.random.default_rng(0).standard_normal((4, 7, 5)).astype(np.float32) - 3
MASK = np.arange(7) < np.array([[7], [4], [1], [0]])
NUMPY = {"max": lambda t: t.max(axis=0), "mean": lambda t: t.mean(axis=0), "cls": lambda t: t[0]}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_equals_numpy_over_the_real_tokens(pooling):
    pooled = pool_tokens(TOKENS, MASK, pooling=pooling)
    for tokens, mask, vector in zip(TOKENS[:3], MASK[:3], pooled[:3], strict=True):
        np.testing.assert_allclose(vector, NUMPY[pooling](tokens[mask]), rtol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_without_mask_pools_over_all(pooling):
    expected = np.stack([NUMPY[pooling](tokens) for tokens in TOKENS])
    np.testing.assert_allclose(pool_tokens(TOKENS, pooling=pooling), expected, rtol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("padding", [1e9, np.nan])
def test_padding_has_no_influence(pooling, padding):
    padded = np.where(MASK[:, :, None], TOKENS, np.float32(padding))
    expected = pool_tokens(TOKENS, MASK, pooling=pooling)
    # The last example has no token at all.
    np.testing.assert_array_equal(pool_tokens(padded, MASK, pooling=pooling)[:3], expected[:3])


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_no_token_pools_to_zero_with_finite_gradient(pooling):
    np.testing.assert_array_equal(pool_tokens(TOKENS, MASK, pooling=pooling)[3], np.zeros(5))
    gradient = jax.grad(lambda t: pool_tokens(t, MASK, pooling=pooling).sum())(TOKENS)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~MASK], 0)


def test_bfloat16_is_pooled_in_float32():
    tokens = jnp.asarray(TOKENS, jnp.bfloat16)
    pooled = pool_tokens(tokens, pooling="mean")
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, np.asarray(tokens, np.float32).mean(axis=1), rtol=1e-6)
