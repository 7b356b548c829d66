"""Percentile bootstrap that resamples patients, the unit in which chest X-rays are independent.

A metric is a function of the weights of its rows: all ones give the figure itself, and in a
resample a row weighs as often as its patient was drawn. Weights let a metric sort its scores once
and be computed a thousand times.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from medclip_jax.finite import require_finite

MetricFn = Callable[[Float[np.ndarray, "rows"]], Mapping[str, float]]

# What stands before the name of a figure that the trained encoder is held against: of the same
# with fresh weights, of the same with the published weights that its training started from, and of
# no encoder at all, the image's pixels instead of features.
RANDOM = "random_initialization/"
GIVEN = "given_initialization/"
PIXELS = "raw_pixels/"
TITLES = {RANDOM: "random initialisation", GIVEN: "given initialisation", PIXELS: "raw pixels"}
# What stands before the name of the figure's difference to a baseline's.
IMPROVEMENTS = {prefix: f"improvement_over_{prefix}" for prefix in TITLES}


@dataclasses.dataclass(frozen=True)
class Intervals:
    """What the bootstrap found.

    Attributes:
        intervals: name of a metric to its (low, high); NaN where no resample defined it, and all
            of them where there is one patient only, of whom every resample is the same.
        undefined: name of a metric to the number of resamples dropped because it was undefined
            in them (a single class), where there were any.
    """

    intervals: dict[str, tuple[float, float]]
    undefined: dict[str, int]


def bootstrap_intervals(
    metric_fn: MetricFn,
    patients: Sequence[str],
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Intervals:
    """Percentile intervals of every metric, over resamples of the patients with replacement.

    Args:
        metric_fn: Takes float64 weights `[rows]` and returns name to value; NaN is "undefined".
        patients: Patient of each row; the rows of a patient are drawn together.
        num_resamples: Number of resamples.
        seed: Seed of the draw; the same patients and seed give the same resamples.
        level: Coverage of the intervals.

    Returns:
        The intervals, from the resamples in which a metric was defined (Efron and Tibshirani,
        An Introduction to the Bootstrap, 1993, chapter 13).

    Raises:
        UserError: a metric is infinite, which no figure may be.
    """
    if len(set(patients)) < 2:
        names = metric_fn(np.ones(len(patients)))
        return Intervals(dict.fromkeys(names, (np.nan, np.nan)), {})
    draws = [metric_fn(weights) for weights in _patient_weights(patients, num_resamples, seed)]
    intervals, undefined = {}, {}
    for name in draws[0]:
        values = np.array([draw[name] for draw in draws], np.float64)
        defined = values[~np.isnan(values)]
        require_finite(defined, f"resampled figures {name}")
        tails = ((1 - level) / 2, (1 + level) / 2)
        low, high = np.quantile(defined, tails) if defined.size else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
        if defined.size < values.size:
            undefined[name] = values.size - defined.size
    return Intervals(intervals, undefined)


def _patient_weights(
    patients: Sequence[str], num_resamples: int, seed: int
) -> Iterator[Float[np.ndarray, "rows"]]:
    unique, patient_of_row = np.unique(np.asarray(patients), return_inverse=True)
    generator = np.random.default_rng(seed)
    for _ in range(num_resamples):
        drawn = generator.integers(len(unique), size=len(unique))
        yield np.bincount(drawn, minlength=len(unique)).astype(np.float64)[patient_of_row]


def compare(
    trained_fn: MetricFn,
    baselines: Mapping[str, MetricFn],
    patients: Sequence[str],
    headline: Sequence[str],
) -> tuple[dict[str, float], MetricFn]:
    """The figures of an encoder with those of baselines, by their prefixes, beside them.

    All are computed on the same resamples, so that the interval of the improvement of each
    `headline` metric is that of a paired bootstrap. A baseline that is not in `TITLES` has none.

    Returns:
        The figures on all rows, and the metric function to hand to `bootstrap_intervals`.
    """

    def all_figures(weights: Float[np.ndarray, "rows"]) -> dict[str, float]:
        trained = trained_fn(weights)
        figures = dict(trained)
        for prefix, metric_fn in baselines.items():
            found = metric_fn(weights)
            figures |= {prefix + name: value for name, value in found.items()}
            if prefix in IMPROVEMENTS:
                figures |= {
                    IMPROVEMENTS[prefix] + name: trained[name] - found[name] for name in headline
                }
        return figures

    return all_figures(np.ones(len(patients))), all_figures
