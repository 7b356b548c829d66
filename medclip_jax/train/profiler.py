"""A trace of some steps of a run, for TensorBoard (with its profile plugin) or Perfetto."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict


class ProfilerWindow:
    """Traces steps `start + 1` to `start + steps`, counted from where this process began."""

    def __init__(self, options: ConfigDict, workdir: Path, tell: Callable[[str], None]):
        """Takes `config.profile`; `tell` shows a line to the user."""
        self._first, self._last = options.start + 1, options.start + options.steps
        self._directory = workdir / "profile"
        self._tell = tell
        self._count = 0
        self._tracing = False

    def before_step(self) -> None:
        """Starts the trace before the first step of the window, the wait for its batch included."""
        self._count += 1
        if self._first == self._count <= self._last:
            jax.profiler.start_trace(str(self._directory))
            self._tracing = True

    def after_step(self, result: Any) -> None:
        """Ends the trace after the window's last step, when the devices have its result."""
        if self._tracing and self._count == self._last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes what was traced, if the run ends within the window."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            self._tell(f"a trace of {self._count - self._first + 1} steps is in {self._directory}")
