"""Curves of AUROC against the number of labels: how many labels reach a target, and the figure.

The papers' headline, "as good with so many per cent fewer labels" (Liang et al., arXiv 2010.03060),
is a point on such a curve.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.isotonic import isotonic_regression

_COLORS = ("#1f5fa8", "#8a8f98", "#c2571a", "#3f8f4f", "#7a4fa3", "#b03060", "#2b8c99")
_STYLE = {
    "axes.edgecolor": "#c4c8ce",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.color": "#eceef1",
}


class LabelsToMatch(NamedTuple):
    """How many labelled studies reach a target.

    Attributes:
        labels: Their number, interpolated; infinite where none does, NaN where a figure is.
        is_upper_bound: Whether the smallest budget does already, so that fewer may.
    """

    labels: float
    is_upper_bound: bool


class Curve(NamedTuple):
    """The AUROC of an encoder's runs.

    Attributes:
        num_studies: Labelled studies of each run.
        aurocs: Macro AUROC of each run.
    """

    num_studies: Float[np.ndarray, "budgets seeds"]
    aurocs: Float[np.ndarray, "budgets seeds"]


def labels_to_match(
    num_labels: Float[np.ndarray, "budgets"], aurocs: Float[np.ndarray, "budgets"], target: float
) -> LabelsToMatch:
    """The fewest labels at which the curve reaches the target.

    The curve is the nearest one that never falls (isotonic regression), since more labels do not
    hurt but for noise, and is linear in the logarithm of the number of labels between budgets.

    Args:
        num_labels: Ascending.
        aurocs: Mean AUROC at each.
        target: The AUROC to reach.
    """
    if np.isnan(aurocs).any() or np.isnan(target):
        return LabelsToMatch(np.nan, False)
    rising = isotonic_regression(np.asarray(aurocs, np.float64))
    reached = np.flatnonzero(rising >= target)
    if not reached.size:
        return LabelsToMatch(np.inf, False)
    after = reached[0]
    if after == 0:
        return LabelsToMatch(float(num_labels[0]), True)
    share = (target - rising[after - 1]) / (rising[after] - rising[after - 1])
    low, high = np.log(num_labels[after - 1 : after + 1])
    return LabelsToMatch(float(np.exp(low + share * (high - low))), False)


def label_reduction(labels: float, all_labels: float) -> float:
    """The per cent of labels saved."""
    return 100 * (1 - labels / all_labels)


def draw_curves(
    curves: Mapping[str, Mapping[str, Curve]],
    matches: Mapping[str, LabelsToMatch],
    path: Path,
) -> None:
    """Writes a PNG with a panel a mode: mean, standard deviation and single runs by encoder.

    Args:
        curves: Of each mode the curves by the encoder's name; this one first, the baseline next.
        matches: Of each mode where this encoder reaches the baseline's full-label result, which is
            drawn as a line.
        path: The file to write.
    """
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(5.2 * len(curves), 4.0), layout="constrained")
        panels = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
        for panel, (mode, by_encoder) in zip(panels, curves.items(), strict=True):
            for number, (name, curve) in enumerate(by_encoder.items()):
                _plot(panel, name, curve, _COLORS[number % len(_COLORS)])
            _plot_match(panel, list(by_encoder.values())[1], matches[mode])
            panel.set_title({"linear": "Linear probe", "finetune": "Fine-tuning"}[mode], loc="left")
            panel.set(xscale="log", xlabel="labelled studies", ylabel="macro AUROC")
            panel.xaxis.set_major_formatter(lambda value, position: f"{value:,.0f}")
            panel.legend(frameon=False, fontsize=8, loc="lower right")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _plot(axes: Axes, name: str, curve: Curve, color: str) -> None:
    num_studies, mean = curve.num_studies.mean(axis=1), curve.aurocs.mean(axis=1)
    axes.plot(num_studies, mean, "o-", color=color, markersize=4, linewidth=1.6, label=name)
    if curve.aurocs.shape[1] > 1:
        deviation = curve.aurocs.std(axis=1, ddof=1)
        low, high = mean - deviation, mean + deviation
        axes.fill_between(num_studies, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(curve.num_studies, curve.aurocs, ".", color=color, markersize=3, alpha=0.5)


def _plot_match(axes: Axes, baseline: Curve, match: LabelsToMatch) -> None:
    target = baseline.aurocs[-1].mean()
    axes.axhline(target, color=_COLORS[1], linewidth=0.8, linestyle="--")
    if np.isfinite(match.labels):
        bound = "at most " if match.is_upper_bound else ""
        axes.axvline(match.labels, color=_COLORS[0], linewidth=0.8, linestyle="--")
        axes.annotate(
            f"{bound}{match.labels:,.0f}",
            (match.labels, 1.0),  # above the curves, which rise to the right
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, -4),
            textcoords="offset points",
            va="top",
            fontsize=8,
        )
