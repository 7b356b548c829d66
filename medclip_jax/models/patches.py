"""Patches: their embedding without any layer above it, and the way between pixels and patches."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from medclip_jax.models.encoding import ImageEncoding
from medclip_jax.models.pooling import pool_tokens


class PatchEmbedding(nn.Module):
    """A linear embedding of each patch, without positions.

    It is the image encoder of a model whose one transformer is over both modalities.

    Attributes:
        patch_size: pixels a side of a patch.
    """

    hidden_size: int
    patch_size: int = 16
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        train: bool,
        patch_is_masked: Bool[Array, "batch patches"] | None = None,
        num_visible: int | None = None,
        has_image: Bool[Array, " batch"] | None = None,
    ) -> ImageEncoding:
        """Embeds normalised images; height and width are multiples of the patch size.

        Args:
            image: the images.
            train: unused, as are num_visible and has_image, which other encoders need.
            patch_is_masked: true on the patches, row by row, that the output must not depend on.
                They are zero in the grid, and the features are the mean over the others.
            num_visible: unused.
            has_image: unused.
        """
        grid = nn.Conv(
            self.hidden_size,
            (self.patch_size, self.patch_size),
            strides=(self.patch_size, self.patch_size),
            padding="VALID",
            dtype=self.dtype,
            name="patch_embedding",
        )(image)
        patches = grid.reshape(grid.shape[0], -1, grid.shape[-1])
        if patch_is_masked is None:
            return ImageEncoding(pool_tokens(patches, pooling="mean"), grid)
        patches = jnp.where(patch_is_masked[:, :, None], 0, patches)
        features = pool_tokens(patches, ~patch_is_masked, pooling="mean")
        return ImageEncoding(features, patches.reshape(grid.shape))


def patchify(
    image: Float[Array, "batch height width channels"], patch_size: int
) -> Float[Array, "batch patches pixels"]:
    """Cuts images into square patches: row by row from the top left, as the pixels of a patch.

    Raises:
        ValueError: height or width is no multiple of the patch size.
    """
    batch, height, width, channels = image.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"images of {height} x {width} do not divide into patches of {patch_size}")
    cells = image.reshape(
        batch, height // patch_size, patch_size, width // patch_size, patch_size, channels
    )
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch_size**2 * channels)


def unpatchify(
    patches: Float[Array, "batch patches pixels"], rows: int, patch_size: int
) -> Float[Array, "batch height width channels"]:
    """The images whose patches these are: the inverse of `patchify`.

    Args:
        patches: as `patchify` gives them.
        rows: number of rows of patches.
        patch_size: pixels a side of a patch.

    Raises:
        ValueError: the patches do not fill the rows, or their pixels no patch of this size.
    """
    batch, num_patches, pixels = patches.shape
    if num_patches % rows or pixels % patch_size**2:
        raise ValueError(
            f"{num_patches} patches of {pixels} values do not make {rows} rows of patches "
            f"of size {patch_size}"
        )
    columns, channels = num_patches // rows, pixels // patch_size**2
    cells = patches.reshape(batch, rows, columns, patch_size, patch_size, channels)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, rows * patch_size, columns * patch_size, channels
    )


def hide_patches(
    image: Float[Array, "batch height width channels"],
    patch_is_masked: Bool[Array, "batch patches"],
) -> Float[Array, "batch height width channels"]:
    """The square images with zeros on their masked patches, which lie row by row."""
    rows = math.isqrt(patch_is_masked.shape[1])
    size = image.shape[1] // rows
    masked = patch_is_masked.reshape(-1, rows, rows, 1)
    return jnp.where(masked.repeat(size, axis=1).repeat(size, axis=2), 0, image)
