"""The tables of the page: figures with their intervals beside the baselines and chance."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from medclip_jax.evaluate.bootstrap import PIXELS, RANDOM, TITLES
from medclip_jax.evaluate.result import CHANCE
from medclip_jax.evaluate.table import (
    baselines_in,
    format_interval,
    format_value,
    protocol_words,
    short_title,
    shown_metrics,
)
from medclip_jax.report.run_files import Evaluation, RunFiles

_DIRECTIONS = {
    "text_to_image": "Text → image",
    "image_to_text": "Image → text",
    "image_to_image": "Image → image",
}
_NAMES = {"median_rank": "median rank", "mrr": "mean reciprocal rank"}
# Of the config, what a reader wants to see first.
_SUMMARY_KEYS = {
    "Image encoder": "image_encoder.name",
    "Text encoder": "text_encoder.name",
    "Embedding size": "projection.size",
    "Steps": "num_steps",
    "Batch size": "batch_size",
    "Learning rate": "optimizer.learning_rate",
    "Schedule": "schedule.name",
    "Image crop": "augmentation.crop_size",
    "Seed": "seed",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A figure and, where it has one, its interval; and whether it is of a baseline or chance."""

    value: str
    interval: str = ""
    is_baseline: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table; `strong` for the headline."""

    name: str
    cells: list[Cell]
    strong: bool = False


@dataclasses.dataclass(frozen=True)
class Headline:
    """A key figure at the top of the page."""

    title: str
    value: str
    interval: str
    beside: str
    where: str


def metric_rows(evaluation: Evaluation) -> list[Row]:
    """Of each figure that the printed table has: trained, the baselines, chance."""
    prefixes = ("", *baselines_in(evaluation.metrics), CHANCE)
    return [
        Row(
            metric_name(name),
            [_cell(evaluation, prefix + name) for prefix in prefixes],
            name.endswith("recall@1"),
        )
        for name in shown_metrics(evaluation.metrics)
    ]


def baseline_titles(evaluation: Evaluation) -> list[str]:
    """What heads the columns of the baselines."""
    return [short_title(prefix) for prefix in baselines_in(evaluation.metrics)]


def metric_name(metric: str) -> str:
    """`text_to_image_recall@1` as "Text → image, recall@1"."""
    for direction, title in _DIRECTIONS.items():
        if metric.startswith(direction):
            name = metric.removeprefix(direction + "_")
            return f"{title}, {_NAMES.get(name, name)}"
    return metric


def label_rows(evaluation: Evaluation) -> list[Row]:
    """Macro means and labels: AUROC and AUPRC, trained and baselines, and the prevalence."""
    labels = [name.removeprefix("auroc/") for name in evaluation.metrics if name[:6] == "auroc/"]
    rows = [Row("Macro mean", _label_cells(evaluation, "macro_auroc", "macro_auprc"), True)]
    return rows + [
        Row(label, _label_cells(evaluation, f"auroc/{label}", f"auprc/{label}")) for label in labels
    ]


def _label_cells(evaluation: Evaluation, auroc: str, auprc: str) -> list[Cell]:
    prefixes = ("", *baselines_in(evaluation.metrics))
    names = [prefix + name for name in (auroc, auprc) for prefix in prefixes]
    return [_cell(evaluation, name) for name in (*names, CHANCE + auprc)]


def _cell(evaluation: Evaluation, name: str) -> Cell:
    interval = format_interval(evaluation.intervals.get(name), name)
    value = format_value(evaluation.metrics.get(name), name)
    is_baseline = name.startswith((*TITLES, CHANCE))
    return Cell(value, "" if interval == "–" else interval, is_baseline)


def headlines(run: RunFiles) -> list[Headline]:
    """The first figure a reader asks for, of each task's first evaluation."""
    wanted = (
        ("retrieval", "text_to_image_recall@1", "Text → image recall@1"),
        ("zero-shot", "macro_auroc", "Zero-shot macro AUROC"),
        ("linear-probe", "macro_auroc", "Linear-probe macro AUROC"),
    )
    found = []
    for task, metric, title in wanted:
        for evaluation in run.of_task(task)[:1]:
            if metric in evaluation.metrics:
                found.append(_headline(evaluation, metric, title))
    return found


def _headline(evaluation: Evaluation, metric: str, title: str) -> Headline:
    value, random = _cell(evaluation, metric), _cell(evaluation, RANDOM + metric)
    chance = evaluation.metrics.get(CHANCE + metric)
    pixels = evaluation.metrics.get(PIXELS + metric)
    beside = f"random init {random.value}, "
    beside += f"raw pixels {format_value(pixels)}, " if pixels is not None else ""
    beside += f"chance {format_value(chance)}"
    where = f"{evaluation.dataset}, {evaluation.split} split"
    if words := protocol_words(evaluation.protocol):
        where += f" ({words})"
    return Headline(title, value.value, value.interval, beside, where)


def config_rows(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The objectives that are on and the data, with their weights, and the main settings."""
    objectives = config.get("objectives", {}).items()
    weights = [(name, options["weight"]) for name, options in objectives]
    rows = [
        ("Objectives", ", ".join(f"{name} × {weight:g}" for name, weight in weights if weight)),
        ("Data", _data(config.get("data", {}))),
    ]
    for title, key in _SUMMARY_KEYS.items():
        value = _lookup(config, key.split("."))
        if value is not None:
            rows.append((title, f"{value:,}" if type(value) is int else str(value)))
    return [(title, value) for title, value in rows if value]


def _data(options: dict[str, Any]) -> str:
    """The dataset, or the sets of the mixture with their weights and what is taken of them."""
    parts = []
    for name, weight, *modality in options.get("mixture") or ():
        parts.append(f"{name}{f' ({modality[0]})' if modality else ''} × {weight:g}")
    return ", ".join(parts) or options.get("dataset", "")


def _lookup(config: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config
