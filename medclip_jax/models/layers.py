"""Layers that several encoders share: multi-head attention, two-layer MLP, batch normalisation.

Parameters are float32 whatever the compute type `dtype`; the softmax of attention and the
statistics of normalisation are float32 too.
"""

import math
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

# BERT's. It is made for a width of 768 and leaves narrower networks slow to start.
transformer_init = nn.initializers.truncated_normal(stddev=0.02)
# MAE's, for layers that no published BERT weights will be read into.
dense_init = nn.initializers.xavier_uniform()

Attention = Literal["xla", "cudnn"]
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)


class MultiHeadAttention(nn.Module):
    """Self-attention, Vaswani et al., https://arxiv.org/abs/1706.03762, with biases everywhere.

    Attributes:
        dropout_rate: share of attention weights dropped in training, as in Hugging Face's BERT.
        kernel_init: initialises the four matrices.
        attention: see `attend`; where weights are dropped it is XLA's in any case.
    """

    num_heads: int
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = transformer_init
    attention: Attention = "xla"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length channels"],
        mask: Bool[Array, "batch length"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch length channels"]:
        """Attends from each token to the tokens where `mask` is true (all, if it is None)."""
        batch, length, channels = x.shape

        def project(name: str) -> Float[Array, "batch length heads head_channels"]:
            projected = nn.Dense(
                channels, dtype=self.dtype, kernel_init=self.kernel_init, name=name
            )(x)
            return projected.reshape(batch, length, self.num_heads, channels // self.num_heads)

        query, key, value = project("query"), project("key"), project("value")
        if deterministic or self.dropout_rate == 0.0:
            attended = attend(query, key, value, mask, self.attention)
        else:
            # jax.nn.dot_product_attention cannot drop weights, and cuDNN, asked for it otherwise,
            # drops the same ones at each step and in each layer: its seed is a constant.
            weights = _attention_weights(query, key, _of_keys(mask))
            weights = nn.Dropout(self.dropout_rate, deterministic=False)(weights)
            attended = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(value.dtype), value)
        attended = attended.reshape(batch, length, channels)
        return nn.Dense(channels, dtype=self.dtype, kernel_init=self.kernel_init, name="output")(
            attended
        )


def attend(
    query: Float[Array, "batch queries heads channels"],
    key: Float[Array, "batch keys heads channels"],
    value: Float[Array, "batch keys heads channels"],
    mask: Bool[Array, "batch keys"] | None,
    attention: Attention,
) -> Float[Array, "batch queries heads channels"]:
    """Attention from each query to the keys where `mask` is true (all, if it is None).

    Args:
        query: the queries.
        key: as many as there are values.
        value: what is averaged.
        mask: the output of a row without any key is finite, and has no meaning.
        attention: "xla" computes all weights at once and keeps them; "cudnn" is flash attention
            (https://arxiv.org/abs/2205.14135), whose memory is linear in the length. It needs
            tokens as `in_view_first` arranges them.
    """
    if attention == "xla" or mask is None:
        return jax.nn.dot_product_attention(
            query, key, value, mask=_of_keys(mask), implementation=attention
        )
    lengths = jnp.maximum(mask.sum(axis=1, dtype=jnp.int32), 1)
    return jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=lengths, implementation=attention
    )


def in_view_first(
    layers: Callable[[Any, Any], Any],
    x: Float[Array, "batch length channels"],
    mask: Bool[Array, "batch length"] | None,
) -> Float[Array, "batch length channels"]:
    """`layers(x, mask)`, with the tokens as cuDNN's attention needs them while the layers run.

    JAX gives cuDNN a mask as a bias, a number for each query and key, with a gradient that nobody
    reads; a number of keys costs nothing. To layers the order of tokens means nothing, so those in
    view come first. And their number is made even: others JAX 0.10 refuses in training.
    """
    length, order = x.shape[1], None
    if mask is not None:
        order = jnp.argsort(~mask, axis=1)
        x, mask = _permuted(x, order), _permuted(mask, order)
    if length % 2:
        mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
        x, mask = jnp.pad(x, ((0, 0), (0, 1), (0, 0))), jnp.pad(mask, ((0, 0), (0, 1)))
    x = layers(x, mask)[:, :length]
    return x if order is None else _permuted(x, jnp.argsort(order, axis=1))


@jax.vmap
def _permuted(x: Shaped[Array, "length ..."], order: Int[Array, " length"]) -> Any:
    # Told that no token comes twice, the gradient writes instead of adding with atomics.
    return x.at[order].get(unique_indices=True, mode="promise_in_bounds")


def _of_keys(mask: Bool[Array, "batch keys"] | None) -> Bool[Array, "batch 1 1 keys"] | None:
    """The mask, for all heads and queries."""
    return None if mask is None else mask[:, None, None, :]


def _attention_weights(
    query: Float[Array, "batch queries heads channels"],
    key: Float[Array, "batch keys heads channels"],
    mask: Bool[Array, "batch 1 1 keys"] | None,
) -> Float[Array, "batch heads queries keys"]:
    """Float32 softmax over keys of the scaled dot products; masked keys weigh nothing."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    logits = logits / jnp.sqrt(jnp.float32(query.shape[-1]))
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(logits)


class Mlp(nn.Module):
    """The transformer's feed-forward block: Dense, exact GELU, Dense back to the input's width."""

    hidden_size: int
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = transformer_init

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        """Applies the block to the last axis."""
        channels = x.shape[-1]
        x = nn.Dense(
            self.hidden_size, dtype=self.dtype, kernel_init=self.kernel_init, name="hidden"
        )(x)
        x = nn.gelu(x, approximate=False)
        return nn.Dense(channels, dtype=self.dtype, kernel_init=self.kernel_init, name="output")(x)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as in PyTorch to the letter.

    Like PyTorch, and unlike `flax.linen.BatchNorm`, the running variance takes the unbiased batch
    variance (n - 1), so that a run started from PyTorch weights keeps the same statistics. Under
    `jax.jit` the batch is the global one: statistics do not depend on the mesh.

    Attributes:
        momentum: share of the running statistics that a training step keeps (1 - PyTorch's).
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch ... channels"],
        train: bool,
        mask: Bool[Array, " batch"] | None = None,
    ) -> Float[Array, "batch ... channels"]:
        """Normalises by the batch if `train`, and updates `batch_stats`; else by `batch_stats`.

        Args:
            x: the activations.
            train: whether to use, and to remember, the statistics of the batch.
            mask: false on rows that do not enter them; None if all do. A batch without any row that
                does is normalised by `batch_stats`, which stay as they are.
        """
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        x = x.astype(jnp.float32)
        if train:
            mean, var, unbiased_var = _statistics(x, mask)
            if mask is not None:
                running = running_mean.value, running_var.value, running_var.value
                mean, var, unbiased_var = (
                    jnp.where(mask.any(), of_batch, kept)
                    for of_batch, kept in zip((mean, var, unbiased_var), running, strict=True)
                )
            if not self.is_initializing():
                # Without gradients: images with masked patches are normalised by these in the same
                # step.
                mean_now, var_now = jax.lax.stop_gradient((mean, unbiased_var))
                running_mean.value += (1 - self.momentum) * (mean_now - running_mean.value)
                running_var.value += (1 - self.momentum) * (var_now - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        x = (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return x.astype(self.dtype)


def locked_norms(frozen: Collection[str]) -> AbstractContextManager[None]:
    """While it is open, batch norms that are not trained are those of evaluation.

    They normalise by their running statistics and keep them: else a frozen network would give other
    features from step to step, which depend on the batch.

    Args:
        frozen: names of parameters ("image_encoder/stem_norm/scale"); a norm is not trained where
            all of its own are among them.
    """

    def intercept(
        next_fn: Callable[..., Any],
        arguments: Any,
        options: Any,
        context: nn.module.InterceptorContext,
    ) -> Any:
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            path = "/".join(context.module.path)
            if {f"{path}/scale", f"{path}/bias"} <= set(frozen):
                if "train" in options:
                    options = options | {"train": False}
                else:
                    arguments = (arguments[0], False, *arguments[2:])
        return next_fn(*arguments, **options)

    return nn.intercept_methods(intercept)


def _statistics(
    x: Float[Array, "batch ... channels"], mask: Bool[Array, " batch"] | None
) -> tuple[Float[Array, " channels"], Float[Array, " channels"], Float[Array, " channels"]]:
    """Mean, variance and unbiased variance of each channel over the rows where `mask` is true."""
    axes = tuple(range(x.ndim - 1))
    where = None if mask is None else mask.reshape(-1, *[1] * (x.ndim - 1))
    cells = math.prod(x.shape[1:-1])
    total = jnp.asarray(len(x) * cells if mask is None else jnp.maximum(mask.sum() * cells, 1))
    mean = jnp.sum(x, axes, where=where) / total
    var = jnp.sum(jnp.square(x - mean), axes, where=where) / total
    return mean, var, var * total / jnp.maximum(total - 1, 1)
