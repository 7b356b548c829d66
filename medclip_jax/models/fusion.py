"""One transformer over the tokens of an image and of a text.

It stands above two encoders, or, above mere patch and word embeddings, is the only transformer, as
in Wang et al., https://arxiv.org/abs/2103.16022. Over the visible patches of an encoder it is the
decoder of MAE, He et al., https://arxiv.org/abs/2111.06377.
"""

import math
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from medclip_jax.models.layers import Attention, dense_init, transformer_init
from medclip_jax.models.scan import RematPolicy, apply_layers
from medclip_jax.models.vit import PreNormLayer


def sine_positions(
    key: PRNGKeyArray, shape: tuple[int, int], dtype: DTypeLike = jnp.float32
) -> Float[Array, "patches channels"]:
    """The sines and cosines of rows and columns that MAE (arXiv 2111.06377) adds to its patches.

    Here they are where learning starts. Small random numbers would leave patches without a place
    for the first hundreds of steps.

    Args:
        key: unused; initialisers have it.
        shape: (patches, channels); the patches of a square image, a multiple of four channels.
        dtype: of the result.
    """
    patches, channels = shape
    rows = math.isqrt(patches)
    if rows**2 != patches or channels % 4:
        raise ValueError(f"a square of patches and channels in fours are needed: got {shape}")
    frequencies = 10_000.0 ** (-jnp.arange(channels // 4) / (channels // 4))
    angles = jnp.arange(rows)[:, None] * frequencies
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
    half = channels // 2
    down = jnp.broadcast_to(waves[:, None], (rows, rows, half))
    right = jnp.broadcast_to(waves[None], (rows, rows, half))
    return jnp.concatenate([down, right], axis=-1).reshape(patches, channels).astype(dtype)


class Fused(NamedTuple):
    """The outputs of the transformer.

    Attributes:
        cls: the class token, which stands for all that is in view.
        image: the patches, None without an image; of no meaning where the image is not in view.
        text: the tokens, None without a text; of no meaning on padding and where the text is not in
            view.
    """

    cls: Float[Array, "batch hidden"]
    image: Float[Array, "batch patches hidden"] | None
    text: Float[Array, "batch length hidden"] | None


class FusionTransformer(nn.Module):
    """A pre-norm transformer over a class token, image tokens and text tokens.

    A modality has parameters only if the module is initialised with it.

    Attributes:
        dropout_rate: of the attention weights and of each block's output.
        masked_images: whether there is a token that stands for masked patches.
        epsilon: of the layer norms.
        remat: recompute each layer in the backward pass instead of storing its activations.
        remat_policy: what is stored even so, see `scan.REMAT_POLICIES`.
        scan_layers: compile one layer for all, see `scan.apply_layers`.
        attention: see `layers.attend`.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    dropout_rate: float = 0.0
    masked_images: bool = False
    epsilon: float = 1e-6
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    remat_policy: RematPolicy = "nothing"
    scan_layers: bool = False
    attention: Attention = "xla"

    @nn.compact
    def __call__(
        self,
        image_grid: Float[Array, "batch patches image_channels"] | None,
        text_tokens: Float[Array, "batch length text_channels"] | None,
        *,
        token_mask: Bool[Array, "batch length"] | None = None,
        image_in_view: Bool[Array, " batch"] | None = None,
        text_in_view: Bool[Array, " batch"] | None = None,
        patch_is_masked: Bool[Array, "batch patches"] | None = None,
        deterministic: bool,
    ) -> Fused:
        """Fuses the modalities that are given and in view.

        Args:
            image_grid: one vector a patch, of any width; always of the same number of patches.
            text_tokens: one vector a token, of any width, which knows its position.
            token_mask: false on padding, to which no token attends; None if there is none.
            image_in_view: false where no token may attend to the image; None if it is in view
                everywhere.
            text_in_view: the same for the text.
            patch_is_masked: true on patches that the mask token replaces; their vectors have no
                influence on any output.
            deterministic: no dropout; else the "dropout" key is needed.

        Raises:
            ValueError: there is a mask of patches, but no mask token; or no modality at all.
        """
        parts, masks = [], []
        if image_grid is not None:
            parts.append(self._embed_image(image_grid, patch_is_masked))
            masks.append(_in_view(jnp.ones(image_grid.shape[:2], bool), image_in_view))
        if text_tokens is not None:
            parts.append(self._embed_text(text_tokens))
            present = jnp.ones(text_tokens.shape[:2], bool) if token_mask is None else token_mask
            masks.append(_in_view(present, text_in_view))
        if not parts:
            raise ValueError("there is neither an image nor a text to fuse")
        x, mask = self._with_class_token(parts, masks)
        layer = partial(
            PreNormLayer,
            self.num_heads,
            self.epsilon,
            self.dtype,
            self.dropout_rate,
            self.attention,
        )
        x = apply_layers(self, layer, x, mask, deterministic)
        x = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)
        num_patches = 0 if image_grid is None else image_grid.shape[1]
        return Fused(
            cls=x[:, 0],
            image=None if image_grid is None else x[:, 1 : 1 + num_patches],
            text=None if text_tokens is None else x[:, 1 + num_patches :],
        )

    def _embed_image(
        self,
        image_grid: Float[Array, "batch patches image_channels"],
        patch_is_masked: Bool[Array, "batch patches"] | None,
    ) -> Float[Array, "batch patches hidden"]:
        x = self._project(image_grid, "image_input")
        if self.masked_images:
            mask_token = self._vector("image_mask_token")
            if patch_is_masked is not None:
                x = jnp.where(patch_is_masked[:, :, None], mask_token, x)
        elif patch_is_masked is not None:
            raise ValueError("patches are masked: make the transformer with masked_images=True")
        positions = self.param("image_positions", sine_positions, x.shape[1:])
        return x + positions.astype(self.dtype) + self._vector("image_modality")

    def _embed_text(
        self, text_tokens: Float[Array, "batch length text_channels"]
    ) -> Float[Array, "batch length hidden"]:
        return self._project(text_tokens, "text_input") + self._vector("text_modality")

    def _with_class_token(
        self,
        parts: list[Float[Array, "batch _ hidden"]],
        masks: list[Bool[Array, "batch _"]],
    ) -> tuple[Float[Array, "batch length hidden"], Bool[Array, "batch length"]]:
        """All tokens behind the class token, and their mask."""
        batch = parts[0].shape[0]
        cls_tokens = jnp.broadcast_to(self._vector("cls_token"), (batch, 1, self.hidden_size))
        always = jnp.ones((batch, 1), bool)
        return jnp.concatenate([cls_tokens, *parts], 1), jnp.concatenate([always, *masks], 1)

    def _project(
        self, tokens: Float[Array, "batch _ channels"], name: str
    ) -> Float[Array, "batch _ hidden"]:
        # Without a bias: the embedding of the modality is one.
        return nn.Dense(
            self.hidden_size,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=dense_init,
            name=name,
        )(tokens)

    def _vector(self, name: str) -> Float[Array, "1 1 hidden"]:
        vector = self.param(name, transformer_init, (1, 1, self.hidden_size))
        return vector.astype(self.dtype)


def _in_view(
    present: Bool[Array, "batch length"], in_view: Bool[Array, " batch"] | None
) -> Bool[Array, "batch length"]:
    return present if in_view is None else present & in_view[:, None]
