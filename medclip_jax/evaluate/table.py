"""The table of figures that an evaluation prints."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medclip_jax.evaluate.bootstrap import IMPROVEMENTS, RANDOM, TITLES
from medclip_jax.evaluate.options import PATHS
from medclip_jax.evaluate.result import CHANCE, EvaluationResult


def result_rows(result: EvaluationResult) -> list[list[str]]:
    """Of each figure its name, value, 95 % interval, the baselines that there are, and chance."""
    rows = []
    for name in shown_metrics(result.metrics):
        value = result.metrics[name]
        interval = format_interval(result.confidence_intervals.get(name), name)
        prefixes = (*baselines_in(result.metrics), CHANCE)
        beside = [result.metrics.get(prefix + name) for prefix in prefixes]
        values = [format_value(number, name) for number in (value, *beside)]
        rows.append([name, values[0], interval, *values[1:]])
    return rows


def baselines_in(metrics: Mapping[str, float]) -> list[str]:
    """The prefixes of the baselines that figures are given for; random initialisation always."""
    return [prefix for prefix in TITLES if prefix == RANDOM or _has(metrics, prefix)]


def _has(metrics: Mapping[str, float], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in metrics)


def shown_metrics(metrics: Mapping[str, float]) -> list[str]:
    """The names of the figures that have a line of their own.

    Baselines and chance stand beside them, and those of single masks, of which there
    are hundreds, are in the JSON only.
    """
    beside = (*TITLES, *IMPROVEMENTS.values(), CHANCE)
    return [name for name in metrics if not name.startswith(beside) and "/scale_" not in name]


def format_value(value: float | None, name: str = "") -> str:
    """Three decimals, four below a hundredth, one above ten; a dash where it is undefined."""
    if value is None or math.isnan(value):
        return "–"
    if name.endswith("rank") or abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.4f}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def format_interval(interval: tuple[float, float] | None, name: str = "") -> str:
    """`low to high`, or a dash."""
    if interval is None or any(math.isnan(end) for end in interval):
        return "–"
    return f"{format_value(interval[0], name)} to {format_value(interval[1], name)}"


# What was left out by the names of a protocol's entries; labels that cannot be trained are said
# before training.
_LEFT_OUT = {
    "labels_without_rules": "labels that no rule reads off a report",
    "studies_left_out_without_text": "studies without text",
}
ONE_PATIENT = "There is one patient only: nothing says how figures vary, so there are no intervals."


def left_out_lines(protocol: Mapping[str, Any]) -> list[str]:
    """What the figures are not about, a line each."""
    lines = []
    for name, words in _LEFT_OUT.items():
        if value := protocol.get(name):
            what = ", ".join(value) if isinstance(value, list) else f"{value:,}"
            lines.append(f"left out, {words}: {what}")
    return lines + [
        f"left out, {part}: {why}" for part, why in protocol.get("left_out", {}).items()
    ]


def protocol_words(protocol: Mapping[str, Any]) -> str:
    """The tag and the options that make another protocol than the default; "" if it is that."""
    words = [protocol["tag"]] if protocol.get("tag") else []
    for name in protocol.get("differences", {}):
        value = protocol[name]
        if isinstance(value, Mapping):  # what was read from the file stands there
            words.append(f"own {name}")
            continue
        values = [str(item) for item in (value if isinstance(value, list) else [value])]
        if name in PATHS:  # a page or a card tells nothing of the machine
            values = [Path(path).name for path in values]
        words.append(f"{name.replace('_', ' ')} {', '.join(values)}")
    return "; ".join(words)


def print_result(result: EvaluationResult, title: str) -> None:
    """Prints the figures, then the paired improvements over the baselines."""
    titles = [short_title(prefix) for prefix in baselines_in(result.metrics)]
    header = ["metric", "value", "95 % CI", *titles, "chance"]
    rows = [header, *result_rows(result)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    print(f"\n{title}: {result.num_examples} studies of {result.num_patients} patients")
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells))
        if number == 0:
            print("  ".join("-" * width for width in widths))
    for prefix, improvement in IMPROVEMENTS.items():
        for name in (name for name in result.metrics if name.startswith(improvement)):
            interval = format_interval(result.confidence_intervals.get(name))
            value = format_value(result.metrics[name])
            metric = name.removeprefix(improvement)
            print(f"{metric} minus {short_title(prefix)}: {value} (95 % CI {interval})")
    notes = left_out_lines(result.protocol)
    for line in [*notes, ONE_PATIENT] if result.num_patients == 1 else notes:
        print(line)


def short_title(prefix: str) -> str:
    """What heads a column: "random init" or "given init"."""
    return TITLES[prefix].replace("initialisation", "init")
