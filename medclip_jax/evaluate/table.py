"""The table of figures that an evaluation prints."""

import math
from collections.abc import Mapping

from medclip_jax.evaluate.bootstrap import IMPROVEMENTS, RANDOM, TITLES
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


def short_title(prefix: str) -> str:
    """What heads a column: "random init" or "given init"."""
    return TITLES[prefix].replace("initialisation", "init")
