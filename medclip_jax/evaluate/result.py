"""The outcome of an evaluation and its file: `TASK-DATASET-SPLIT.json` with arrays beside it."""

import contextlib
import dataclasses
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medclip_jax.errors import UserError
from medclip_jax.evaluate.bootstrap import (
    MetricFn,
    bootstrap_intervals,
    compare,
)
from medclip_jax.evaluate.request import Request, result_name

CHANCE = "chance/"


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """What a task found.

    Attributes:
        metrics: Name to value. `random_initialization/NAME` is the same figure of an encoder with
            fresh weights, `given_initialization/NAME` that of one with the published weights that
            training started from, `raw_pixels/NAME` that of the image's thumbnail in place of
            features, `chance/NAME` that of no information at all. NaN is "undefined".
        confidence_intervals: Name to the (low, high) of the 95 % interval.
        num_examples: Studies evaluated.
        num_patients: Their patients.
        protocol: All that is needed to repeat the evaluation.
        arrays: Scores, ranks and identities behind the figures.
        weights_hash: What tells the weights from all others; None if the encoder does not say.
        dataset_hash: The same of the studies of the split.
    """

    metrics: dict[str, float]
    confidence_intervals: dict[str, tuple[float, float]]
    num_examples: int
    num_patients: int
    protocol: dict[str, Any]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    weights_hash: str | None = None
    dataset_hash: str | None = None

    def write(self, output_dir: Path, task: str, dataset: str, split: str) -> Path:
        """Writes the JSON and the `.npz` beside it; returns the JSON's path."""
        return self._write(output_dir, result_name(task, dataset, split))

    def write_or_rescue(self, request: Request) -> Path:
        """Writes the files of the request; returns the JSON's path.

        Raises:
            UserError: they cannot be written there; it says where they were written instead.
        """
        try:
            return self._write(request.output, request.name)
        except OSError as error:
            refused = f"{request.output} cannot be written any more: {error.strerror or error}"
        try:
            path = self._write(Path(tempfile.mkdtemp(prefix="medclip-jax-")), request.name)
        except OSError as error:
            raise UserError(f"{refused}; the figures are printed above only") from error
        raise UserError(f"{refused}; the figures are in {path}")

    def _write(self, output_dir: Path, name: str) -> Path:
        """Both files are there before one of them replaces what was there before."""
        output_dir.mkdir(parents=True, exist_ok=True)
        # Not `with_suffix`: a name may have dots.
        path, arrays = output_dir / f"{name}.json", output_dir / f"{name}.npz"
        content = dataclasses.asdict(dataclasses.replace(self, arrays={}))
        del content["arrays"]
        content["protocol"] |= {"arrays": arrays.name}
        text = json.dumps(to_json(content), indent=2, allow_nan=False) + "\n"
        unfinished = [file.with_name(f".{file.name}.{os.getpid()}") for file in (arrays, path)]
        try:
            with unfinished[0].open("wb") as file:
                np.savez_compressed(file, **self.arrays)  # type: ignore[arg-type]
            unfinished[1].write_text(text)
            os.replace(unfinished[0], arrays)
            os.replace(unfinished[1], path)
        finally:
            for rest in unfinished:
                rest.unlink(missing_ok=True)
        return path


@contextlib.contextmanager
def figures_go_on(path: Path) -> Iterator[None]:
    """Around writing what lies beside the figures: if it fails, a line says so, and no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        print(f"{path} cannot be written: {error.strerror or error}", file=sys.stderr)


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
