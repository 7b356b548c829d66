"""Instance retrieval both ways: does an image find its report, and a report its images?

Reports with the same normalised text are one gallery entry and one query; every image of every
study with that text is correct. ConVIRT's retrieval by class is in `class_retrieval`.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from medclip_jax.data.reports import DEFAULT_SECTIONS
from medclip_jax.evaluate.bootstrap import RANDOM
from medclip_jax.evaluate.encode import StudyTable, text_groups
from medclip_jax.evaluate.pair_scoring import SCORES, BothScorers, PairScores
from medclip_jax.evaluate.ranking import Search, chance_metrics, rank_metrics, search
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult, summarize

IMAGE_TO_TEXT = "image_to_text_"
TEXT_TO_IMAGE = "text_to_image_"


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Which image belongs to which text.

    Attributes:
        text_of_study: For each study the number of its (merged) text.
        first_study: For each text the first study that has it.
        image_study: For each image its study.
    """

    text_of_study: Int[np.ndarray, "studies"]
    first_study: Int[np.ndarray, "texts"]
    image_study: Int[np.ndarray, "images"]

    @classmethod
    def from_table(cls, table: StudyTable) -> "Pairing":
        """Merges the texts of the table."""
        return cls(*text_groups(table.texts), table.image_study)

    @property
    def image_text(self) -> Int[np.ndarray, "images"]:
        """For each image the number of its text."""
        return self.text_of_study[self.image_study]

    def chance(self) -> dict[str, float]:
        """The figures of a random order of the gallery."""
        num_images, num_texts = len(self.image_study), len(self.first_study)
        images_of_text = np.bincount(self.image_text, minlength=num_texts)
        to_text = chance_metrics([1] * num_images, num_texts)
        to_image = chance_metrics(images_of_text.tolist(), num_images)
        return _prefixed(to_text, to_image)


@dataclasses.dataclass(frozen=True)
class InstanceRetrieval:
    """The two searches of one encoder, and their figures for weighted studies."""

    pairing: Pairing
    image_to_text: Search
    text_to_image: Search

    @classmethod
    def search(cls, scores: PairScores, pairing: Pairing) -> "InstanceRetrieval":
        """Searches the merged texts for every image, and all images for every merged text."""
        texts, images = np.arange(len(pairing.first_study)), pairing.image_text
        return cls(
            pairing,
            search(scores.of_images, images, texts),
            search(scores.of_texts, texts, images),
        )

    def __call__(self, weights: Float[np.ndarray, "studies"]) -> dict[str, float]:
        """Recall@1/5/10, median rank and MRR both ways.

        An image weighs as its study does; a merged text is the mean of its studies' weights.
        """
        pairing = self.pairing
        image_weights = weights[pairing.image_study]
        studies_of_text = np.bincount(pairing.text_of_study)
        text_weights = np.bincount(pairing.text_of_study, weights=weights) / studies_of_text
        return _prefixed(
            rank_metrics(self.image_to_text.ranks, image_weights),
            rank_metrics(self.text_to_image.ranks, text_weights),
        )


def _prefixed(to_text: dict[str, float], to_image: dict[str, float]) -> dict[str, float]:
    return {IMAGE_TO_TEXT + name: value for name, value in to_text.items()} | {
        TEXT_TO_IMAGE + name: value for name, value in to_image.items()
    }


@dataclasses.dataclass(frozen=True)
class InstanceScores:
    """The studies that have a text, and the scores of their images with the merged texts.

    Attributes:
        table: The studies.
        pairing: Which image belongs to which text.
        trained: The encoder's scores.
        random: Those of its random initialisation.
        num_without_text: How many studies were left out.
    """

    table: StudyTable
    pairing: Pairing
    trained: PairScores
    random: PairScores
    num_without_text: int

    @classmethod
    def from_scorers(cls, both: BothScorers) -> "InstanceScores":
        """Merges the texts and scores them with both encoders."""
        has_text = np.array([bool(text) for text in both.table.texts])
        both = both.subset(has_text)
        pairing = Pairing.from_table(both.table)
        texts = [both.table.texts[study] for study in pairing.first_study]
        trained, random = both.trained.score_texts(texts), both.random.score_texts(texts)
        return cls(both.table, pairing, trained, random, int(np.sum(~has_text)))


def evaluate_instances(scores: InstanceScores, request: Request) -> EvaluationResult:
    """Runs both searches with both encoders."""
    table, pairing = scores.table, scores.pairing
    trained = InstanceRetrieval.search(scores.trained, pairing)
    random = InstanceRetrieval.search(scores.random, pairing)
    metrics, intervals, bootstrap = summarize(
        trained,
        {RANDOM: random},
        pairing.chance(),
        table.patient_ids,
        headline=[TEXT_TO_IMAGE + "recall@1", IMAGE_TO_TEXT + "recall@1"],
        num_resamples=request.num_resamples,
        seed=request.seed,
    )
    return EvaluationResult(
        metrics=metrics,
        confidence_intervals=intervals,
        num_examples=len(table.study_ids),
        num_patients=table.num_patients,
        protocol={"ranked_by": SCORES[request.score]} | _protocol(scores) | bootstrap,
        arrays=table.arrays() | _arrays(trained, random),
    )


def _protocol(scores: InstanceScores) -> dict[str, Any]:
    num_images, num_texts = len(scores.pairing.image_study), len(scores.pairing.first_study)
    return {
        "relevance": "own report: images and reports of studies with the same normalised text",
        "text": "the report's sections, truncated by the tokenizer; equal texts are merged "
        "(case, spacing and punctuation do not matter)",
        "sections": DEFAULT_SECTIONS,
        "image_queries": "every image of every study; all images of a study are correct",
        "ties": "a wrong entry that ties with the best correct one ranks before it",
        "num_images": num_images,
        "num_texts": num_texts,
        "gallery_size": {"image_to_text": num_texts, "text_to_image": num_images},
        "studies_left_out_without_text": scores.num_without_text,
    }


def _arrays(trained: InstanceRetrieval, random: InstanceRetrieval) -> dict[str, np.ndarray]:
    return {
        "text_of_study": trained.pairing.text_of_study,
        "first_study_of_text": trained.pairing.first_study,
        "image_to_text_ranks": trained.image_to_text.ranks,
        "image_to_text_neighbors": trained.image_to_text.neighbors,
        "image_to_text_similarities": trained.image_to_text.similarities,
        "text_to_image_ranks": trained.text_to_image.ranks,
        "text_to_image_neighbors": trained.text_to_image.neighbors,
        "text_to_image_similarities": trained.text_to_image.similarities,
        "random_image_to_text_ranks": random.image_to_text.ranks,
        "random_text_to_image_ranks": random.text_to_image.ranks,
    }
