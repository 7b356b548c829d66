"""Zero-shot classification: each label by prompts that speak for it and prompts against it.

The embeddings of each list are averaged and the mean is normalised (as BioViL does); the
probability of a label is the softmax over the cosine similarities of an image with its two
vectors, divided by the model's temperature (as CheXzero does).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from medclip_jax.evaluate.encode import (
    ImageTextEncoder,
    Studies,
    embed_with_both,
    read_table,
    select_labels,
    study_means,
)
from medclip_jax.evaluate.label_scoring import score_studies
from medclip_jax.evaluate.prompts import Prompts, default_prompts, read_prompts
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult

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


def evaluate(
    encoder: ImageTextEncoder, open_studies: Callable[[str], Studies], request: Request
) -> EvaluationResult:
    """Scores every study by the mean probability of its images.

    Raises:
        UserError: the set has no labels, a label has no prompts, or the prompt file is not right.
    """
    studies = open_studies(request.split)
    label_names = studies.label_names
    wanted = [label_names[column] for column in select_labels(label_names, request.labels)]
    if request.prompts is None:
        prompts = default_prompts(wanted)
    else:
        prompts = read_prompts(request.prompts, wanted)
    table = read_table(studies).with_labels([label_names.index(name) for name in prompts])
    both = embed_with_both(encoder, studies, table, request.seed)

    def scores(
        model: ImageTextEncoder, images: Float[np.ndarray, "images dim"]
    ) -> Float[np.ndarray, "studies labels"]:
        vectors = prompt_embeddings(model.embed_texts, prompts)
        values = probabilities(images, vectors, model.temperature)
        return study_means(values, table.image_study, len(table.study_ids))

    return score_studies(
        table,
        list(prompts),
        scores(both.trained, both.trained_images),
        scores(both.random, both.random_images),
        request,
        {
            "prompts": {
                name: {"positive": positive, "negative": negative}
                for name, (positive, negative) in prompts.items()
            },
            "score": "prompt embeddings averaged, then normalised; softmax over the two cosine "
            "similarities / temperature",
            "temperature": encoder.temperature,
            "aggregation": "mean probability of the images of a study",
        },
    )
