"""The splits of a labelled set as a classifier needs them: to fit, to choose and to report on.

It checks what every such task relies on: no patient in two splits, and labels with both classes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Bool

from medclip_jax.errors import UserError
from medclip_jax.evaluate.encode import Studies, StudyTable, read_table, select_labels
from medclip_jax.evaluate.label_classes import check_reported, require_both_classes
from medclip_jax.evaluate.request import Request

HELD_OUT_FRACTION = 0.2


@dataclasses.dataclass(frozen=True)
class LabelledSplits:
    """The splits `train`, the one to report on, and `validation` where there is one.

    Attributes:
        studies: Each split.
        tables: Their studies with images; the labels are those of `label_names`.
        report_split: The split to report on.
        label_names: The labels to classify: those asked for that have both classes in training.
        labels_left_out: Those asked for that have not.
        held_out: The training studies to choose on, for want of a validation split; else None.
    """

    studies: Mapping[str, Studies]
    tables: Mapping[str, StudyTable]
    report_split: str
    label_names: Sequence[str]
    labels_left_out: Sequence[str]
    held_out: Bool[np.ndarray, "studies"] | None

    @classmethod
    def open(cls, open_studies: Callable[[str], Studies], request: Request) -> Self:
        """Opens what the request asks for.

        Where there is no validation split, or it is the one reported on, a random fifth of the
        training patients is held out to choose on.

        Raises:
            UserError: a split is missing, has no labels, shares a patient with another, or has
                both classes of none of the labels.
        """
        studies = _open_splits(open_studies, request.split)
        tables = {split: read_table(part) for split, part in studies.items()}
        check_disjoint(tables)
        train, held_out, fitted = tables["train"], None, tables["train"].labels
        if "validation" not in tables or request.split == "validation":
            held_out = held_out_studies(train.patient_ids, request.seed)
            fitted = train.labels[~held_out]
            if held_out.all():
                raise UserError(
                    "train has one patient only, and there is no other split to validate on: "
                    "build the set with more patients, or with a validation split"
                )
        names = studies["train"].label_names
        wanted = select_labels(names, request.labels)
        asked_for = [names[column] for column in wanted]
        kept = require_both_classes(fitted[:, wanted], asked_for, "the training studies")
        columns = [column for column in wanted if names[column] in kept]
        left_out = [name for name in asked_for if name not in kept]
        if left_out:
            print(f"left out, with one class only in training: {', '.join(left_out)}")
        data = cls(
            studies=studies,
            tables={split: table.with_labels(columns) for split, table in tables.items()},
            report_split=request.split,
            label_names=kept,
            labels_left_out=left_out,
            held_out=held_out,
        )
        split, chosen_on = data.validation
        labels = data.tables[split].labels[chosen_on]
        require_both_classes(labels, kept, "the studies to validate on")
        check_reported(data.report.labels, kept, request.split)
        return data

    @property
    def report(self) -> StudyTable:
        """The studies to report on."""
        return self.tables[self.report_split]

    @property
    def fitted(self) -> Bool[np.ndarray, "studies"]:
        """The training studies that are not held out."""
        if self.held_out is None:
            return np.ones(len(self.tables["train"].study_ids), bool)
        return ~self.held_out

    @property
    def validation(self) -> tuple[str, Bool[np.ndarray, "studies"]]:
        """The split to choose on, and which of its studies."""
        if self.held_out is not None:
            return "train", self.held_out
        return "validation", np.ones(len(self.tables["validation"].study_ids), bool)

    @property
    def chosen_on(self) -> str:
        """`validation` in words."""
        held_out = self.held_out is not None
        return "a random fifth of the training patients" if held_out else "validation"

    def sizes(self) -> dict[str, dict[str, int]]:
        """How many studies, images and patients each split has."""
        return {
            split: {
                "studies": len(table.study_ids),
                "images": len(table.image_study),
                "patients": table.num_patients,
            }
            for split, table in self.tables.items()
        }

    def protocol(self) -> dict[str, Any]:
        """What is to be recorded of them."""
        return {"splits": self.sizes(), "labels_left_out": self.labels_left_out}


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


def _open_splits(open_studies: Callable[[str], Studies], report_split: str) -> dict[str, Studies]:
    if report_split == "train":
        raise UserError("classifiers are trained on train: evaluate another --split")
    splits = {"train": open_studies("train"), report_split: open_studies(report_split)}
    if report_split != "validation":
        try:
            splits["validation"] = open_studies("validation")
        except UserError:  # the set has none; its train split opened above
            pass
    return splits
