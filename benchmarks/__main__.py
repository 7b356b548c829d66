"""`make bench`: runs every benchmark and writes `benchmarks/results.json`."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from absl import logging

from benchmarks import checkpoint, data_build, input_pipeline, loss, train_step


def main() -> None:
    """Runs them one after the other; each prints its table and returns its figures."""
    logging.set_verbosity(logging.ERROR)
    results: dict[str, Any] = {
        "machine": f"{platform.machine()}, {jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {name: version(name) for name in ("jax", "flax", "grain", "torch")},
    }
    for module in (loss, data_build, input_pipeline, train_step, checkpoint):
        name = module.__name__.split(".")[-1]
        print(f"\n=== {name}", flush=True)
        results[name] = module.main()
    path = Path(__file__).parent / "results.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
