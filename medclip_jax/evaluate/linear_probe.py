"""The `linear-probe` task: logistic regression on frozen image features, one a label.

Features are those before the projection, standardised with the training rows' statistics. Each
image of a study is a row; a study's score is the mean probability of its images. The penalty of
each label is the one with the best validation AUROC.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from medclip_jax.errors import UserError
from medclip_jax.evaluate.classification import RankedScores
from medclip_jax.evaluate.encode import (
    ImageTextEncoder,
    Studies,
    StudyTable,
    encode_images,
    read_table,
    select_labels,
    study_means,
)
from medclip_jax.evaluate.label_scoring import score_studies
from medclip_jax.evaluate.logistic_regression import (
    INVERSE_PENALTIES,
    LinearProbe,
    fit_probes,
)
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult

HELD_OUT_FRACTION = 0.2


@dataclasses.dataclass(frozen=True)
class Rows:
    """The features of a set of studies, with what is known about them.

    Attributes:
        features: Of every image.
        table: Its studies; `table.labels` has the probed labels only.
    """

    features: Float[np.ndarray, "images features"]
    table: StudyTable

    @property
    def image_labels(self) -> Float[np.ndarray, "images labels"]:
        """The labels of each image's study."""
        return self.table.labels[self.table.image_study]

    def subset(self, studies: Bool[np.ndarray, "studies"]) -> "Rows":
        """The rows of the studies where `studies` is true."""
        images = studies[self.table.image_study]
        return Rows(self.features[images], self.table.subset(studies))

    def study_scores(self, probe: LinearProbe) -> Float[np.ndarray, "studies"]:
        """The mean probability of the images of each study."""
        scores = probe(self.features)[:, None]
        return study_means(scores, self.table.image_study, len(self.table.study_ids))[:, 0]


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """The rows for fitting, for choosing the penalty, for the final fit and for the report."""

    train: Rows
    validation: Rows
    final: Rows
    report: Rows

    @classmethod
    def from_splits(
        cls,
        rows: Mapping[str, Rows],
        report_split: str,
        held_out: Bool[np.ndarray, "studies"] | None,
    ) -> "ProbeData":
        """Chooses on `validation`, or on the held-out studies of `train` where there are some."""
        train, report = rows["train"], rows[report_split]
        if held_out is None:
            return cls(train, rows["validation"], train, report)
        return cls(train.subset(~held_out), train.subset(held_out), train, report)


def held_out_studies(patient_ids: Sequence[str], seed: int) -> Bool[np.ndarray, "studies"]:
    """The studies of a random fifth of the patients."""
    patients, patient_of_study = np.unique(np.asarray(patient_ids), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(patients))
    held_out = order < np.ceil(HELD_OUT_FRACTION * len(patients))
    return held_out[patient_of_study]


def check_disjoint(tables: Mapping[str, StudyTable]) -> None:
    """Raises a UserError that names a patient who is in two splits."""
    split_of_patient: dict[str, str] = {}
    for split, table in tables.items():
        for patient in table.patient_ids:
            other = split_of_patient.setdefault(patient, split)
            if other != split:
                raise UserError(
                    f"patient {patient!r} is in both {other} and {split}: "
                    "rebuild the set with splits that share no patient"
                )


def probe_labels(
    data: ProbeData, label_names: Sequence[str]
) -> tuple[Float[np.ndarray, "studies labels"], dict[str, dict[str, Any]]]:
    """Fits a probe a label, chooses its penalty and scores the studies to report on.

    A label that validation cannot score (one class there) takes the penalty with the best mean
    AUROC over the labels that it can.

    Returns:
        The scores, and of each label the chosen C with its validation AUROC.

    Raises:
        UserError: validation has one class only of every label.
    """
    paths = [_fit(data.train, column) for column in range(len(label_names))]
    areas = np.array([_validate(data.validation, i, path) for i, path in enumerate(paths)])
    defined = areas[~np.isnan(areas).all(axis=1)]
    if not defined.size:
        names = ", ".join(label_names)
        raise UserError(f"the studies to choose the penalty on have one class only of {names}")
    scores = np.zeros((len(data.report.table.study_ids), len(label_names)))
    chosen: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(label_names):
        scorable = not np.isnan(areas[column]).all()
        best = int(np.nanargmax(areas[column] if scorable else np.nanmean(defined, axis=0)))
        probe = paths[column][best]
        if data.final is not data.train:
            probe = _fit(data.final, column, [probe.inverse_penalty])[0]
        scores[:, column] = data.report.study_scores(probe)
        chosen[name] = {
            "inverse_penalty": probe.inverse_penalty,
            "validation_auroc": areas[column, best],
            "converged": probe.converged,
        }
    return scores, chosen


def _fit(
    rows: Rows, column: int, inverse_penalties: Sequence[float] = INVERSE_PENALTIES
) -> list[LinearProbe]:
    labels = rows.image_labels[:, column]
    known = ~np.isnan(labels)
    return fit_probes(rows.features[known], labels[known] > 0.5, inverse_penalties)


def _validate(rows: Rows, column: int, probes: Sequence[LinearProbe]) -> list[float]:
    """The AUROC of each probe; NaN where it did not converge, which keeps it from being chosen."""
    labels = rows.table.labels[:, column]
    weights = np.ones(len(labels))
    return [
        RankedScores.from_scores(rows.study_scores(probe), labels).auroc_and_auprc(weights)[0]
        if probe.converged
        else np.nan
        for probe in probes
    ]


def evaluate(
    encoder: ImageTextEncoder, open_studies: Callable[[str], Studies], request: Request
) -> EvaluationResult:
    """Trains on `train`, chooses the penalty on `validation`, reports on the request's split.

    Where there is no validation split, or it is the one reported on, the penalty is chosen on a
    fifth of the training patients, and the probe is then fitted to all of them.

    Raises:
        UserError: a split is missing, has no labels, or shares a patient with another.
    """
    splits = _open_splits(open_studies, request.split)
    tables = {split: read_table(studies) for split, studies in splits.items()}
    check_disjoint(tables)
    train = tables["train"]
    held_out = None
    if "validation" not in tables or request.split == "validation":
        held_out = held_out_studies(train.patient_ids, request.seed)
    label_names = splits["train"].label_names
    wanted = select_labels(label_names, request.labels)
    fitted = train.labels if held_out is None else train.labels[~held_out]
    columns = _trainable(fitted, wanted, label_names)
    names = [label_names[column] for column in columns]

    def probe(model: ImageTextEncoder, note: str) -> tuple[np.ndarray, dict[str, Any]]:
        rows = {}
        for split, table in tables.items():
            features = encode_images(model.image_features, splits[split], table, split + note)
            rows[split] = Rows(features, table.with_labels(columns))
        return probe_labels(ProbeData.from_splits(rows, request.split, held_out), names)

    scores, chosen = probe(encoder, "")
    random_scores, random_chosen = probe(
        encoder.randomly_initialized(request.seed), ", random initialisation"
    )
    return score_studies(
        tables[request.split].with_labels(columns),
        names,
        scores,
        random_scores,
        request,
        _protocol(tables, held_out)
        | {
            "labels_left_out": [label_names[i] for i in wanted if i not in columns],
            "chosen": chosen,
            "chosen_random_initialization": random_chosen,
        },
    )


def _open_splits(open_studies: Callable[[str], Studies], report_split: str) -> dict[str, Studies]:
    if report_split == "train":
        raise UserError("linear-probe is trained on train: evaluate another --split")
    splits = {"train": open_studies("train"), report_split: open_studies(report_split)}
    if report_split != "validation":
        try:
            splits["validation"] = open_studies("validation")
        except UserError:  # the set has none; its train split opened above
            pass
    return splits


def _trainable(
    labels: Float[np.ndarray, "studies labels"], wanted: Sequence[int], label_names: Sequence[str]
) -> list[int]:
    columns = [
        column
        for column in wanted
        if np.any(labels[:, column] > 0.5) and np.any(labels[:, column] <= 0.5)
    ]
    if not columns:
        names = ", ".join(label_names[column] for column in wanted)
        raise UserError(f"the training studies have one class only of {names}; name other --labels")
    return columns


def _protocol(
    tables: Mapping[str, StudyTable], held_out: Bool[np.ndarray, "studies"] | None
) -> dict[str, Any]:
    chosen_on = "validation" if held_out is None else "a random fifth of the training patients"
    return {
        "features": "image encoder, before the projection; standardised on the training rows",
        "classifier": "logistic regression (scikit-learn, L-BFGS to convergence), one a label",
        "inverse_penalties": INVERSE_PENALTIES,
        "penalty_chosen_on": chosen_on,
        "final_fit_on": "train",
        "aggregation": "each image is a row; mean probability of the images of a study",
        "splits": {
            split: {
                "studies": len(table.study_ids),
                "images": len(table.image_study),
                "patients": table.num_patients,
            }
            for split, table in tables.items()
        },
    }
