"""Does a report belong to an image? Accuracy and AUROC of the matching logit, balanced.

Each image is asked about twice: with its own report, and with one random report of another patient
that says something else. This is how image-text matching is trained and reported (Liang et al.,
arXiv 2010.03060); by chance half of the answers are right.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from medclip_jax.evaluate.bootstrap import RANDOM
from medclip_jax.evaluate.classification import RankedScores
from medclip_jax.evaluate.instance_retrieval import InstanceScores
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult, summarize

ACCURACY = "matching_accuracy"
AUROC = "matching_auroc"


@dataclasses.dataclass(frozen=True)
class MatchingPairs:
    """The pairs that are asked about.

    Attributes:
        images: Images for which there is another report.
        studies: Their studies.
        own_texts: Their texts.
        other_texts: The text that was drawn for each.
    """

    images: Int[np.ndarray, "pairs"]
    studies: Int[np.ndarray, "pairs"]
    own_texts: Int[np.ndarray, "pairs"]
    other_texts: Int[np.ndarray, "pairs"]

    @classmethod
    def draw(
        cls,
        text_of_study: Int[np.ndarray, "studies"],
        image_study: Int[np.ndarray, "images"],
        patient_ids: Sequence[str],
        seed: int,
    ) -> "MatchingPairs":
        """Draws the report of one other study for each image, all studies being equally likely.

        Args:
            text_of_study: Number of the (merged) text of each study.
            image_study: Study of each image.
            patient_ids: Patient of each study.
            seed: Seed of the draw.
        """
        patients = np.unique(np.asarray(patient_ids), return_inverse=True)[1]
        generator = np.random.default_rng(seed)
        images, others = [], []
        for image, study in enumerate(image_study):
            differs = (patients != patients[study]) & (text_of_study != text_of_study[study])
            if differs.any():
                images.append(image)
                others.append(generator.choice(np.flatnonzero(differs)))
        chosen = np.array(images, np.int64)
        studies = image_study[chosen]
        other_texts = text_of_study[np.array(others, np.int64)]
        return cls(chosen, studies, text_of_study[studies], other_texts)


class MatchingAccuracy:
    """Accuracy and AUROC of the pairs for weighted studies."""

    def __init__(self, logits: Float[np.ndarray, "images texts"], pairs: MatchingPairs):
        own = logits[pairs.images, pairs.own_texts]
        other = logits[pairs.images, pairs.other_texts]
        self.studies = pairs.studies
        self.correct = ((own > 0).astype(np.float64) + (other <= 0)) / 2
        is_match = np.repeat([1.0, 0.0], len(own))
        self.ranked = RankedScores.from_scores(np.concatenate([own, other]), is_match)

    def __call__(self, weights: Float[np.ndarray, "studies"]) -> dict[str, float]:
        """`matching_accuracy` and `matching_auroc`; an image weighs as its study does."""
        image_weights = weights[self.studies]
        total = image_weights.sum()
        accuracy = float(image_weights @ self.correct / total) if total else np.nan
        auroc = self.ranked.auroc_and_auprc(np.tile(image_weights, 2))[0]
        return {ACCURACY: accuracy, AUROC: auroc}


def evaluate_matching(scores: InstanceScores, request: Request) -> EvaluationResult:
    """Asks both encoders about the same pairs; the scores are matching logits."""
    table, pairing = scores.table, scores.pairing
    pairs = MatchingPairs.draw(
        pairing.text_of_study, pairing.image_study, table.patient_ids, request.seed
    )
    metrics, intervals, bootstrap = summarize(
        MatchingAccuracy(scores.trained.of_images(slice(None)), pairs),
        {RANDOM: MatchingAccuracy(scores.random.of_images(slice(None)), pairs)},
        {ACCURACY: 0.5, AUROC: 0.5},
        table.patient_ids,
        headline=[ACCURACY],
        num_resamples=request.num_resamples,
        seed=request.seed,
    )
    return EvaluationResult(
        metrics=metrics,
        confidence_intervals=intervals,
        num_examples=len(table.study_ids),
        num_patients=table.num_patients,
        protocol={
            "pairs": "each image with its own report, and with one random report of another "
            "patient whose normalised text differs",
            "threshold": "a logit above 0 is a match",
            "num_pairs": 2 * len(pairs.images),
        }
        | bootstrap,
        arrays={"matching_images": pairs.images, "matching_other_texts": pairs.other_texts},
    )
