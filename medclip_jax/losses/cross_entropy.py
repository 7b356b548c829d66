"""The cross entropy of each token, from logits over a vocabulary."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "*tokens vocabulary"],
    targets: Int[Array, "*tokens"],
    label_smoothing: float = 0.0,
) -> Float[Array, "*tokens"]:
    """- sum_v q_v log(softmax(logits)_v), in float32, for each token.

    q is (1 - label_smoothing) on the target and label_smoothing / V more on each of the V tokens,
    as in PyTorch. The sum is logsumexp(x) - (1 - smoothing) x_target - smoothing mean(x), so that
    no array of q is ever made. A target outside the vocabulary gives NaN.

    Raises:
      ValueError: if there is not one target for each row of logits.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits must be [*targets, vocabulary]: got {logits.shape} for targets {targets.shape}"
        )
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    if label_smoothing:
        chosen = (1.0 - label_smoothing) * chosen + label_smoothing * jnp.mean(logits, axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - chosen
