"""Contrast against soft targets: images and texts match as far as their labels do, as in MedCLIP.

An image and a text need not come from one study: labels of findings say how alike they are. Where
InfoNCE pushes apart the reports of two patients with the same finding, this loss does not.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medclip_jax.losses.means import masked_mean
from medclip_jax.losses.pairs import MASKED, keep_rows, matmul, with_length


def soft_target_contrastive(
    image_embeddings: Float[Array, "images dim"],
    text_embeddings: Float[Array, "texts dim"],
    *,
    temperature: float | Float[Array, ""],
    image_labels: Float[Array, "images labels"],
    text_labels: Float[Array, "texts labels"],
    image_mask: Bool[Array, " images"] | None = None,
    text_mask: Bool[Array, " texts"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The semantic matching loss of MedCLIP (Wang et al., EMNLP 2022, arXiv 2210.10163).

    With label vectors l_i of image i and l_j of text j, the targets of both directions are

        s_ij = cosine(l_i, l_j)
        y_ij = exp(s_ij) / sum_j exp(s_ij)
        z_ij = exp(s_ij) / sum_i exp(s_ij)

    and with p_ij the softmax over j, and q_ij that over i, of cosine(image_i, text_j) /
    temperature, the loss of N images and M texts is the mean of

        - 1/N sum_ij y_ij log(p_ij)    and    - 1/M sum_ij z_ij log(q_ij)

    The targets' softmax has no temperature, so they are far from one-hot, and the loss does not go
    below `target_entropy`.

    A row without any label that is present says nothing of what it matches: it is left out, like a
    masked row. So that normal studies take part, "No Finding" must be one of the labels.

    Args:
      image_embeddings: of any length and floating type; they are normalized here, in float32.
      text_embeddings: need not be as many as the images, nor in their order.
      temperature: divides the cosine similarities; positive; it has a gradient.
      image_labels: 1 present; 0 and NaN (unknown) absent.
      text_labels: the same labels of the texts.
      image_mask: the images that count; None for all.
      text_mask: the texts that count; None for all.

    Returns:
      The loss, and `image_to_text_loss`, `text_to_image_loss`, `target_entropy` and `temperature`.
      The loss is 0 if no image or no text is left.

    Raises:
      ValueError: if the shapes do not fit one another.
    """
    images, image_labels, image_counts = _labelled(image_embeddings, image_labels, image_mask)
    texts, text_labels, text_counts = _labelled(text_embeddings, text_labels, text_mask)
    if images.shape[1] != texts.shape[1] or image_labels.shape[1] != text_labels.shape[1]:
        raise ValueError(
            f"images and texts must agree in their dim {(images.shape[1], texts.shape[1])} and "
            f"their labels {(image_labels.shape[1], text_labels.shape[1])}"
        )
    temperature = jnp.asarray(temperature, jnp.float32)
    counts = image_counts[:, None] & text_counts
    logits = jnp.where(counts, matmul(images, texts, (1, 1)) / temperature, MASKED)
    similarities = jnp.where(counts, matmul(image_labels, text_labels, (1, 1)), MASKED)
    image_to_text, image_entropy = _cross_entropy(logits, similarities, counts)
    text_to_image, text_entropy = _cross_entropy(logits.T, similarities.T, counts.T)
    metrics = {
        "image_to_text_loss": image_to_text,
        "text_to_image_loss": text_to_image,
        "target_entropy": (image_entropy + text_entropy) / 2,
        "temperature": temperature,
    }
    return (image_to_text + text_to_image) / 2, jax.lax.stop_gradient(metrics)


def _labelled(
    embeddings: Float[Array, "rows dim"],
    labels: Float[Array, "rows labels"],
    mask: Bool[Array, " rows"] | None,
) -> tuple[Float[Array, "rows dim"], Float[Array, "rows labels"], Bool[Array, " rows"]]:
    """Embeddings and label vectors of length one, and which rows count."""
    size = embeddings.shape[0]
    if labels.shape[0] != size or (mask is not None and mask.shape != (size,)):
        raise ValueError(
            f"{size} embeddings need as many labels and mask entries: got {labels.shape[0]} and "
            f"{None if mask is None else mask.shape}"
        )
    labels = jnp.nan_to_num(labels)
    counts = jnp.any(labels != 0, axis=-1)
    if mask is not None:
        counts &= mask
    return with_length(keep_rows(embeddings, counts), 1.0), with_length(labels, 1.0), counts


def _cross_entropy(
    logits: Float[Array, "rows columns"],
    similarities: Float[Array, "rows columns"],
    counts: Bool[Array, "rows columns"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The rows' mean cross entropy with their soft targets, and the mean entropy of the targets."""
    log_targets = jax.nn.log_softmax(similarities, axis=1)
    targets = jnp.where(counts, jnp.exp(log_targets), 0.0)
    row_counts = jnp.any(counts, axis=1)
    entropy = masked_mean(-jnp.sum(targets * log_targets, axis=1), row_counts)
    each = -jnp.sum(targets * jax.nn.log_softmax(logits, axis=1), axis=1)
    return masked_mean(each, row_counts), entropy
