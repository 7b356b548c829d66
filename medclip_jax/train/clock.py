"""Where the time of a run goes: seconds in each part of the loop, summed between two lines."""

import contextlib
import time
from collections.abc import Iterator

# Waiting for batches; for the devices, which work on steps beside all the rest; for the copy that
# goes into a checkpoint; for evaluations.
PARTS = ("input", "step", "checkpoint", "evaluation")


class Clock:
    """Adds up seconds by part."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Adds the seconds of the block to one of `PARTS`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[part] += time.monotonic() - started

    def take(self) -> dict[str, float]:
        """The sums since the last call, named `input_seconds` and so on."""
        taken = {f"{part}_seconds": seconds for part, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(PARTS, 0.0)
        return taken
