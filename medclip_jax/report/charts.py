"""The charts of the page, as SVG in `data:` URIs: curves of the training and ROC curves."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medclip_jax.evaluate.bootstrap import GIVEN, PIXELS, RANDOM
from medclip_jax.evaluate.classification import RankedScores
from medclip_jax.evaluate.table import format_value
from medclip_jax.report.run_files import Evaluation, RunFiles

TRAINED = "#1f5fa8"
VALIDATION = "#c2571a"
BASELINE = "#8a8f98"
GIVEN_COLOR = "#3c8d5a"
PIXELS_COLOR = "#b7772b"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#c4c8ce",
    "axes.grid": True,
    "axes.labelcolor": "#4a5058",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.color": "#eceef1",
    "svg.hashsalt": "medclip_jax",
    "xtick.color": "#4a5058",
    "ytick.color": "#4a5058",
}
_MAX_ROC_COLUMNS = 5


def training_chart(run: RunFiles) -> str:
    """Loss and learning rate by step, and in-batch accuracy where the objective reports it."""
    accuracies = sorted({name for line in run.lines for name in line if name.endswith("accuracy")})
    shown = [name for name in accuracies if not name.startswith("validation/")]
    panels = 2 + bool(shown)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.1 * panels, 3.0), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        _plot_with_validation(axes[0], run, ["loss"], "Loss")
        if shown:
            _plot_with_validation(axes[1], run, shown, "In-batch accuracy")
        axes[-1].plot(*run.series("learning_rate"), color=TRAINED)
        axes[-1].set_title("Learning rate", loc="left")
        axes[-1].yaxis.set_major_formatter(lambda value, position: f"{value:g}")
        for panel in axes:
            panel.set_xlabel("step")
        for panel in axes[1:]:  # a loss has no natural zero, an accuracy and a rate do
            panel.set_ylim(bottom=0)
        return _data_uri(figure)


def _plot_with_validation(axes: Axes, run: RunFiles, names: Sequence[str], title: str) -> None:
    for number, name in enumerate(names):
        suffix = f", {_direction(name)}" if len(names) > 1 else ""
        style = "-" if number == 0 else "--"
        axes.plot(*run.series(name), style, color=TRAINED, linewidth=1.2, label="train" + suffix)
        steps, values = run.series(f"validation/{name}")
        if steps:
            axes.plot(
                steps,
                values,
                style,
                color=VALIDATION,
                linewidth=1.2,
                marker="o",
                markersize=3.5,
                label="validation" + suffix,
            )
    axes.set_title(title, loc="left")
    axes.legend(frameon=False, fontsize=8)


def _direction(name: str) -> str:
    return name.rpartition("/")[2].removesuffix("_accuracy").replace("_", " ")


def roc_chart(evaluation: Evaluation) -> str | None:
    """ROC curves of every label that has both classes, beside the baselines."""
    arrays = evaluation.arrays
    if "scores" not in arrays:
        return None
    columns = [
        column
        for column, name in enumerate(arrays["label_names"].tolist())
        if math.isfinite(evaluation.metrics.get(f"auroc/{name}", math.nan))
    ]
    if not columns:
        return None
    height = math.ceil(len(columns) / _MAX_ROC_COLUMNS)
    width = math.ceil(len(columns) / height)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(2.5 * width, 2.75 * height), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.12)  # type: ignore[call-arg, union-attr]
        panels = figure.subplots(height, width, squeeze=False).ravel()
        for panel in panels[len(columns) :]:
            panel.set_visible(False)
        for panel, column in zip(panels, columns, strict=False):
            _plot_roc(panel, evaluation, column)
        return _data_uri(figure)


def _plot_roc(axes: Axes, evaluation: Evaluation, column: int) -> None:
    arrays = evaluation.arrays
    name, labels = str(arrays["label_names"][column]), arrays["labels"][:, column]
    axes.plot([0, 1], [0, 1], color="#d5d8dd", linewidth=0.8)
    for key, prefix, title, color, style, width in (
        ("random_scores", RANDOM, "random init", BASELINE, "--", 1.2),
        ("given_scores", GIVEN, "given init", GIVEN_COLOR, ":", 1.2),
        ("pixels_scores", PIXELS, "raw pixels", PIXELS_COLOR, "-.", 1.2),
        ("scores", "", "trained", TRAINED, "-", 1.8),
    ):
        if key not in arrays:
            continue
        label = f"{title} {format_value(evaluation.metrics.get(f'{prefix}auroc/{name}'))}"
        curve = RankedScores.from_scores(arrays[key][:, column], labels).roc_curve()
        axes.plot(*curve, style, color=color, linewidth=width, label=label)
    axes.set_title(name, loc="left", fontweight="bold")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), xlabel="1 − specificity")
    axes.set_ylabel("sensitivity")
    axes.legend(frameon=False, fontsize=8, loc="lower right", title="AUROC", title_fontsize=8)


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
