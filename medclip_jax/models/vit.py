"""The vision transformer, Dosovitskiy et al., https://arxiv.org/abs/2010.11929.

The architecture is that of timm and Hugging Face (pre-norm, exact GELU, class token, learned
positions, a final norm before pooling), so that weights map one to one.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medclip_jax.models.encoding import ImageEncoding
from medclip_jax.models.layers import Mlp, MultiHeadAttention, transformer_init
from medclip_jax.models.pooling import Pooling, pool_tokens


class VisionTransformer(nn.Module):
    """A vision transformer for the one image size that it was initialised with.

    Attributes:
        pooling: the features are the class token ("cls"), or the "mean" or "max" of the patches.
        epsilon: of the layer norms; 1e-6 in timm, 1e-12 in Hugging Face.
        remat: recompute each layer in the backward pass instead of storing its activations.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    patch_size: int = 16
    pooling: Pooling = "cls"
    epsilon: float = 1e-6
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width channels"], train: bool
    ) -> ImageEncoding:
        """Encodes normalised images; height and width are multiples of the patch size.

        `train` changes nothing: like the originals, the network has no dropout.
        """
        x = nn.Conv(
            self.hidden_size,
            (self.patch_size, self.patch_size),
            strides=(self.patch_size, self.patch_size),
            padding="VALID",
            dtype=self.dtype,
            name="patch_embedding",
        )(image)
        batch, rows, columns, channels = x.shape
        cls_init = nn.initializers.normal(1e-6)
        cls_token = self.param("cls_token", cls_init, (1, 1, channels))
        cls_tokens = jnp.broadcast_to(cls_token, (batch, 1, channels)).astype(self.dtype)
        x = jnp.concatenate([cls_tokens, x.reshape(batch, rows * columns, channels)], axis=1)
        positions = self.param("position_embedding", transformer_init, (1, *x.shape[1:]))
        x = x + positions.astype(self.dtype)
        layer = nn.remat(VisionLayer) if self.remat else VisionLayer
        for index in range(self.num_layers):
            x = layer(self.num_heads, self.epsilon, self.dtype, name=f"layer_{index}")(x)
        x = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)
        patches = x[:, 1:]
        features = pool_tokens(x if self.pooling == "cls" else patches, pooling=self.pooling)
        return ImageEncoding(features, patches.reshape(batch, rows, columns, channels))


class VisionLayer(nn.Module):
    """One pre-norm transformer layer."""

    num_heads: int
    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length channels"]
    ) -> Float[Array, "batch length channels"]:
        """Applies attention, then the MLP (four times as wide), each added to its input."""
        y = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="attention_norm")(x)
        x = x + MultiHeadAttention(self.num_heads, dtype=self.dtype, name="attention")(y)
        y = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="mlp_norm")(x)
        return x + Mlp(4 * x.shape[-1], dtype=self.dtype, name="mlp")(y)
