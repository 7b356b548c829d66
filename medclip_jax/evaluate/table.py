"""The table of figures that an evaluation prints."""

import math
from collections.abc import Mapping

from medclip_jax.evaluate.bootstrap import IMPROVEMENT, RANDOM
from medclip_jax.evaluate.result import CHANCE, EvaluationResult


def result_rows(result: EvaluationResult) -> list[list[str]]:
    """Of each figure its name, value, 95 % interval, random initialisation and chance."""
    rows = []
    for name in shown_metrics(result.metrics):
        value = result.metrics[name]
        interval = format_interval(result.confidence_intervals.get(name), name)
        beside = [result.metrics.get(prefix + name) for prefix in (RANDOM, CHANCE)]
        values = [format_value(number, name) for number in (value, *beside)]
        rows.append([name, values[0], interval, *values[1:]])
    return rows


def shown_metrics(metrics: Mapping[str, float]) -> list[str]:
    """The names of the figures that have a line of their own.

    Random initialisation and chance stand beside them, and those of single masks, of which there
    are hundreds, are in the JSON only.
    """
    beside = (RANDOM, IMPROVEMENT, CHANCE)
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


def print_result(result: EvaluationResult, title: str) -> None:
    """Prints the figures, then the paired improvements over random initialisation."""
    header = ["metric", "value", "95 % CI", "random init", "chance"]
    rows = [header, *result_rows(result)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    print(f"\n{title}: {result.num_examples} studies of {result.num_patients} patients")
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells))
        if number == 0:
            print("  ".join("-" * width for width in widths))
    for name, value in result.metrics.items():
        if name.startswith(IMPROVEMENT):
            interval = format_interval(result.confidence_intervals.get(name))
            metric = name.removeprefix(IMPROVEMENT)
            print(f"{metric} minus random init: {format_value(value)} (95 % CI {interval})")
