"""Image-text matching: does this report belong to this image? By a logit, or by a distance.

Both losses take one number for each pair of an image and a text that was formed somewhere else, and
whether the two belong together.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medclip_jax.losses.means import masked_mean

Metrics = dict[str, Float[Array, ""]]


def matching(
    logits: Float[Array, " pairs"],
    is_match: Bool[Array, " pairs"],
    *,
    mask: Bool[Array, " pairs"] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """Binary cross entropy of a matching head's logits (image-text matching, arXiv 2010.03060).

    With y_i = 1 for a match and 0 for none, it is

        mean_i [ - y_i log(sigmoid(logit_i)) - (1 - y_i) log(1 - sigmoid(logit_i)) ]

    Args:
      logits: of any floating type; computed in float32.
      is_match: whether the image and the text belong together.
      mask: the pairs that count; None counts all.

    Returns:
      The loss, and `accuracy` (is the logit above 0 for matches only), `positive_accuracy` of the
      matches and `negative_accuracy` of the rest. Each is 0 where there are no pairs of its kind.

    Raises:
      ValueError: if the shapes differ.
    """
    logits, is_match, mask = _same_shape(logits, is_match, mask)
    loss = masked_mean(jax.nn.softplus(jnp.where(is_match, -logits, logits)), mask)
    return loss, _accuracies(logits > 0, is_match, mask)


def margin_matching(
    similarities: Float[Array, " pairs"],
    is_match: Bool[Array, " pairs"],
    *,
    margin: float = 0.5,
    mask: Bool[Array, " pairs"] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """The siamese contrastive loss (Hadsell, Chopra and LeCun, CVPR 2006, equation 4).

    Of two embeddings of length one with cosine similarity s, the distance is d = sqrt(2 - 2s), from
    0 to 2. Matches are drawn together, others are pushed apart as far as the margin:

        mean_i [ y_i d_i^2 + (1 - y_i) max(0, margin - d_i)^2 ]

    The paper halves both terms. Two embeddings that are the same have no direction in which to
    part, and get no gradient.

    Args:
      similarities: cosine similarities, in [-1, 1]; of any floating type; computed in float32.
      is_match: whether the image and the text belong together.
      margin: the distance beyond which a pair that is no match costs nothing.
      mask: the pairs that count; None counts all.

    Returns:
      The loss, and `accuracy` (is d < margin / 2 for matches only), `positive_accuracy` of the
      matches and `negative_accuracy` of the rest. Each is 0 where there are no pairs of its kind.

    Raises:
      ValueError: if the shapes differ, or the margin is not positive.
    """
    if margin <= 0:
        raise ValueError(f"margin must be positive: {margin}")
    similarities, is_match, mask = _same_shape(similarities, is_match, mask)
    # Rounding may take 2 - 2s below 0; and at 0, where the square root's slope is infinite, the
    # constant stops it.
    squared = jnp.where(similarities < 1.0, 2.0 - 2.0 * similarities, 0.0)
    distances = jnp.sqrt(squared)
    pushed = jnp.square(jnp.maximum(margin - distances, 0.0))
    loss = masked_mean(jnp.where(is_match, squared, pushed), mask)
    return loss, _accuracies(distances < margin / 2, is_match, mask)


def _same_shape(
    values: Float[Array, " pairs"],
    is_match: Bool[Array, " pairs"],
    mask: Bool[Array, " pairs"] | None,
) -> tuple[Float[Array, " pairs"], Bool[Array, " pairs"], Bool[Array, " pairs"]]:
    """The three as float32, bool and bool, with a mask in any case."""
    values, is_match = jnp.asarray(values, jnp.float32), jnp.asarray(is_match, bool)
    mask = jnp.ones(values.shape, bool) if mask is None else jnp.asarray(mask, bool)
    if not values.shape == is_match.shape == mask.shape:
        raise ValueError(
            "one value, is_match and mask are needed for each pair: got "
            f"{values.shape}, {is_match.shape} and {mask.shape}"
        )
    return values, is_match, mask


def _accuracies(
    judged: Bool[Array, " pairs"], is_match: Bool[Array, " pairs"], mask: Bool[Array, " pairs"]
) -> Metrics:
    """The share of the pairs that are judged rightly: of all, of the matches and of the rest."""
    is_right = judged == is_match
    return {
        "accuracy": masked_mean(is_right, mask),
        "positive_accuracy": masked_mean(is_right, mask & is_match),
        "negative_accuracy": masked_mean(is_right, mask & ~is_match),
    }
