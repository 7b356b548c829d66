"""The pairwise sigmoid loss of SigLIP, dense or over tiles of the similarity matrix.

Every image and text is a binary decision of its own: do they belong together? No sum runs over the
batch inside the logarithm, so one pass over tiles gives the loss and its gradient together.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.losses.means import count, masked_mean
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
)


class Summary(NamedTuple):
    """The sum of softplus(logit) over all negatives, and the largest of each image and text."""

    softplus_sum: Float[Array, ""]
    image_max: Float[Array, " batch"]
    text_max: Float[Array, " batch"]


class _Images(NamedTuple):
    """Of each image, over the tiles seen so far: the sums, and the largest logit."""

    softplus: Float[Array, " batch"]
    derivative: Float[Array, " batch"]
    largest: Float[Array, " batch"]
    gradient: Float[Array, "batch dim"]


def sigmoid_contrastive(
    image_embeddings: Float[Array, "batch dim"],
    text_embeddings: Float[Array, "batch dim"],
    *,
    temperature: float | Float[Array, ""],
    bias: float | Float[Array, ""],
    group_ids: Int[Array, "batch *keys"] | None = None,
    mask: Bool[Array, " batch"] | None = None,
    tile_size: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The sigmoid loss over all pairs of the batch (SigLIP, arXiv 2303.15343, algorithm 1).

    With s_ij = cosine(image_i, text_j) / temperature + bias, and z_ij = 1 for i = j, else -1, it is

        1/N sum_ij -log(sigmoid(z_ij s_ij))

    where j runs over i itself and its negatives.

    Args:
      image_embeddings: of any length and floating type; they are normalized here, in float32.
      text_embeddings: row i is the text of image i.
      temperature: divides the cosine similarities; positive; it has a gradient (SigLIP: 0.1).
      bias: added to every logit; it has a gradient (SigLIP starts at -10, since nearly all pairs
        are negatives).
      group_ids: [N] or [N, K]. Rows that agree in any of the K columns are siblings: they are left
        out of one another's negatives, and are not counted as positives.
      mask: the rows that are a complete pair; None for all. The others are neither positives nor
        negatives: loss and gradient are those of the batch without them, and 0 if none is left.
      tile_size: None computes the [N, N] matrix at once. A number computes that many columns at a
        time: the same loss in memory linear in N.

    Returns:
      The loss, and its parts `positive_loss` and `negative_loss`, `image_to_text_accuracy`,
      `text_to_image_accuracy` (is the pair more similar than all its negatives), `temperature` and
      `bias`.

    Raises:
      ValueError: if the shapes do not fit one another, or `tile_size` is less than one.
    """
    temperature, bias = jnp.asarray(temperature, jnp.float32), jnp.asarray(bias, jnp.float32)
    images, texts = make_rows(image_embeddings, text_embeddings, group_ids, mask, 1.0 / temperature)
    tile_size = check_tile_size(tile_size, images.size)
    if tile_size is None:
        summary = _dense_summary(images, texts, bias)
    else:
        summary = _tiled_summary(images, texts, bias, tile_size)
    positive = row_products(images.embeddings, texts.embeddings) + bias
    positive_loss = masked_mean(jax.nn.softplus(-positive), mask)
    negative_loss = summary.softplus_sum / (images.size if mask is None else count(mask))
    metrics = {
        "positive_loss": positive_loss,
        "negative_loss": negative_loss,
        "temperature": temperature,
        "bias": bias,
        **accuracies(positive, summary.image_max, summary.text_max, mask),
    }
    return positive_loss + negative_loss, jax.lax.stop_gradient(metrics)


def _dense_summary(images: Rows, texts: Rows, bias: Float[Array, ""]) -> Summary:
    logits = negative_logits(images, texts, bias)
    return Summary(
        jnp.sum(jax.nn.softplus(logits)),
        jax.lax.stop_gradient(logits.max(axis=1)),
        jax.lax.stop_gradient(logits.max(axis=0)),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _tiled_summary(images: Rows, texts: Rows, bias: Float[Array, ""], tile_size: int) -> Summary:
    """`_dense_summary` over tiles of texts; XLA drops the gradient, which nothing uses here."""
    return _tiled_forward(images, texts, bias, tile_size)[0]


def _tiled_forward(
    images: Rows, texts: Rows, bias: Float[Array, ""], tile_size: int
) -> tuple[Summary, tuple[Rows, Rows, Float[Array, ""]]]:
    """The summary, and the gradient of its `softplus_sum`, from the same tiles.

    The derivative of softplus(logit) is sigmoid(logit).
    """

    def visit(carry: _Images, tile: Rows) -> tuple[_Images, tuple[Array, Array]]:
        logits = negative_logits(images, tile, bias)
        derivative = jax.nn.sigmoid(logits)
        carry = _Images(
            carry.softplus + jnp.sum(jax.nn.softplus(logits), axis=1),
            carry.derivative + jnp.sum(derivative, axis=1),
            jnp.maximum(carry.largest, logits.max(axis=1)),
            carry.gradient + matmul(derivative, tile.embeddings, (1, 0)),
        )
        return carry, (logits.max(axis=0), matmul(derivative, images.embeddings, (0, 0)))

    size = images.size
    zeros = jnp.zeros(size)
    start = _Images(zeros, zeros, jnp.full(size, MASKED), jnp.zeros_like(images.embeddings))
    total, by_text = jax.lax.scan(visit, start, tile_rows(texts, tile_size))
    text_max, text_gradient = (from_tiles(values, size) for values in by_text)
    summary = Summary(jnp.sum(total.softplus), total.largest, text_max)
    image_gradient, bias_gradient = rows_gradient(total.gradient), jnp.sum(total.derivative)
    return summary, (image_gradient, rows_gradient(text_gradient), bias_gradient)


def _tiled_backward(
    tile_size: int, gradient: tuple[Rows, Rows, Float[Array, ""]], cotangents: Summary
) -> tuple[Rows, Rows, Float[Array, ""]]:
    """The cotangents of the maxima are not used: only metrics are made of them."""
    return jax.tree.map(lambda value: value * cotangents.softplus_sum, gradient)


_tiled_summary.defvjp(_tiled_forward, _tiled_backward)
