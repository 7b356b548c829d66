"""Where a run's figures go: `metrics.jsonl`, TensorBoard files, and a line or bar on the terminal.

`metrics.jsonl` has one object a line. After a crash the lines past the restored checkpoint are cut
off, so that the file of a resumed run is that of a run which was never stopped.
"""

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

from medclip_jax.train.faults import DiskError

Scalars = Mapping[str, float]


class MetricsWriter:
    """Appends scalars to `metrics.jsonl` and to TensorBoard files (written without TensorFlow)."""

    def __init__(self, workdir: Path, first_step: int):
        """Opens the files; lines of steps after `first_step` are dropped first."""
        self._path = workdir / "metrics.jsonl"
        with self._disk_errors():
            truncate(self._path, first_step)
            self._file = self._path.open("a")
        self._tensorboard = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=first_step + 1,
            write_to_disk=True,
            max_queue=0,  # endless: where the disk is full its thread ends, and a full one blocks
        )

    def write(self, step: int, scalars: Scalars) -> None:
        """Writes one line, at once: a killed process loses none.

        Raises:
            DiskError: the disk is full or fails.
        """
        line = {"step": step} | {name: _finite(value) for name, value in scalars.items()}
        with self._disk_errors():
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        for name, value in scalars.items():
            self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes both; raises as `write` does."""
        with self._disk_errors():
            self._file.close()
            self._tensorboard.close()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DiskError(
                f"{self._path.parent} cannot be written: {error.strerror}; mend that and start "
                "again, the run goes on from its last checkpoint"
            ) from error


class Progress:
    """A progress bar with rate and ETA on a terminal, plain lines elsewhere."""

    def __init__(self, num_steps: int, first_step: int, *, enabled: bool):
        """Starts at `first_step` of `num_steps`; a process that is not the first shows nothing."""
        self._num_steps = num_steps
        self._enabled = enabled
        self._bar = (
            tqdm(total=num_steps, initial=first_step, unit="step", dynamic_ncols=True)
            if enabled and sys.stderr.isatty()
            else None
        )

    def step(self) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.update()

    def log(self, step: int, scalars: Scalars) -> None:
        """Shows the figures of a step."""
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{scalars['loss']:.4f}")
        else:
            seconds = (self._num_steps - step) / max(scalars["steps_per_second"], 1e-9)
            self.message(
                f"step {step}/{self._num_steps}  loss {scalars['loss']:.4f}  "
                f"{scalars['images_per_second']:.0f} images/s  ETA {_clock(seconds)}"
            )

    def message(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._enabled:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def truncate(path: Path, last_step: int) -> None:
    """Keeps the lines of steps up to `last_step`; what a crash has left half written goes too."""
    if not path.exists():
        return
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _step(line) <= last_step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def _step(line: str) -> float:
    """The step of a line; after all others if it is none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
