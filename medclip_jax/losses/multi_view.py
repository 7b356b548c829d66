"""Several images and several texts of one study in one loss, as in CXR-CLIP.

A study has frontal and lateral images, or one image augmented twice; findings and impression, or
two wordings. Every image of a study belongs to each of its texts and to its other images, and every
text to the other texts.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.losses.contrastive import info_nce

_SHARED_METRICS = ("image_to_text_accuracy", "text_to_image_accuracy", "temperature")


def multi_view_contrastive(
    image_embeddings: Float[Array, "studies image_views dim"],
    text_embeddings: Float[Array, "studies text_views dim"],
    *,
    temperature: float | Float[Array, ""],
    image_weight: float = 1.0,
    text_weight: float = 0.5,
    group_ids: Int[Array, "studies *keys"] | None = None,
    mask: Bool[Array, " studies"] | None = None,
    tile_size: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Multi-view supervision, image and text contrast (CXR-CLIP, MICCAI 2023, arXiv 2310.13292).

    With L(u, v) = `info_nce` of view u with view v of all studies, both directions weighted alike,

        mean_{v, w} L(image_v, text_w) + image_weight * mean_{v < w} L(image_v, image_w)
            + text_weight * mean_{v < w} L(text_v, text_w)

    which the paper calls MVS, ICL and TCL. It has two views of each; the weights 1.0 and 0.5 are
    those of its code (configs/loss/cxr_clip.yaml). With one view of a kind there is no contrast
    among that kind.

    Args:
      image_embeddings: of any length and floating type; they are normalized here, in float32.
      text_embeddings: row i holds the texts of study i; their number may differ from the images'.
      temperature: divides the cosine similarities; positive; it has a gradient.
      image_weight: weight of the contrast of the images with one another.
      text_weight: weight of the contrast of the texts with one another.
      group_ids: [K] or [K, keys]. Studies that agree in any of the keys are siblings: they are left
        out of one another's negatives.
      mask: the studies that have all their views; None for all. The others do not count.
      tile_size: as in `info_nce`.

    Returns:
      The loss, and `image_text_loss`, `image_image_loss`, `text_text_loss`, the mean
      `image_to_text_accuracy` and `text_to_image_accuracy` of the image-text terms, and
      `temperature`.

    Raises:
      ValueError: if the shapes do not fit one another, or `tile_size` is less than one.
    """
    contrast = functools.partial(
        info_nce, temperature=temperature, group_ids=group_ids, mask=mask, tile_size=tile_size
    )
    images, texts = _views(image_embeddings), _views(text_embeddings)
    image_text = [contrast(image, text) for image, text in itertools.product(images, texts)]
    image_text_loss = _mean([loss for loss, _ in image_text])
    image_image_loss = _mean([contrast(*pair)[0] for pair in itertools.combinations(images, 2)])
    text_text_loss = _mean([contrast(*pair)[0] for pair in itertools.combinations(texts, 2)])
    metrics = {
        "image_text_loss": image_text_loss,
        "image_image_loss": image_image_loss,
        "text_text_loss": text_text_loss,
        **{name: _mean([parts[name] for _, parts in image_text]) for name in _SHARED_METRICS},
    }
    loss = image_text_loss + image_weight * image_image_loss + text_weight * text_text_loss
    return loss, jax.lax.stop_gradient(metrics)


def _views(embeddings: Float[Array, "studies views dim"]) -> list[Float[Array, "studies dim"]]:
    if embeddings.ndim != 3:
        raise ValueError(f"embeddings must be [studies, views, dim]: got {embeddings.shape}")
    return [embeddings[:, view] for view in range(embeddings.shape[1])]


def _mean(values: Sequence[Float[Array, ""]]) -> Float[Array, ""]:
    return jnp.mean(jnp.stack(values)) if values else jnp.zeros(())
