"""Captioning: the next token of the report, from the image and the tokens before it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.losses.cross_entropy import cross_entropy
from medclip_jax.losses.means import masked_mean


def captioning(
    logits: Float[Array, "batch length vocabulary"],
    targets: Int[Array, "batch length"],
    mask: Bool[Array, "batch length"],
    *,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The mean cross entropy of the tokens (VirTex, arXiv 2006.06666; RadTex, arXiv 2208.03218).

    Args:
      logits: at each place those of its target; of any floating type; computed in float32.
      targets: the tokens to be told: the text shifted by one against the decoder's input, in either
        direction. Where `mask` is false they may be anything.
      mask: the tokens that count: not the padding.
      label_smoothing: the share of each target's weight that is spread over the vocabulary, as in
        PyTorch's `CrossEntropyLoss`; at least 0 and below 1.

    Returns:
      The loss, and `cross_entropy` without smoothing, whose exponential is the perplexity, and
      `accuracy`: how often the likeliest token is the right one. All are 0 if no token counts.

    Raises:
      ValueError: if the shapes do not fit one another, or the smoothing is out of its range.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1: {label_smoothing}")
    logits, targets, mask = jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(mask, bool)
    loss = masked_mean(cross_entropy(logits, targets, label_smoothing), mask)
    metrics = {
        "cross_entropy": masked_mean(cross_entropy(logits, targets), mask),
        "accuracy": masked_mean(jnp.argmax(logits, axis=-1) == targets, mask),
    }
    return loss, jax.lax.stop_gradient(metrics)
