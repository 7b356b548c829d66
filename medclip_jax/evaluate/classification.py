"""AUROC and average precision (AUPRC) per label and macro, on weighted rows.

Scores are sorted once; each weighting then costs two cumulative sums, which is what makes a
thousand bootstrap resamples quick. Rows whose label is NaN (unknown) are left out of that label.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from medclip_jax.errors import UserError
from medclip_jax.finite import require_finite


@dataclasses.dataclass(frozen=True)
class RankedScores:
    """The scores of one label, sorted from the highest.

    Attributes:
        order: Rows with a known label, highest score first.
        positive: Whether each of them has the finding.
        last_of_tie: Positions in `order` after which the score changes: the distinct thresholds.
    """

    order: Int[np.ndarray, "known"]
    positive: Bool[np.ndarray, "known"]
    last_of_tie: Int[np.ndarray, "thresholds"]

    @classmethod
    def from_scores(
        cls, scores: Float[np.ndarray, "rows"], labels: Float[np.ndarray, "rows"]
    ) -> "RankedScores":
        """Sorts the rows whose label is known; higher scores mean "present".

        Raises:
            UserError: a score is not finite, or a label is none of 1, 0 and NaN.
        """
        require_finite(scores, "scores of a label")
        known = np.flatnonzero(~np.isnan(labels))
        if not np.isin(labels[known], (0, 1)).all():
            raise UserError("a label must be 1 (present), 0 (absent) or NaN (unknown)")
        order = known[np.argsort(-scores[known], kind="stable")]
        ranked = scores[order]
        last_of_tie = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])
        return cls(order, labels[order] > 0.5, last_of_tie)

    def auroc_and_auprc(self, weights: Float[np.ndarray, "rows"]) -> tuple[float, float]:
        """Area under the ROC curve (ties count one half) and average precision, as scikit-learn's.

        Average precision is the sum over thresholds of (recall step) x precision, which does not
        interpolate (Davis and Goadrich, ICML 2006, say why it should not). Both are NaN if the
        weighted rows have only one class.
        """
        true, false = self._cumulative(weights)
        if not true.size or true[-1] == 0 or false[-1] == 0:
            return np.nan, np.nan
        true_steps = np.diff(true, prepend=0.0)
        false_steps = np.diff(false, prepend=0.0)
        auroc = np.sum(false_steps * (true - true_steps / 2)) / (true[-1] * false[-1])
        total = true + false
        precision = np.divide(true, total, out=np.zeros_like(true), where=total > 0)
        return float(auroc), float(np.sum(true_steps * precision) / true[-1])

    def roc_curve(self) -> tuple[Float[np.ndarray, "points"], Float[np.ndarray, "points"]]:
        """False and true positive rates from (0, 0) to (1, 1); the label must have both classes."""
        true, false = self._cumulative(np.ones(self.order.max(initial=0) + 1))
        return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])

    def _cumulative(
        self, weights: Float[np.ndarray, "rows"]
    ) -> tuple[Float[np.ndarray, "thresholds"], Float[np.ndarray, "thresholds"]]:
        ranked = weights[self.order]
        true = np.cumsum(np.where(self.positive, ranked, 0.0))[self.last_of_tie]
        false = np.cumsum(np.where(self.positive, 0.0, ranked))[self.last_of_tie]
        return true, false


class ClassificationMetrics:
    """AUROC and AUPRC of each label, and their means over the labels that have both classes."""

    def __init__(
        self,
        scores: Float[np.ndarray, "rows labels"],
        labels: Float[np.ndarray, "rows labels"],
        label_names: Sequence[str],
    ):
        self.label_names = tuple(label_names)
        self.ranked = [
            RankedScores.from_scores(scores[:, i], labels[:, i]) for i in range(len(label_names))
        ]
        self.scorable = [bool(r.positive.any() and not r.positive.all()) for r in self.ranked]

    def __call__(self, weights: Float[np.ndarray, "rows"]) -> dict[str, float]:
        """`auroc/LABEL`, `auprc/LABEL`, `macro_auroc` and `macro_auprc`.

        A label with one class only is NaN and no part of the macro means. Where a resample loses
        a class of any other label its macro means are NaN, so that they are always means over the
        same labels.
        """
        areas = np.array([ranked.auroc_and_auprc(weights) for ranked in self.ranked])
        scorable = areas[self.scorable]
        macro = scorable.mean(axis=0) if scorable.size else (np.nan, np.nan)
        metrics = {"macro_auroc": float(macro[0]), "macro_auprc": float(macro[1])}
        for name, (auroc, auprc) in zip(self.label_names, areas, strict=True):
            metrics |= {f"auroc/{name}": float(auroc), f"auprc/{name}": float(auprc)}
        return metrics

    def chance(self) -> dict[str, float]:
        """What scores without information give: AUROC one half, AUPRC the label's prevalence."""
        prevalence = [r.positive.mean() if r.positive.size else np.nan for r in self.ranked]
        scorable = [p for p, keep in zip(prevalence, self.scorable, strict=True) if keep]
        macro = float(np.mean(scorable)) if scorable else np.nan
        metrics = {"macro_auroc": 0.5, "macro_auprc": macro}
        for name, value in zip(self.label_names, prevalence, strict=True):
            metrics |= {f"auroc/{name}": 0.5, f"auprc/{name}": float(value)}
        return metrics


def label_counts(
    labels: Float[np.ndarray, "rows labels"], label_names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """How many rows have each label present, absent and unknown."""
    return {
        name: {
            "present": int(np.sum(column > 0.5)),
            "absent": int(np.sum(column <= 0.5)),
            "unknown": int(np.sum(np.isnan(column))),
        }
        for name, column in zip(label_names, labels.T, strict=True)
    }
