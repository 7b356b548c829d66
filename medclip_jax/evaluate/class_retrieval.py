"""Retrieval by class: precision@5/10/50 of ConVIRT's CheXpert 8x200 protocol, on any labelled set.

Queries come from a CSV of ConVIRT's form: `Variable,Text` (sentences) or `Variable,Path` (images);
`Variable` is the label that a candidate must have to be relevant. Candidates are the images of the
studies that have exactly one of the queried labels (arXiv 2010.00747, section 4.3).
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from medclip_jax.errors import UserError
from medclip_jax.evaluate.encode import BothEncoders, ImageTextEncoder, StudyTable
from medclip_jax.evaluate.ranking import RankedGallery
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult, summarize

CUTOFFS = (5, 10, 50)


@dataclasses.dataclass(frozen=True)
class Queries:
    """The rows of a query file.

    Attributes:
        file: Where they were read.
        direction: "text_to_image" or "image_to_image".
        classes: Label of each query.
        values: Its sentence, or the path of its image.
    """

    file: Path
    direction: str
    classes: list[str]
    values: list[str]


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


def read_queries(path: Path, image_root: Path | None, label_names: Sequence[str]) -> Queries:
    """Reads a query file.

    Raises:
        UserError: the file is missing, has other columns, names an image that is not there or a
            label that the set does not have.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"--queries {path}: no such file") from None
    columns = set(rows[0]) if rows else set()
    if "Variable" not in columns or len(columns & {"Text", "Path"}) != 1:
        raise UserError(f"--queries {path}: needs the columns Variable and one of Text or Path")
    column = "Text" if "Text" in columns else "Path"
    classes, values = [row["Variable"] for row in rows], [row[column] for row in rows]
    for label in classes:
        if label not in label_names:
            names = ", ".join(label_names) or "none"
            raise UserError(f"--queries {path}: no label {label!r} in the dataset; it has {names}")
    if column == "Text":
        return Queries(path, "text_to_image", classes, values)
    root = Path(image_root) if image_root is not None else Path(path).parent
    values = [str(root / value) for value in values]
    for value in values:
        if not Path(value).is_file():
            raise UserError(
                f"--queries {path}: no image {value}; give the folder with --image-root"
            )
    return Queries(path, "image_to_image", classes, values)


def exclusive_studies(
    labels: Float[np.ndarray, "studies labels"],
    label_names: Sequence[str],
    classes: Sequence[str],
) -> Bool[np.ndarray, "studies"]:
    """The studies that have exactly one of `classes`.

    Raises:
        UserError: a class has no such study.
    """
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
    both: BothEncoders,
    table: StudyTable,
    label_names: Sequence[str],
    queries: Queries,
    request: Request,
) -> EvaluationResult:
    """Runs one file of queries against the exclusive candidates, with both encoders."""
    classes = list(dict.fromkeys(queries.classes))
    exclusive = exclusive_studies(table.labels, label_names, classes)
    both, table = both.subset(exclusive[table.image_study]), table.subset(exclusive)
    columns = [list(label_names).index(label) for label in queries.classes]
    relevant = table.labels[table.image_study][:, columns].T == 1

    def retrieve(
        encoder: ImageTextEncoder, candidates: Float[np.ndarray, "images dim"]
    ) -> ClassRetrieval:
        text = queries.direction == "text_to_image"
        embed = encoder.embed_texts if text else encoder.embed_images
        similarity = embed(queries.values) @ candidates.T
        return ClassRetrieval(queries.direction, queries.classes, similarity, relevant)

    trained = retrieve(both.trained, both.trained_images)
    metrics, intervals, bootstrap = summarize(
        trained,
        retrieve(both.random, both.random_images),
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
        protocol=_protocol(queries, classes, table) | bootstrap,
    )


def _protocol(queries: Queries, classes: list[str], table: StudyTable) -> dict[str, Any]:
    return {
        "queries": [
            {"class": label, "query": value}
            for label, value in zip(queries.classes, queries.values, strict=True)
        ],
        "query_file": queries.file,
        "classes": classes,
        "candidates": "every image of the studies with exactly one of the classes present",
        "relevance": "the candidate's label of the query's class is 1",
        "ties": "irrelevant candidates rank before relevant ones",
        "resampled": "the patients of the candidates; the queries stay",
        "gallery_size": len(table.image_study),
    }
