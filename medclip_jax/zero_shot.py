"""Zero-shot classification from embeddings: prompts that speak for a label, and prompts against it.

The embeddings of each list are averaged and the mean is normalised (as BioViL does); the
probability of a label is the softmax over the cosine similarities of an image with its two
vectors, divided by the model's temperature (as CheXzero does).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from medclip_jax.errors import UserError
from medclip_jax.finite import require_finite

# Of each label the positive and the negative prompts.
Prompts = Mapping[str, tuple[Sequence[str], Sequence[str]]]
EmbedTexts = Callable[[list[str]], Float[np.ndarray, "texts dim"]]


def check_prompts(prompts: Prompts) -> None:
    """Raises a UserError unless there are prompts, two lists of texts for each label."""
    if not prompts:
        raise UserError("there are no prompts: give (positive texts, negative texts) for a label")
    for name, pair in prompts.items():
        lists = () if isinstance(pair, str) or len(pair) != 2 else tuple(pair)
        if not lists or not all(_are_texts(texts) for texts in lists):
            raise UserError(
                f"the prompts of {name!r} must be (positive texts, negative texts): two lists of "
                "texts, none of them empty"
            )
        for text in (text for texts in lists for text in texts if "{}" in text):
            raise UserError(
                f"the prompt {text!r} of {name!r} has a gap: nothing fills it in, so write it out"
            )


def _are_texts(texts: object) -> bool:
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
        return False
    return all(isinstance(text, str) and text.strip() for text in texts)


def prompt_embeddings(
    embed_texts: EmbedTexts, prompts: Prompts
) -> Float[np.ndarray, "labels 2 dim"]:
    """Of each label the unit vectors of its positive (0) and its negative (1) prompts."""
    lists = [list(texts) for pair in prompts.values() for texts in pair]
    embeddings = embed_texts([text for texts in lists for text in texts])
    ends = np.cumsum([len(texts) for texts in lists])[:-1]
    means = np.stack([part.mean(axis=0) for part in np.split(embeddings, ends)])
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    require_finite(means.reshape(len(prompts), -1), "embeddings of prompts", list(prompts))
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
    require_finite(margin, "zero-shot logits of images", range(len(images)))
    return np.exp(-np.logaddexp(0.0, -margin))
