"""Attention whose keys and values are arguments, so that they may be cached or come from an image.

Parameters are float32 whatever the compute type `dtype`; the softmax is float32 too.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from medclip_jax.models.layers import dense_init


class CachedAttention(nn.Module):
    """Multi-head attention, Vaswani et al., https://arxiv.org/abs/1706.03762, in two parts.

    Keys have no bias: it would add the same number to all logits of a query, and the softmax would
    take it away again.

    Attributes:
        dropout_rate: share of attention weights dropped in training.
    """

    hidden_size: int
    num_heads: int
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Creates the four projections."""

        def dense(use_bias: bool = True) -> nn.Dense:
            return nn.Dense(
                self.hidden_size,
                use_bias=use_bias,
                dtype=self.dtype,
                kernel_init=dense_init,
            )

        self.query, self.key, self.value = dense(), dense(use_bias=False), dense()
        self.output = dense()
        self.dropout = nn.Dropout(self.dropout_rate)

    def keys_values(
        self, x: Float[Array, "batch keys channels"]
    ) -> tuple[
        Float[Array, "batch keys heads head_channels"],
        Float[Array, "batch keys heads head_channels"],
    ]:
        """Returns the keys and the values of the tokens or image cells `x`."""
        return self._split_heads(self.key(x)), self._split_heads(self.value(x))

    def __call__(
        self,
        x: Float[Array, "batch queries channels"],
        keys: Float[Array, "batch keys heads head_channels"],
        values: Float[Array, "batch keys heads head_channels"],
        mask: Bool[Array, "#batch #queries keys"] | None = None,
        *,
        deterministic: bool,
    ) -> Float[Array, "batch queries channels"]:
        """Attends from each query to the keys where `mask` is true (all, if it is None)."""
        query = self._split_heads(self.query(x))
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, keys, preferred_element_type=jnp.float32)
        logits = logits / jnp.sqrt(jnp.float32(query.shape[-1]))
        if mask is not None:
            logits = jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min)
        weights = self.dropout(jax.nn.softmax(logits), deterministic=deterministic)
        attended = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(values.dtype), values)
        return self.output(attended.reshape(x.shape))

    def _split_heads(
        self, x: Float[Array, "batch length channels"]
    ) -> Float[Array, "batch length heads head_channels"]:
        return x.reshape(*x.shape[:-1], self.num_heads, self.hidden_size // self.num_heads)
