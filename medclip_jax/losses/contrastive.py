"""InfoNCE between images and texts, as in ConVIRT, dense or over tiles of the similarity matrix.

With p_i the logit of pair i and n_i the logsumexp of the logits of its negatives, the cross entropy
of row i is logsumexp(p_i, n_i) - p_i = softplus(n_i - p_i). Written so, it stays exact for pairs
that are already told apart, and all that is quadratic in the batch is in n, which
`_tiled_summary` computes in memory that is linear in the batch.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.losses.means import masked_mean
from medclip_jax.losses.pairs import (
    MASKED,
    Rows,
    accuracies,
    check_tile_size,
    from_tiles,
    make_rows,
    matmul,
    negative_logits,
    row_products,
    rows_gradient,
    tile_rows,
    to_tiles,
)


class Summary(NamedTuple):
    """The logsumexp of the negatives' logits of each image and of each text, and their maxima."""

    image_logsumexp: Float[Array, " batch"]
    text_logsumexp: Float[Array, " batch"]
    image_max: Float[Array, " batch"]
    text_max: Float[Array, " batch"]


def info_nce(
    image_embeddings: Float[Array, "batch dim"],
    text_embeddings: Float[Array, "batch dim"],
    *,
    temperature: float | Float[Array, ""],
    image_to_text_weight: float = 0.5,
    group_ids: Int[Array, "batch *keys"] | None = None,
    mask: Bool[Array, " batch"] | None = None,
    tile_size: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Bidirectional InfoNCE over the batch (ConVIRT, arXiv 2010.00747, equations 2 to 4).

    With s_ij = cosine(image_i, text_j) / temperature and w = `image_to_text_weight`, the loss is

        mean_i [ - w log(exp(s_ii) / sum_j exp(s_ij)) - (1 - w) log(exp(s_ii) / sum_j exp(s_ji)) ]

    where j runs over i itself and its negatives. A row without any negative contributes zero.

    Args:
      image_embeddings: of any length and floating type; they are normalized here, in float32.
      text_embeddings: row i is the text of image i.
      temperature: divides the cosine similarities; positive; it has a gradient.
      image_to_text_weight: ConVIRT's lambda: the weight of the image's choice among the texts.
      group_ids: [N] or [N, K]. Rows that agree in any of the K columns are siblings: they are left
        out of one another's negatives, and are not counted as positives.
      mask: the rows that are a complete pair; None for all. The others are neither positives nor
        negatives: loss and gradient are those of the batch without them, and 0 if none is left.
      tile_size: None computes the [N, N] matrix at once. A number computes that many columns at a
        time, and again for the gradient: the same loss in memory linear in N.

    Returns:
      The loss, and `image_to_text_loss`, `text_to_image_loss`, `image_to_text_accuracy`,
      `text_to_image_accuracy` (is the pair more similar than all its negatives) and `temperature`.

    Raises:
      ValueError: if the shapes do not fit one another, or `tile_size` is less than one.
    """
    temperature = jnp.asarray(temperature, jnp.float32)
    images, texts = make_rows(image_embeddings, text_embeddings, group_ids, mask, 1.0 / temperature)
    tile_size = check_tile_size(tile_size, images.size)
    if tile_size is None:
        summary = summarize(negative_logits(images, texts))
    else:
        summary = _tiled_summary(images, texts, tile_size)
    positive = row_products(images.embeddings, texts.embeddings)
    loss, metrics = cross_entropies(positive, summary, image_to_text_weight, mask)
    return loss, metrics | {"temperature": jax.lax.stop_gradient(temperature)}


def cross_entropies(
    positive: Float[Array, " batch"],
    summary: Summary,
    image_to_text_weight: float,
    mask: Bool[Array, " batch"] | None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of both directions and its metrics, from the logits of the pairs and `summary`."""
    image_to_text = masked_mean(jax.nn.softplus(summary.image_logsumexp - positive), mask)
    text_to_image = masked_mean(jax.nn.softplus(summary.text_logsumexp - positive), mask)
    loss = image_to_text_weight * image_to_text + (1.0 - image_to_text_weight) * text_to_image
    metrics = {
        "image_to_text_loss": image_to_text,
        "text_to_image_loss": text_to_image,
        **accuracies(positive, summary.image_max, summary.text_max, mask),
    }
    return loss, jax.lax.stop_gradient(metrics)


def summarize(logits: Float[Array, "images texts"]) -> Summary:
    """The summary of a whole matrix of the negatives' logits, which is MASKED elsewhere."""
    image_logsumexp, image_max = _logsumexp(logits, axis=1)
    text_logsumexp, text_max = _logsumexp(logits, axis=0)
    return Summary(image_logsumexp, text_logsumexp, image_max, text_max)


def _logsumexp(
    logits: Float[Array, "batch texts"], axis: int
) -> tuple[Float[Array, " rest"], Float[Array, " rest"]]:
    """The logsumexp over an axis, and the maximum, which is a constant to differentiation."""
    largest = jax.lax.stop_gradient(logits.max(axis=axis, keepdims=True))
    total = jnp.sum(jnp.exp(logits - largest), axis=axis)
    largest = largest.squeeze(axis)
    return largest + jnp.log(total), largest


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _tiled_summary(images: Rows, texts: Rows, tile_size: int) -> Summary:
    """`summarize` by one pass over tiles: a tile completes its texts, and updates all images.

    The sum of an image is kept relative to the largest logit seen so far (online logsumexp).
    """

    def visit(carry: tuple[Array, Array], tile: Rows) -> tuple[tuple[Array, Array], Array]:
        largest, total = carry
        logits = negative_logits(images, tile)
        image_max = jnp.maximum(largest, logits.max(axis=1))
        total *= jnp.exp(largest - image_max)
        total += jnp.sum(jnp.exp(logits - image_max[:, None]), axis=1)
        return (image_max, total), jnp.stack(_logsumexp(logits, axis=0), axis=-1)

    size = images.size
    start = (jnp.full(size, MASKED), jnp.zeros(size))
    (image_max, total), by_text = jax.lax.scan(visit, start, tile_rows(texts, tile_size))
    text_logsumexp, text_max = from_tiles(by_text, size).T
    return Summary(image_max + jnp.log(total), text_logsumexp, image_max, text_max)


def _tiled_forward(
    images: Rows, texts: Rows, tile_size: int
) -> tuple[Summary, tuple[Rows, Rows, Summary]]:
    summary = _tiled_summary(images, texts, tile_size)
    return summary, (images, texts, summary)


def _tiled_backward(
    tile_size: int, residuals: tuple[Rows, Rows, Summary], cotangents: Summary
) -> tuple[Rows, Rows]:
    """Computes each tile of logits again, for both directions at once.

    The derivative of a logsumexp by a logit is exp(logit - logsumexp). The cotangents of the maxima
    are not used: only metrics are made of them.
    """
    images, texts, summary = residuals

    def visit(gradient: Array, tile: tuple[Rows, Array, Array]) -> tuple[Array, Array]:
        rows, text_logsumexp, text_cotangent = tile
        logits = negative_logits(images, rows)
        by_image = jnp.exp(logits - summary.image_logsumexp[:, None])
        by_text = jnp.exp(logits - text_logsumexp)
        by_logit = cotangents.image_logsumexp[:, None] * by_image + text_cotangent * by_text
        gradient += matmul(by_logit, rows.embeddings, (1, 0))
        return gradient, matmul(by_logit, images.embeddings, (0, 0))

    tiles = (
        tile_rows(texts, tile_size),
        to_tiles(summary.text_logsumexp, tile_size),
        to_tiles(cotangents.text_logsumexp, tile_size),
    )
    start = jnp.zeros_like(images.embeddings)
    image_gradient, text_gradient = jax.lax.scan(visit, start, tiles)
    text_gradient = from_tiles(text_gradient, texts.size)
    return rows_gradient(image_gradient), rows_gradient(text_gradient)


_tiled_summary.defvjp(_tiled_forward, _tiled_backward)
