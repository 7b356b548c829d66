"""What a run's workdir holds for the report: the config, the metrics and the evaluations."""

import dataclasses
import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from medclip_jax.errors import UserError
from medclip_jax.evaluate.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluation file with the arrays beside it (none if the `.npz` is gone).

    Attributes:
        folder: where its figures and pictures lie, if it drew any.
        weights_hash: of the weights it measured; None if the file is from before it was kept.
    """

    task: str
    dataset: str
    split: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    num_examples: int
    num_patients: int
    protocol: dict[str, Any]
    arrays: dict[str, np.ndarray]
    folder: Path = Path()
    weights_hash: str | None = None

    @property
    def name(self) -> str:
        """What its file is called, without the ending."""
        return self.folder.name

    @property
    def step(self) -> int | None:
        """The training step of the weights, if the file tells it."""
        return self.protocol.get("step")


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """A run: its config, the lines of `metrics.jsonl` and its evaluations by task and set."""

    name: str
    config: dict[str, Any]
    lines: list[dict[str, float]]
    evaluations: list[Evaluation]

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, from the lines that have it."""
        points = [(line["step"], line[name]) for line in self.lines if name in line]
        return [int(step) for step, _ in points], [value for _, value in points]

    def of_task(self, task: str) -> list[Evaluation]:
        """The evaluations of a task."""
        return [evaluation for evaluation in self.evaluations if evaluation.task == task]


def read_run(workdir: Path) -> RunFiles:
    """Reads a workdir.

    Raises:
        UserError: it holds no metrics, or a file of it is damaged.
    """
    metrics = workdir / "metrics.jsonl"
    if not metrics.is_file():
        raise UserError(f"{metrics} not found: give the --workdir of a run that has trained")
    # A run that is being written may end in half a line.
    written = metrics.read_bytes().splitlines(keepends=True)
    lines = [_read_line(line, metrics) for line in written if line.endswith(b"\n")]
    if not lines:
        raise UserError(f"{metrics} holds no line yet: wait for the run's first log")
    config = workdir / "config.json"
    return RunFiles(
        name=workdir.resolve().name,
        config=_read_json(config.read_bytes(), config) if config.is_file() else {},
        lines=lines,
        evaluations=read_evaluations(workdir),
    )


def _read_line(line: bytes, path: Path) -> dict[str, float]:
    try:
        values = _with_nan(_read_json(line, path))
        int(values["step"])
    except (KeyError, TypeError, ValueError):
        text = repr(line[:60].decode(errors="replace").strip())
        raise UserError(f"{path}: {text} is no line of metrics: remove it") from None
    return values


def read_evaluations(workdir: Path) -> list[Evaluation]:
    """The evaluations of a workdir, by the names of their files: first the default protocol's.

    What is not called after a task is not an evaluation's, and is passed over.

    Raises:
        UserError: a file is damaged.
    """
    paths = (workdir / "evaluations").glob("*.json")
    named = [path for path in paths if path.name.startswith(tuple(f"{task}-" for task in TASKS))]
    return [_read_evaluation(path) for path in sorted(named, key=lambda path: path.stem)]


def _read_evaluation(path: Path) -> Evaluation:
    content = _read_json(path.read_bytes(), path)
    arrays = _read_arrays(path.with_name(f"{path.stem}.npz"))
    try:
        protocol = content["protocol"]
        return Evaluation(
            task=protocol["task"],
            dataset=protocol["dataset"],
            split=protocol["split"],
            metrics=_with_nan(content["metrics"]),
            intervals={
                name: (_nan(low), _nan(high))
                for name, (low, high) in content["confidence_intervals"].items()
            },
            num_examples=content["num_examples"],
            num_patients=content["num_patients"],
            protocol=protocol,
            arrays=arrays,
            folder=path.with_name(path.stem),
            weights_hash=content.get("weights_hash"),
        )
    except KeyError as error:
        raise UserError(f"{path} has no {error}: evaluate again, or remove it") from None
    except (TypeError, ValueError, AttributeError):
        raise UserError(f"{path} is damaged: evaluate again, or remove it") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    try:
        with np.load(path) as stored:
            return dict(stored)
    # EOFError of an empty file, the next two of one that was cut, TypeError of a single array.
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, TypeError):
        raise UserError(f"{path} is damaged: evaluate again, or remove it") from None


def _read_json(content: bytes, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError:
        raise UserError(f"{path} is not valid JSON: restore it, or remove it") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds {values!r:.60}, but should hold named values: restore it")
    return values


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _with_nan(values: dict[str, float | None]) -> dict[str, float]:
    return {name: _nan(value) for name, value in values.items()}
