"""The check that nothing is made of values that are not finite."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.finite import require_finite


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_finite_values_of_any_type_pass(dtype: str) -> None:
    require_finite(jnp.ones((3, 2), dtype), "values")
    require_finite(np.zeros((0, 4)), "values", [])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_bad_row_is_named(value: float, dtype: str) -> None:
    values = np.ones((4, 2, 2), jnp.dtype(dtype))
    values[1, 0, 1] = values[3, 1, 1] = value
    for rows, name in (
        ([Path("a.png"), Path("b.png"), Path("c.png"), Path("d.png")], "'b.png'"),
        (["one", "two", "three", "four"], "'two'"),
        (range(4), "at position 1"),
        ([b"1", b"2", b"3", b"4"], "at position 1"),
    ):
        expected = f"the embeddings are not finite for 2 of 4, the first {name}: the weights"
        with pytest.raises(UserError, match=expected) as caught:
            require_finite(values, "embeddings", rows)
        assert "\n" not in str(caught.value)
