"""The mean over the rows, tokens or patches that count; every loss with a mask is one."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


def masked_mean(
    values: Shaped[Array, "*shape"], mask: Bool[Array, "*shape"] | None = None
) -> Float[Array, ""]:
    """The mean of the values where `mask` is true, or of all; 0 where there are none.

    Raises:
      ValueError: if the shapes differ; they are not broadcast.
    """
    if mask is None:
        return jnp.mean(values)
    if mask.shape != values.shape:
        raise ValueError(f"mask must be {list(values.shape)}, as the values: got {mask.shape}")
    return jnp.sum(jnp.where(mask, values, 0.0)) / count(mask)


def count(mask: Bool[Array, "*shape"]) -> Int[Array, ""]:
    """How many are true, but at least one, to divide by."""
    return jnp.maximum(jnp.sum(mask), 1)
