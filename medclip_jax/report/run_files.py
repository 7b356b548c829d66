"""What a run's workdir holds for the report: the config, the metrics and the evaluations."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from medclip_jax.errors import UserError


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
    lines = [line for line in metrics.read_text().splitlines(keepends=True) if line.endswith("\n")]
    if not lines:
        raise UserError(f"{metrics} holds no line yet: wait for the run's first log")
    config = workdir / "config.json"
    return RunFiles(
        name=workdir.resolve().name,
        config=_read_json(config.read_text(), config) if config.is_file() else {},
        lines=[_with_nan(_read_json(line, metrics)) for line in lines],
        evaluations=read_evaluations(workdir),
    )


def read_evaluations(workdir: Path) -> list[Evaluation]:
    """The evaluations of a workdir, by the names of their files: first the default protocol's.

    Raises:
        UserError: a file is damaged.
    """
    paths = (workdir / "evaluations").glob("*.json")
    return [_read_evaluation(path) for path in sorted(paths, key=lambda path: path.stem)]


def _read_evaluation(path: Path) -> Evaluation:
    content = _read_json(path.read_text(), path)
    arrays = {}
    stored_at = path.with_name(f"{path.stem}.npz")
    if stored_at.is_file():
        with np.load(stored_at) as stored:
            arrays = dict(stored)
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


def _read_json(text: str, path: Path) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError:
        raise UserError(f"{path} is not valid JSON: restore it, or remove it") from None


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _with_nan(values: dict[str, float | None]) -> dict[str, float]:
    return {name: _nan(value) for name, value in values.items()}
