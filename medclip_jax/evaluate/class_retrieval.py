"""Retrieval by class: precision@5/10/50 of ConVIRT's CheXpert 8x200 protocol, on any labelled set.

Candidates are the images of a published list, or those of the studies of the split that have
exactly one of the queried labels (arXiv 2010.00747, section 4.3). The files are in `class_queries`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from medclip_jax.errors import UserError
from medclip_jax.evaluate.bootstrap import RANDOM
from medclip_jax.evaluate.class_queries import Queries
from medclip_jax.evaluate.encode import StudyTable
from medclip_jax.evaluate.pair_scoring import SCORES, BothScorers, Scorer
from medclip_jax.evaluate.ranking import RankedGallery
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult, summarize

CUTOFFS = (5, 10, 50)


class ClassRetrieval:
    """Precision@K of every query, averaged over all queries and over those of each class."""

    def __init__(
        self,
        direction: str,
        classes: Sequence[str],
        similarity: Float[np.ndarray, "queries candidates"],
        relevant: Bool[np.ndarray, "queries candidates"],
    ):
        self.direction = direction
        self.classes = np.asarray(classes)
        self.galleries = [
            RankedGallery.from_scores(scores, row)
            for scores, row in zip(similarity, relevant, strict=True)
        ]

    def __call__(self, weights: Float[np.ndarray, "candidates"]) -> dict[str, float]:
        """`DIRECTION_precision@K` over all queries and `DIRECTION_precision@K/CLASS`."""
        precisions = np.array([g.precision_at(CUTOFFS, weights) for g in self.galleries])
        return self._averages(precisions)

    def chance(self) -> dict[str, float]:
        """The expected precision of a random order: the share of relevant candidates."""
        shares = [[gallery.relevant.mean()] * len(CUTOFFS) for gallery in self.galleries]
        return self._averages(np.array(shares))

    def _averages(self, precisions: Float[np.ndarray, "queries cutoffs"]) -> dict[str, float]:
        metrics = {}
        for cutoff, column in zip(CUTOFFS, precisions.T, strict=True):
            name = f"{self.direction}_precision@{cutoff}"
            metrics[name] = float(column.mean())
            for label in dict.fromkeys(self.classes.tolist()):
                metrics[f"{name}/{label}"] = float(column[self.classes == label].mean())
        return metrics


def exclusive_studies(
    labels: Float[np.ndarray, "studies labels"],
    label_names: Sequence[str],
    classes: Sequence[str],
) -> Bool[np.ndarray, "studies"]:
    """The studies that have exactly one of `classes`, each of which may be named several times.

    Raises:
        UserError: a class has no such study.
    """
    classes = list(dict.fromkeys(classes))
    present = labels[:, [list(label_names).index(label) for label in classes]] == 1
    exclusive = present.sum(axis=1) == 1
    for label, column in zip(classes, present.T, strict=True):
        if not (column & exclusive).any():
            raise UserError(
                f"no study has {label!r} as its only one of the queried labels; "
                "evaluate another --split or leave its queries out"
            )
    return exclusive


def evaluate_queries(
    both: BothScorers, label_names: Sequence[str], queries: Queries, request: Request
) -> EvaluationResult:
    """Runs one file of queries against all images of the table, with both encoders.

    Raises:
        UserError: no candidate is relevant to a query.
    """
    table = both.table
    columns = [list(label_names).index(label) for label in queries.classes]
    relevant = table.labels[table.image_study][:, columns].T == 1
    for label, row in zip(queries.classes, relevant, strict=True):
        if not row.any():
            raise UserError(f"no candidate has {label!r} present: leave its queries out")

    def retrieve(scorer: Scorer) -> ClassRetrieval:
        if queries.direction == "text_to_image":
            similarity = scorer.score_texts(queries.values).of_texts(slice(None))
        else:
            similarity = scorer.score_images(queries.values)
        return ClassRetrieval(queries.direction, queries.classes, similarity, relevant)

    trained = retrieve(both.trained)
    metrics, intervals, bootstrap = summarize(
        trained,
        {RANDOM: retrieve(both.random)},
        trained.chance(),
        [table.patient_ids[study] for study in table.image_study],
        headline=[f"{queries.direction}_precision@{CUTOFFS[0]}"],
        num_resamples=request.num_resamples,
        seed=request.seed,
    )
    return EvaluationResult(
        metrics=metrics,
        confidence_intervals=intervals,
        num_examples=len(table.study_ids),
        num_patients=table.num_patients,
        protocol=_protocol(queries, table, request) | bootstrap,
    )


def _protocol(queries: Queries, table: StudyTable, request: Request) -> dict[str, Any]:
    exclusive = "every image of the studies with exactly one of the classes present"
    return {
        "queries": [
            {"class": label, "query": value}
            for label, value in zip(queries.classes, queries.values, strict=True)
        ],
        "query_file": queries.file,
        "classes": list(dict.fromkeys(queries.classes)),
        "candidates": exclusive if request.candidates is None else "every image of the list",
        "candidate_file": request.candidates,
        "relevance": "the candidate's label of the query's class is 1",
        "ranked_by": SCORES[request.score],
        "ties": "irrelevant candidates rank before relevant ones",
        "resampled": "the patients of the candidates; the queries stay",
        "gallery_size": len(table.image_study),
    }
