"""Pooling of token or patch vectors into one vector: by maximum, mean, or the first token."""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Pooling = Literal["max", "mean", "cls"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def pool_tokens(
    tokens: Float[Array, "batch length channels"],
    mask: Bool[Array, "batch length"] | None = None,
    *,
    pooling: Pooling,
) -> Float[Array, "batch channels"]:
    """One float32 vector an example.

    Args:
        tokens: vectors of any float type.
        mask: true on the tokens to pool over; all, if it is None.
        pooling: "max" and "mean" over the tokens, or "cls", the first token. "max" and "mean" of an
            example without any token are zero.
    """
    tokens = tokens.astype(jnp.float32)
    if pooling == "cls":
        return tokens[:, 0]
    if mask is None:
        return tokens.max(axis=1) if pooling == "max" else tokens.mean(axis=1)
    if pooling == "max":
        maximum = jnp.where(mask[:, :, None], tokens, -jnp.inf).max(axis=1)
        return jnp.where(mask.any(axis=1, keepdims=True), maximum, 0.0)
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    return jnp.where(mask[:, :, None], tokens, 0.0).sum(axis=1) / count
