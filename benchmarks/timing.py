"""Times of several implementations that take turns, so that other load touches them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def median_seconds(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median over the rounds, after one that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in taken.items()}
