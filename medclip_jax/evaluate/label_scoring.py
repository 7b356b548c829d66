"""The result of scoring studies label by label, which zero-shot and linear probe share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from medclip_jax.evaluate.classification import ClassificationMetrics, label_counts
from medclip_jax.evaluate.encode import StudyTable
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult, summarize


def score_studies(
    table: StudyTable,
    label_names: Sequence[str],
    scores: Float[np.ndarray, "studies labels"],
    random_scores: Float[np.ndarray, "studies labels"],
    request: Request,
    protocol: dict[str, Any],
) -> EvaluationResult:
    """AUROC and AUPRC of the scores beside those of the random initialisation.

    Args:
        table: The studies; its labels are those of `label_names`.
        label_names: Names of the columns.
        scores: Probability of each label; higher means present.
        random_scores: The same from the randomly initialised encoder.
        request: Gives the bootstrap's resamples and seed.
        protocol: What the task did, to be recorded.
    """
    trained = ClassificationMetrics(scores, table.labels, label_names)
    metrics, intervals, bootstrap = summarize(
        trained,
        ClassificationMetrics(random_scores, table.labels, label_names),
        trained.chance(),
        table.patient_ids,
        headline=["macro_auroc"],
        num_resamples=request.num_resamples,
        seed=request.seed,
    )
    return EvaluationResult(
        metrics=metrics,
        confidence_intervals=intervals,
        num_examples=len(table.study_ids),
        num_patients=table.num_patients,
        protocol=protocol | {"label_counts": label_counts(table.labels, label_names)} | bootstrap,
        arrays=table.arrays()
        | {
            "label_names": np.array(label_names, np.str_),
            "labels": table.labels,
            "scores": scores,
            "random_scores": random_scores,
        },
    )
