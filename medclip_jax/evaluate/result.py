"""The outcome of an evaluation and its file: `TASK-DATASET-SPLIT.json` with arrays beside it."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medclip_jax.evaluate.bootstrap import (
    MetricFn,
    bootstrap_intervals,
    compare,
)

CHANCE = "chance/"


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """What a task found.

    Attributes:
        metrics: Name to value. `random_initialization/NAME` is the same figure of an encoder with
            fresh weights, `given_initialization/NAME` that of one with the published weights that
            training started from, `chance/NAME` that of no information at all. NaN is "undefined".
        confidence_intervals: Name to the (low, high) of the 95 % interval.
        num_examples: Studies evaluated.
        num_patients: Their patients.
        protocol: All that is needed to repeat the evaluation.
        arrays: Scores, ranks and identities behind the figures.
    """

    metrics: dict[str, float]
    confidence_intervals: dict[str, tuple[float, float]]
    num_examples: int
    num_patients: int
    protocol: dict[str, Any]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def write(self, output_dir: Path, task: str, dataset: str, split: str) -> Path:
        """Writes the JSON and the `.npz` beside it, each atomically; returns the JSON's path."""
        output_dir.mkdir(parents=True, exist_ok=True)
        path = output_dir / f"{task}-{dataset.replace('/', '_')}-{split}.json"
        arrays = path.with_suffix(".npz")
        temporary = arrays.with_name(f".{arrays.name}.{os.getpid()}.npz")
        np.savez_compressed(temporary, **self.arrays)  # type: ignore[arg-type]
        os.replace(temporary, arrays)
        content = dataclasses.asdict(dataclasses.replace(self, arrays={}))
        del content["arrays"]
        content["protocol"] |= {"arrays": arrays.name}
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(to_json(content), indent=2, allow_nan=False) + "\n")
        os.replace(temporary, path)
        return path


def summarize(
    trained_fn: MetricFn,
    baselines: Mapping[str, MetricFn],
    chance: Mapping[str, float],
    patients: Sequence[str],
    headline: Sequence[str],
    *,
    num_resamples: int,
    seed: int,
) -> tuple[dict[str, float], dict[str, tuple[float, float]], dict[str, Any]]:
    """Figures with those of the baselines and chance, intervals, and how they were made."""
    metrics, all_figures = compare(trained_fn, baselines, patients, headline)
    found = bootstrap_intervals(all_figures, patients, num_resamples, seed)
    protocol = {
        "confidence_level": 0.95,
        "method": "percentile bootstrap that resamples patients; improvements are paired",
        "num_resamples": num_resamples,
        "seed": seed,
        "resamples_dropped_as_undefined": found.undefined,
    }
    metrics |= {CHANCE + name: value for name, value in chance.items()}
    return metrics, found.intervals, {"bootstrap": protocol}


def to_json(value: Any) -> Any:
    """`value` in JSON's own types: NumPy becomes Python, and NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, Path) else value
