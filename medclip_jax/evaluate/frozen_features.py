"""Logistic regression on frozen features of images, one a label, and the choice of its penalty.

Features are standardised with the training rows' statistics. Each image of a study is a row; a
study's score is the mean probability of its images. The penalty of each label is the one with the
best validation AUROC.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float

from medclip_jax.errors import UserError
from medclip_jax.evaluate.classification import RankedScores
from medclip_jax.evaluate.encode import StudyTable, encode_images, study_means
from medclip_jax.evaluate.label_subsets import LabelSubset
from medclip_jax.evaluate.labelled_splits import LabelledSplits
from medclip_jax.evaluate.logistic_regression import (
    INVERSE_PENALTIES,
    LinearProbe,
    fit_probes,
)

# From encoded images to a row of features each.
FeaturesFn = Callable[[Sequence[bytes]], Float[np.ndarray, "images features"]]
# The scores of the studies to report on, and of each label the chosen C with its validation AUROC.
Probed = tuple[Float[np.ndarray, "studies labels"], dict[str, dict[str, Any]]]


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


@dataclasses.dataclass(frozen=True)
class FrozenFeatures:
    """The features of every split by one encoder, computed once, and the probes on them."""

    data: LabelledSplits
    rows: Mapping[str, Rows]

    @classmethod
    def compute(cls, features_fn: FeaturesFn, data: LabelledSplits, note: str = "") -> Self:
        """Encodes all images; `note` goes into the progress bars."""
        rows = {}
        for split, table in data.tables.items():
            features = encode_images(features_fn, data.studies[split], table, split + note)
            rows[split] = Rows(features, table)
        return cls(data, rows)

    def probe_all(self) -> Probed:
        """`probe_labels` with every training label; the final fit is to the held-out ones too."""
        train = self.rows["train"]
        fitted = train if self.data.held_out is None else train.subset(self.data.fitted)
        return self._probe(fitted, final=train)

    def probe_subset(self, subset: LabelSubset) -> Probed:
        """`probe_labels` with the labels of a subset, and no others but validation's."""
        fitted = self.rows["train"].subset(subset.studies)
        return self._probe(fitted, final=fitted)

    def _probe(self, fitted: Rows, final: Rows) -> Probed:
        split, studies = self.data.validation
        validation = self.rows[split].subset(studies)
        data = ProbeData(fitted, validation, final, self.rows[self.data.report_split])
        return probe_labels(data, self.data.label_names)


def probe_labels(data: ProbeData, label_names: Sequence[str]) -> Probed:
    """Fits a probe a label, chooses its penalty and scores the studies to report on.

    A label that validation cannot score (one class there) takes the penalty with the best mean
    AUROC over the labels that it can.

    Returns:
        The scores, and of each label the chosen C with its validation AUROC.

    Raises:
        UserError: of every label validation has one class only, or no probe converged.
    """
    paths = [_fit(data.train, column) for column in range(len(label_names))]
    areas = np.array([_validate(data.validation, i, path) for i, path in enumerate(paths)])
    defined = areas[~np.isnan(areas).all(axis=1)]
    if not defined.size:
        names = ", ".join(label_names)
        raise UserError(
            f"no probe of {names} can be validated: none has converged, or validation has one "
            "class only"
        )
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
    """The probes of a label; where its rows have one class only, probes that know nothing."""
    labels = rows.image_labels[:, column]
    known = ~np.isnan(labels)
    targets = labels[known] > 0.5
    if np.unique(targets).size < 2:
        nothing = np.zeros(rows.features.shape[1])
        return [LinearProbe(nothing, 0.0, penalty, True) for penalty in inverse_penalties]
    return fit_probes(rows.features[known], targets, inverse_penalties)


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
