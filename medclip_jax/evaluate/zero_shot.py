"""The zero-shot protocol: each label by prompts that speak for it and prompts against it."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from medclip_jax.evaluate.bootstrap import RANDOM
from medclip_jax.evaluate.encode import (
    ImageTextEncoder,
    Studies,
    embed_with_both,
    read_table,
    select_labels,
    study_means,
)
from medclip_jax.evaluate.label_classes import check_reported
from medclip_jax.evaluate.label_scoring import score_studies
from medclip_jax.evaluate.prompts import default_prompts, read_prompts
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult
from medclip_jax.zero_shot import probabilities, prompt_embeddings


def evaluate(
    encoder: ImageTextEncoder, open_studies: Callable[[str], Studies], request: Request
) -> EvaluationResult:
    """Scores every study by the mean probability of its images.

    Raises:
        UserError: the set has no labels, or has both classes of none of them; a label has no
            prompts; or the prompt file is not right.
    """
    studies = open_studies(request.split)
    label_names = studies.label_names
    wanted = [label_names[column] for column in select_labels(label_names, request.labels)]
    if request.prompts is None:
        prompts = default_prompts(wanted)
    else:
        prompts = read_prompts(request.prompts, wanted)
    table = read_table(studies).with_labels([label_names.index(name) for name in prompts])
    check_reported(table.labels, list(prompts), request.split)
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
        {
            "": scores(both.trained, both.trained_images),
            RANDOM: scores(both.random, both.random_images),
        },
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
