"""The `linear-probe` task: logistic regression on frozen image features, one a label.

Features are those before the projection, standardised with the training rows' statistics. Each
image of a study is a row; a study's score is the mean probability of its images. The penalty of
each label is the one with the best validation AUROC. At a label budget the probe is fitted to a
subset of the training studies, and the penalty chosen on the same validation studies.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float

from medclip_jax.errors import UserError
from medclip_jax.evaluate.bootstrap import TITLES
from medclip_jax.evaluate.classification import RankedScores
from medclip_jax.evaluate.encode import (
    ImageTextEncoder,
    Studies,
    StudyTable,
    baselines,
    encode_images,
    study_means,
)
from medclip_jax.evaluate.label_budgets import Budgets, add_budgets
from medclip_jax.evaluate.label_scoring import of_each, score_studies
from medclip_jax.evaluate.label_subsets import LabelSubset
from medclip_jax.evaluate.labelled_splits import LabelledSplits
from medclip_jax.evaluate.logistic_regression import (
    INVERSE_PENALTIES,
    LinearProbe,
    fit_probes,
)
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult


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
    def compute(cls, encoder: ImageTextEncoder, data: LabelledSplits, note: str = "") -> Self:
        """Encodes all images; `note` goes into the progress bars."""
        rows = {}
        for split, table in data.tables.items():
            features = encode_images(
                encoder.image_features, data.studies[split], table, split + note
            )
            rows[split] = Rows(features, table)
        return cls(data, rows)

    def probe_all(self) -> tuple[Float[np.ndarray, "studies labels"], dict[str, dict[str, Any]]]:
        """`probe_labels` with every training label; the final fit is to the held-out ones too."""
        train = self.rows["train"]
        fitted = train if self.data.held_out is None else train.subset(self.data.fitted)
        return self._probe(fitted, final=train)

    def probe_subset(self, subset: LabelSubset) -> Float[np.ndarray, "studies labels"]:
        """The scores of the studies to report on by probes that know the labels of a subset."""
        fitted = self.rows["train"].subset(subset.studies)
        return self._probe(fitted, final=fitted)[0]

    def _probe(
        self, fitted: Rows, final: Rows
    ) -> tuple[Float[np.ndarray, "studies labels"], dict[str, dict[str, Any]]]:
        split, studies = self.data.validation
        validation = self.rows[split].subset(studies)
        data = ProbeData(fitted, validation, final, self.rows[self.data.report_split])
        return probe_labels(data, self.data.label_names)


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


def evaluate(
    encoder: ImageTextEncoder, open_studies: Callable[[str], Studies], request: Request
) -> EvaluationResult:
    """Trains on `train`, chooses the penalty on `validation`, reports on the request's split.

    Where there is no validation split, or it is the one reported on, the penalty is chosen on a
    fifth of the training patients, and the probe is then fitted to all of them.

    With `request.fractions` the probe is also fitted to subsets of the labels; see
    `label_budgets.add_budgets`. Their budgets are shares of the studies that are not held out, and
    the probe of a subset is fitted to nothing else. A label with one class in a subset gets the
    same score for every study, an AUROC of one half.

    Raises:
        UserError: a split is missing, has no labels, or shares a patient with another; a budget
            is not possible.
    """
    data = LabelledSplits.open(open_studies, request)
    budgets = Budgets.draw(data, request.fractions, request) if request.fractions else None
    features = {"": FrozenFeatures.compute(encoder, data)} | {
        prefix: FrozenFeatures.compute(baseline, data, f", {TITLES[prefix]}")
        for prefix, baseline in baselines(encoder, request.seed).items()
    }
    probed = {prefix: frozen.probe_all() for prefix, frozen in features.items()}
    result = score_studies(
        data.report,
        data.label_names,
        {prefix: scores for prefix, (scores, _) in probed.items()},
        request,
        _protocol(data)
        | of_each("chosen", {prefix: chosen for prefix, (_, chosen) in probed.items()}),
    )
    if budgets is None:
        return result
    scorers = {prefix: frozen.probe_subset for prefix, frozen in features.items()}
    return add_budgets(result, data, budgets, request, scorers)


def _protocol(data: LabelledSplits) -> dict[str, Any]:
    return {
        "features": "image encoder, before the projection; standardised on the training rows",
        "classifier": "logistic regression (scikit-learn, L-BFGS to convergence), one a label",
        "inverse_penalties": INVERSE_PENALTIES,
        "penalty_chosen_on": data.chosen_on,
        "final_fit_on": "train",
        "aggregation": "each image is a row; mean probability of the images of a study",
        **data.protocol(),
    }
