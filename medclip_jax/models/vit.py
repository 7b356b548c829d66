"""The vision transformer, Dosovitskiy et al., https://arxiv.org/abs/2010.11929.

The architecture is that of timm and Hugging Face (pre-norm, exact GELU, class token, learned
positions, a final norm before pooling), so that weights map one to one.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.models.encoding import ImageEncoding
from medclip_jax.models.layers import (
    Attention,
    Mlp,
    MultiHeadAttention,
    dense_init,
    transformer_init,
)
from medclip_jax.models.pooling import Pooling, pool_tokens
from medclip_jax.models.scan import RematPolicy, apply_layers


class VisionTransformer(nn.Module):
    """A vision transformer for the one image size that it was initialised with.

    Attributes:
        pooling: the features are the class token ("cls"), or the "mean" or "max" of the patches.
        epsilon: of the layer norms; 1e-6 in timm, 1e-12 in Hugging Face.
        remat: recompute each layer in the backward pass instead of storing its activations.
        remat_policy: what is stored even so, see `scan.REMAT_POLICIES`.
        scan_layers: compile one layer for all, see `scan.apply_layers`.
        attention: see `layers.attend`.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    patch_size: int = 16
    pooling: Pooling = "cls"
    epsilon: float = 1e-6
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    remat_policy: RematPolicy = "nothing"
    scan_layers: bool = False
    attention: Attention = "xla"

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        train: bool,
        patch_is_masked: Bool[Array, "batch patches"] | None = None,
        num_visible: int | None = None,
        has_image: Bool[Array, " batch"] | None = None,
    ) -> ImageEncoding:
        """Encodes normalised images; height and width are multiples of the patch size.

        Args:
            image: the images.
            train: changes nothing: like the originals, the network has no dropout.
            patch_is_masked: true on the patches, row by row, that the output must not depend on, as
                in MAE's encoder, https://arxiv.org/abs/2111.06377. They are zero in the grid, and
                the features pool over the others.
            num_visible: the number of visible patches if it is the same in each image. The layers
                then run on these alone: the same output, in less time. Without it they run on all,
                and no token attends to a masked one.
            has_image: changes nothing; a ResNet has it.

        Raises:
            ValueError: `num_visible` is given without a mask.
        """
        x, rows = self._embed(image)
        if patch_is_masked is None:
            if num_visible is not None:
                raise ValueError("num_visible says how many patches a mask leaves: give the mask")
            x = self._transform(x, None)
        else:
            # The class token is always visible.
            is_visible = jnp.pad(~patch_is_masked, ((0, 0), (1, 0)), constant_values=True)
            if num_visible is None:
                x = jnp.where(is_visible[:, :, None], self._transform(x, is_visible), 0)
            else:
                places = jnp.argsort(~is_visible, axis=1)[:, : 1 + num_visible]
                visible = jnp.take_along_axis(x, places[:, :, None], axis=1)
                x = _put_tokens(self._transform(visible, None), places, x.shape[1])
        patches = x[:, 1:]
        features = pool_tokens(
            x if self.pooling == "cls" else patches,
            None if patch_is_masked is None else ~patch_is_masked,
            pooling=self.pooling,
        )
        return ImageEncoding(features, patches.reshape(len(x), rows, -1, self.hidden_size))

    def _embed(
        self, image: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch length channels"], int]:
        """The class token and the patches, with their positions, and the rows of patches."""
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
        return x + positions.astype(self.dtype), rows

    def _transform(
        self,
        x: Float[Array, "batch length channels"],
        mask: Bool[Array, "batch length"] | None,
    ) -> Float[Array, "batch length channels"]:
        """The layers and the last norm."""
        layer = partial(
            PreNormLayer, self.num_heads, self.epsilon, self.dtype, attention=self.attention
        )
        x = apply_layers(self, layer, x, mask, deterministic=True)
        return nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)


def _put_tokens(
    tokens: Float[Array, "batch visible channels"],
    places: Int[Array, "batch visible"],
    length: int,
) -> Float[Array, "batch length channels"]:
    """The tokens at their places among zeros."""

    def put(
        tokens: Float[Array, "visible channels"], places: Int[Array, " visible"]
    ) -> Float[Array, "length channels"]:
        return jnp.zeros((length, tokens.shape[-1]), tokens.dtype).at[places].set(tokens)

    return jax.vmap(put)(tokens, places)


class PreNormLayer(nn.Module):
    """One pre-norm transformer layer, with dropout as in BERT if there is any.

    Attributes:
        dropout_rate: of the attention weights and of both blocks' outputs.
        attention: see `layers.attend`.
    """

    num_heads: int
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32
    dropout_rate: float = 0.0
    attention: Attention = "xla"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length channels"],
        mask: Bool[Array, "batch length"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch length channels"]:
        """Applies attention, then the MLP (four times as wide), each added to its input.

        No token attends to those where `mask` is false.
        """
        dropout = nn.Dropout(self.dropout_rate, deterministic=deterministic)
        y = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="attention_norm")(x)
        y = MultiHeadAttention(
            self.num_heads,
            self.dropout_rate,
            self.dtype,
            dense_init,
            self.attention,
            name="attention",
        )(y, mask, deterministic)
        x = x + dropout(y)
        y = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="mlp_norm")(x)
        return x + dropout(Mlp(4 * x.shape[-1], self.dtype, dense_init, name="mlp")(y))
