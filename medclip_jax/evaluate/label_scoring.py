"""The result of scoring studies label by label, which zero-shot and linear probe share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from medclip_jax.evaluate.bootstrap import GIVEN, PIXELS, RANDOM
from medclip_jax.evaluate.classification import ClassificationMetrics, label_counts
from medclip_jax.evaluate.encode import StudyTable
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult, summarize

_ARRAYS = {"": "", RANDOM: "random_", GIVEN: "given_", PIXELS: "pixels_"}


def array_prefix(prefix: str) -> str:
    """What the names of arrays begin with, from the prefix of the figures.

    >>> array_prefix("raw_pixels/8x8/")
    'raw_pixels_8x8_'
    """
    return _ARRAYS.get(prefix, prefix.replace("/", "_"))


def of_each(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a protocol: `name` for the trained encoder, `name_BASELINE` for the others.

    >>> of_each("epochs", {"": 3, RANDOM: 5})
    {'epochs': 3, 'epochs_random_initialization': 5}
    """
    return {
        f"{name}_{prefix}".replace("/", "_").strip("_"): value for prefix, value in values.items()
    }


def _known_of_one_patient(table: StudyTable, label_names: Sequence[str]) -> list[str]:
    """The labels of which resampling patients tells nothing, since one alone has them known."""
    patients = np.asarray(table.patient_ids)
    return [
        name
        for name, column in zip(label_names, table.labels.T, strict=True)
        if len(set(patients[~np.isnan(column)])) < 2
    ]


def score_studies(
    table: StudyTable,
    label_names: Sequence[str],
    scores: Mapping[str, Float[np.ndarray, "studies labels"]],
    request: Request,
    protocol: dict[str, Any],
) -> EvaluationResult:
    """AUROC and AUPRC of the scores beside those of the baselines.

    Args:
        table: The studies; its labels are those of `label_names`.
        label_names: Names of the columns.
        scores: Probability of each label, higher means present: of the trained encoder at "", and
            of each baseline at its prefix.
        request: Gives the bootstrap's resamples and seed.
        protocol: What the task did, to be recorded.
    """
    measured = {
        prefix: ClassificationMetrics(values, table.labels, label_names)
        for prefix, values in scores.items()
    }
    trained = measured.pop("")
    metrics, intervals, bootstrap = summarize(
        trained,
        measured,
        trained.chance(),
        table.patient_ids,
        headline=["macro_auroc"],
        num_resamples=request.num_resamples,
        seed=request.seed,
    )
    alone = tuple(
        f"{figure}/{name}"
        for name in _known_of_one_patient(table, label_names)
        for figure in ("auroc", "auprc")
    )
    undefined = {name: (np.nan, np.nan) for name in intervals if name.endswith(alone)}
    return EvaluationResult(
        metrics=metrics,
        confidence_intervals=intervals | undefined,
        num_examples=len(table.study_ids),
        num_patients=table.num_patients,
        protocol=protocol | {"label_counts": label_counts(table.labels, label_names)} | bootstrap,
        arrays=table.arrays()
        | {
            "label_names": np.array(label_names, np.str_),
            "labels": table.labels,
        }
        | {f"{array_prefix(prefix)}scores": values for prefix, values in scores.items()},
    )
