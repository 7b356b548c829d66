"""Zero-shot classification from embeddings: prompts that speak for a label, and prompts against it.

The embeddings of each list are averaged and the mean is normalised (as BioViL does); the
probability of a label is the softmax over the cosine similarities of an image with its two
vectors, divided by the model's temperature (as CheXzero does).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

# Of each label the positive and the negative prompts.
Prompts = Mapping[str, tuple[Sequence[str], Sequence[str]]]
EmbedTexts = Callable[[list[str]], Float[np.ndarray, "texts dim"]]


def prompt_embeddings(
    embed_texts: EmbedTexts, prompts: Prompts
) -> Float[np.ndarray, "labels 2 dim"]:
    """Of each label the unit vectors of its positive (0) and its negative (1) prompts."""
    lists = [list(texts) for pair in prompts.values() for texts in pair]
    embeddings = embed_texts([text for texts in lists for text in texts])
    ends = np.cumsum([len(texts) for texts in lists])[:-1]
    means = np.stack([part.mean(axis=0) for part in np.split(embeddings, ends)])
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    return means.reshape(len(prompts), 2, -1)


def probabilities(
    image_embeddings: Float[np.ndarray, "images dim"],
    label_embeddings: Float[np.ndarray, "labels 2 dim"],
    temperature: float,
) -> Float[np.ndarray, "images labels"]:
    """softmax(cos(image, positive) / t, cos(image, negative) / t)[0], in float64."""
    positive, negative = label_embeddings[:, 0], label_embeddings[:, 1]
    images = np.asarray(image_embeddings, np.float64)
    margin = images @ (positive - negative).astype(np.float64).T / temperature
    return np.exp(-np.logaddexp(0.0, -margin))
