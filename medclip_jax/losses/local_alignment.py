"""Words to image regions: where in the image is what a word speaks of, and GLoRIA's loss on it.

Each word of a text attends to the regions of an image; an image and a text are similar if the words
are close to what they attend to. One text is compared with all images at a time, so that nothing
with an entry for each image, text, word and region is ever held.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.losses.contrastive import cross_entropies, summarize
from medclip_jax.losses.pairs import (
    MASKED,
    Rows,
    keep_rows,
    make_groups,
    make_places,
    negative_mask,
    row_products,
    with_length,
)


def local_alignment(
    regions: Float[Array, "batch regions dim"],
    words: Float[Array, "batch words dim"],
    word_mask: Bool[Array, "batch words"],
    *,
    attention_temperature: float = 1 / 4,
    word_temperature: float = 1 / 5,
    temperature: float | Float[Array, ""] = 1 / 10,
    group_ids: Int[Array, "batch *keys"] | None = None,
    mask: Bool[Array, " batch"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The local contrastive loss of GLoRIA (Huang et al., ICCV 2021).

    With a_lr the attention of word w_l to region v_r (`word_attention`) and c_l = sum_r a_lr v_r,
    the similarity of an image with a text is

        Z = log sum_l exp(cosine(c_l, w_l) / word_temperature)

    and the loss is InfoNCE over the batch with the logits Z / temperature, both directions weighted
    alike. The three temperatures divide, as everywhere here; GLoRIA's code multiplies by 4, 5 and
    10, which are the defaults, and adds up the two directions.

    Args:
      regions: of row i, of any floating type; computed in float32.
      words: of the text of image i.
      word_mask: the words that are none of the padding. A text without words is left out.
      attention_temperature: the lower, the fewer regions a word attends to.
      word_temperature: the lower, the more the best word of a text decides for all of them.
      temperature: divides the similarities; positive; it has a gradient.
      group_ids: [N] or [N, K]. Rows that agree in any of the K columns are siblings: they are left
        out of one another's negatives, and are not counted as positives.
      mask: the rows that are a complete pair; None for all. The others are neither positives nor
        negatives: loss and gradient are those of the batch without them, and 0 if none is left.

    Returns:
      The loss, and `image_to_text_loss`, `text_to_image_loss`, `image_to_text_accuracy`,
      `text_to_image_accuracy` (is the pair more similar than all its negatives) and `temperature`.

    Raises:
      ValueError: if the shapes do not fit one another.
    """
    size = regions.shape[0]
    if words.shape[:2] != word_mask.shape or (size, regions.shape[2]) != words.shape[::2]:
        raise ValueError(
            "regions must be [batch, regions, dim], words [batch, words, dim] and word_mask "
            f"[batch, words]: got {regions.shape}, {words.shape} and {word_mask.shape}"
        )
    has_words = jnp.any(word_mask, axis=1)
    mask = has_words if mask is None else mask & has_words
    places, groups = make_places(size, mask), make_groups(size, group_ids)
    images = Rows(keep_rows(regions, mask).astype(jnp.float32), places, groups)
    texts = Rows(keep_rows(words, mask).astype(jnp.float32), places, groups)
    temperature = jnp.asarray(temperature, jnp.float32)
    similarities = _similarities(
        images.embeddings, texts.embeddings, word_mask, attention_temperature, word_temperature
    )
    logits = similarities / temperature
    summary = summarize(jnp.where(negative_mask(images, texts), logits, MASKED))
    loss, metrics = cross_entropies(jnp.diagonal(logits), summary, 0.5, mask)
    return loss, metrics | {"temperature": jax.lax.stop_gradient(temperature)}


def word_attention(
    regions: Float[Array, "*images regions dim"],
    words: Float[Array, "*texts words dim"],
    word_mask: Bool[Array, "*texts words"],
    *,
    attention_temperature: float = 1 / 4,
) -> Float[Array, "*pairs words regions"]:
    """How much each word attends to each region; over the regions it sums to one.

    As in GLoRIA's code: the inner product of a word and a region goes through a softmax over the
    words, which says how much the region is this word's, and that, divided by the temperature,
    through a softmax over the regions.

    Args:
      regions: of one image, or of many.
      words: of one text, or of many; its leading axes are broadcast with those of the regions.
      word_mask: the words that are none of the padding; what the others attend to has no meaning.
      attention_temperature: the lower, the fewer regions a word attends to.
    """
    products = _contract("...ld,...rd->...lr", words, regions)
    by_word = jax.nn.softmax(jnp.where(word_mask[..., None], products, MASKED), axis=-2)
    return jax.nn.softmax(by_word / attention_temperature, axis=-1)


def _similarities(
    regions: Float[Array, "batch regions dim"],
    words: Float[Array, "batch words dim"],
    word_mask: Bool[Array, "batch words"],
    attention_temperature: float,
    word_temperature: float,
) -> Float[Array, "images texts"]:
    """Z of every image with every text, one text at a time, and again for the gradient."""

    def with_all_images(text: tuple[Array, Array]) -> Float[Array, " images"]:
        words, word_mask = text
        attention = word_attention(
            regions, words, word_mask, attention_temperature=attention_temperature
        )
        contexts = with_length(_contract("...lr,...rd->...ld", attention, regions), 1.0)
        cosines = row_products(contexts, with_length(words, 1.0))
        return jax.nn.logsumexp(jnp.where(word_mask, cosines / word_temperature, MASKED), axis=-1)

    return jax.lax.map(jax.checkpoint(with_all_images), (words, word_mask)).T


def _contract(
    equation: str, left: Float[Array, "..."], right: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The product in full float32, as `matmul` does it and for the same reason."""
    left, right = left.astype(jnp.float32), right.astype(jnp.float32)
    return jnp.einsum(equation, left, right, precision=jax.lax.Precision.HIGHEST)
