"""Masked modelling: tell the tokens and the patches that were hidden, from what was left to see."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medclip_jax.losses.cross_entropy import cross_entropy
from medclip_jax.losses.means import masked_mean

# As in MAE's code: a patch of one grey has no variance to divide by.
_EPSILON = 1e-6


def masked_language_modeling(
    logits: Float[Array, "batch length vocabulary"],
    targets: Int[Array, "batch length"],
    mask: Bool[Array, "batch length"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The mean cross entropy of the masked tokens (BERT, arXiv 1810.04805).

    Args:
      logits: of any floating type; computed in float32.
      targets: the tokens as they were before masking; where `mask` is false they may be anything.
      mask: the tokens to be told.

    Returns:
      The loss, and `accuracy`: how often the likeliest token is the right one. Both are 0 if no
      token is masked.

    Raises:
      ValueError: if the shapes do not fit one another.
    """
    logits, targets, mask = jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(mask, bool)
    loss = masked_mean(cross_entropy(logits, targets), mask)
    return loss, {"accuracy": masked_mean(jnp.argmax(logits, axis=-1) == targets, mask)}


def masked_patch_regression(
    predictions: Float[Array, "batch patches pixels"],
    targets: Float[Array, "batch patches pixels"],
    mask: Bool[Array, "batch patches"],
    *,
    normalize_patches: bool = True,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The mean squared error over the pixels of the masked patches (MAE, arXiv 2111.06377).

    Args:
      predictions: of any floating type; computed in float32.
      targets: the pixels of each patch.
      mask: the patches that were hidden; the error of the others is not counted.
      normalize_patches: the targets are (pixel - mean) / sqrt(variance + 1e-6) of their patch, the
        variance with P - 1 in the denominator, as in MAE's code. A prediction of nothing but zeros
        then has an error of (P - 1) / P at most.

    Returns:
      The loss, and `mean_squared_error`, which is the loss, and `mean_absolute_error`; both in the
      units of the (normalised) targets. All are 0 if no patch is masked.

    Raises:
      ValueError: if the shapes do not fit one another, or one pixel is to be normalised by itself.
    """
    predictions = jnp.asarray(predictions, jnp.float32)
    targets, mask = jnp.asarray(targets, jnp.float32), jnp.asarray(mask, bool)
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions and targets must have one shape: {predictions.shape}, {targets.shape}"
        )
    errors = predictions - (_normalize(targets) if normalize_patches else targets)
    loss = masked_mean(jnp.mean(jnp.square(errors), axis=-1), mask)
    absolute = masked_mean(jnp.mean(jnp.abs(errors), axis=-1), mask)
    metrics = {"mean_squared_error": loss, "mean_absolute_error": absolute}
    return loss, jax.lax.stop_gradient(metrics)


def _normalize(
    patches: Float[Array, "batch patches pixels"],
) -> Float[Array, "batch patches pixels"]:
    if patches.shape[-1] < 2:
        raise ValueError("normalize_patches needs patches of two pixels or more")
    variance = jnp.var(patches, axis=-1, keepdims=True, ddof=1)
    return (patches - jnp.mean(patches, axis=-1, keepdims=True)) / jnp.sqrt(variance + _EPSILON)
