"""masked_mean and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.losses.means import count, masked_mean


def test_it_is_the_mean_of_what_counts():
    values, mask = jnp.array([[1.0, 5.0], [9.0, 3.0]]), jnp.array([[True, False], [False, True]])
    assert masked_mean(values, mask) == 2.0
    assert masked_mean(values) == 4.5
    assert masked_mean(jnp.array([True, True, False]), jnp.array([True, False, True])) == 0.5


def test_nothing_that_counts_gives_zero_and_no_gradient():
    nothing = jnp.zeros(3, bool)
    value, gradient = jax.value_and_grad(masked_mean)(jnp.array([1.0, np.nan, 2.0]), nothing)
    assert value == 0.0 and count(nothing) == 1
    np.testing.assert_array_equal(gradient, 0.0)


def test_a_mask_is_not_broadcast():
    with pytest.raises(ValueError, match=r"mask must be \[2, 3\]"):
        masked_mean(jnp.ones((2, 3)), jnp.ones(3, bool))
