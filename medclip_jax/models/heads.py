"""Projection heads from an encoder's features into the space that images and texts share."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class ProjectionHead(nn.Module):
    """The non-linear head of ConVIRT, W2 relu(W1 h), https://arxiv.org/abs/2010.00747; or W h.

    Attributes:
        size: size of the embedding.
        nonlinear: whether there is a hidden layer, as wide as the features.
        use_bias: whether the layers have a bias.
    """

    size: int
    nonlinear: bool = True
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "batch features"]) -> Float[Array, "batch size"]:
        """Projects features; the result is not normalised."""
        if self.nonlinear:
            features = nn.Dense(
                features.shape[-1], use_bias=self.use_bias, dtype=self.dtype, name="hidden"
            )(features)
            features = nn.relu(features)
        return nn.Dense(self.size, use_bias=self.use_bias, dtype=self.dtype, name="output")(
            features
        )


def normalize(
    vectors: Float[Array, "*batch channels"], epsilon: float = 1e-6
) -> Float[Array, "*batch channels"]:
    """Float32 vectors of unit length; those shorter than `epsilon` are divided by `epsilon`.

    Unlike a division by the norm, this has a finite gradient at zero.
    """
    vectors = vectors.astype(jnp.float32)
    squared_length = jnp.sum(vectors**2, axis=-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.maximum(squared_length, epsilon**2))
