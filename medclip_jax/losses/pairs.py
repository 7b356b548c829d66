"""What the contrastive losses share: the similarity of every image with every text of a batch.

Row i of the batch is a pair; image i and text j != i are a negative pair, unless rows i and j are
siblings (the same study, or the same sentence). The logits of the negative pairs form an [N, N]
matrix. The tiled losses never hold more than `tile_size` of its columns at a time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from medclip_jax.losses.means import masked_mean

# Stands for -inf: finite, so that a row without any negative gives a zero and not a NaN.
MASKED = -1e30


class Rows(NamedTuple):
    """Embeddings in float32 with their place in the batch and the groups that they belong to.

    A row that is not a complete pair has the batch size for its place, like padding.
    """

    embeddings: Float[Array, "rows *dim"]
    places: Int[Array, " rows"]
    groups: Int[Array, "rows keys"] | None

    @property
    def size(self) -> int:
        """The number of rows."""
        return self.places.shape[0]


def rows_gradient(embeddings: Float[Array, "rows dim"]) -> Rows:
    """The gradient by `Rows`: integers have none."""
    return Rows(embeddings, None, None)  # type: ignore[arg-type]


def make_rows(
    image_embeddings: Float[Array, "batch dim"],
    text_embeddings: Float[Array, "batch dim"],
    group_ids: Int[Array, "batch *keys"] | None,
    mask: Bool[Array, " batch"] | None,
    scale: Float[Array, ""],
) -> tuple[Rows, Rows]:
    """The images with length `scale` and the texts with length one: the logits are their products.

    Raises:
      ValueError: if the embeddings are not both [N, D], `group_ids` is not [N] or [N, K], or `mask`
        is not [N].
    """
    shape = image_embeddings.shape
    if len(shape) != 2 or text_embeddings.shape != shape:
        raise ValueError(
            f"image and text embeddings must both be [batch, dim]: got {shape} and "
            f"{text_embeddings.shape}"
        )
    places, groups = make_places(shape[0], mask), make_groups(shape[0], group_ids)
    images = with_length(keep_rows(image_embeddings, mask), scale)
    texts = with_length(keep_rows(text_embeddings, mask), 1.0)
    return Rows(images, places, groups), Rows(texts, places, groups)


def make_places(size: int, mask: Bool[Array, " batch"] | None) -> Int[Array, " batch"]:
    """The place of each row in the batch, and `size` for a row that is not a complete pair.

    Raises:
      ValueError: if `mask` is not [size].
    """
    places = jnp.arange(size)
    if mask is None:
        return places
    if mask.shape != (size,):
        raise ValueError(f"mask must be [{size}]: got {mask.shape}")
    return jnp.where(mask, places, size)


def make_groups(
    size: int, group_ids: Int[Array, "batch *keys"] | None
) -> Int[Array, "batch keys"] | None:
    """`group_ids` with an axis of keys in any case.

    Raises:
      ValueError: if they are not [size] or [size, K].
    """
    if group_ids is None:
        return None
    if group_ids.ndim not in (1, 2) or group_ids.shape[0] != size:
        raise ValueError(f"group_ids must be [{size}] or [{size}, keys]: got {group_ids.shape}")
    return jnp.reshape(group_ids, (size, -1))


def keep_rows(
    values: Shaped[Array, "batch *rest"], mask: Bool[Array, " batch"] | None
) -> Shaped[Array, "batch *rest"]:
    """The rows that count, and zeros for the others: whatever they hold, they get no gradient."""
    if mask is None:
        return values
    return jnp.where(jnp.expand_dims(mask, tuple(range(1, values.ndim))), values, 0)


def check_tile_size(tile_size: int | None, batch_size: int) -> int | None:
    """The tile size to use, at most the batch; None for the dense computation.

    Raises:
      ValueError: if it is less than one.
    """
    if tile_size is not None and tile_size < 1:
        raise ValueError(f"tile_size must be at least 1, or None for the dense loss: {tile_size}")
    return None if tile_size is None else min(tile_size, batch_size)


def with_length(
    embeddings: Float[Array, "*batch dim"], length: float | Float[Array, ""]
) -> Float[Array, "*batch dim"]:
    """The rows at the given length, in float32; a row of zeros stays so, with a zero gradient."""
    embeddings = embeddings.astype(jnp.float32)
    squared = row_products(embeddings, embeddings)
    is_zero = squared < 1e-24
    inverse = jnp.where(is_zero, 0.0, jax.lax.rsqrt(jnp.where(is_zero, 1.0, squared)))
    return embeddings * (inverse * length)[..., None]


def row_products(
    left: Float[Array, "*batch dim"], right: Float[Array, "*batch dim"]
) -> Float[Array, "*batch"]:
    """The inner product of each row of `left` with the same row of `right`."""
    return jnp.einsum("...d,...d->...", left, right, precision=jax.lax.Precision.HIGHEST)


def matmul(
    left: Float[Array, "..."], right: Float[Array, "..."], contract: tuple[int, int]
) -> Float[Array, "rows columns"]:
    """The product over one axis of each matrix, in full float32.

    Accelerators round the factors of a float32 product by default (to bfloat16 or TF32); a small
    temperature would magnify that error in the logits.
    """
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(left, right, dimensions, precision=jax.lax.Precision.HIGHEST)


def negative_mask(images: Rows, texts: Rows) -> Bool[Array, "images texts"]:
    """Which image (row) and text (column) are negatives of one another.

    Excluded are the pair itself, padding, rows that are not a complete pair, and siblings: rows
    that agree in any column of `groups`.
    """
    mask = images.places[:, None] != texts.places[None, :]
    mask &= (images.places < images.size)[:, None] & (texts.places < images.size)[None, :]
    if images.groups is not None and texts.groups is not None:
        for key in range(images.groups.shape[1]):
            mask &= images.groups[:, key, None] != texts.groups[None, :, key]
    return mask


def negative_logits(
    images: Rows, texts: Rows, bias: Float[Array, ""] | float = 0.0
) -> Float[Array, "images texts"]:
    """The logits of all negatives, and MASKED at all other places."""
    logits = matmul(images.embeddings, texts.embeddings, (1, 1)) + bias
    return jnp.where(negative_mask(images, texts), logits, MASKED)


def to_tiles(
    values: Shaped[Array, "batch *rest"], tile_size: int, fill: float = 0
) -> Shaped[Array, "num_tiles tile_size *rest"]:
    """Splits the batch into tiles, padded with `fill`; tile t holds rows t, t + num_tiles, ....

    A tile takes its rows from all over the batch so that, when the batch is sharded over devices,
    each holds an equal share of every tile, and no device ever gathers the whole batch.
    """
    num_tiles = -(-values.shape[0] // tile_size)
    padding = [(0, num_tiles * tile_size - values.shape[0])] + [(0, 0)] * (values.ndim - 1)
    padded = jnp.pad(values, padding, constant_values=fill)
    return jnp.moveaxis(padded.reshape(tile_size, num_tiles, *values.shape[1:]), 1, 0)


def from_tiles(
    tiles: Shaped[Array, "num_tiles tile_size *rest"], batch_size: int
) -> Shaped[Array, "batch *rest"]:
    """The inverse of `to_tiles`."""
    return jnp.moveaxis(tiles, 0, 1).reshape(-1, *tiles.shape[2:])[:batch_size]


def tile_rows(rows: Rows, tile_size: int) -> Rows:
    """All rows as [num_tiles, tile_size, ...]; place N marks the padding of the last tiles."""
    tiles = jax.tree.map(lambda values: to_tiles(values, tile_size), rows)
    return tiles._replace(places=to_tiles(rows.places, tile_size, fill=rows.size))


def accuracies(
    positive: Float[Array, " batch"],
    hardest_by_image: Float[Array, " batch"],
    hardest_by_text: Float[Array, " batch"],
    mask: Bool[Array, " batch"] | None,
) -> dict[str, Float[Array, ""]]:
    """The share of rows whose own pair is more similar than each negative; a tie is a miss."""
    return {
        "image_to_text_accuracy": masked_mean(positive > hardest_by_image, mask),
        "text_to_image_accuracy": masked_mean(positive > hardest_by_text, mask),
    }
