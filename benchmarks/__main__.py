"""`make bench`: runs all benchmarks, or those that are named, and keeps their figures.

python -m benchmarks [NAME ...] [--quick]

Each prints its figures; those of the full form go into `benchmarks/results.json`, where each
benchmark has an entry with the machine and the versions it ran on. What has a table of its own is
a command of its own: `python -m benchmarks.gpu` and `python -m benchmarks.systems`.
"""

import argparse
import importlib
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from medclip_jax.errors import UserError

RESULTS = Path(__file__).parent / "results.json"
PYTORCH = ("torch", "torchvision", "transformers")
# Of each benchmark the packages that it needs beside ours.
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "loss": (),
    "data_build": (),
    "input_pipeline": PYTORCH,
    "train_step": PYTORCH,
    "checkpoint": (),
    "retrieval": (),
}
Figures = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs them one after the other; exits with 2 and one line where the call is wrong."""
    try:
        _run(_parse(arguments))
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2)


class _Parser(argparse.ArgumentParser):
    """Reports a wrong call as one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python -m benchmarks --help")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="benchmarks", description="Speed and memory as ratios.")
    names = ", ".join(BENCHMARKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {names}; default: all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is written")
    options = parser.parse_args(arguments)
    options.names = list(dict.fromkeys(options.names)) or list(BENCHMARKS)
    for name in options.names:
        if name in ("gpu", "systems"):
            raise UserError(f"{name} is a command of its own: python -m benchmarks.{name}")
        if name not in BENCHMARKS:
            raise UserError(f"no benchmark {name!r}; there are {names}")
        for package in BENCHMARKS[name]:
            if importlib.util.find_spec(package) is None:
                raise UserError(f"{name} needs {package}: pip install -e '.[dev]'")
    return options


def _run(options: argparse.Namespace) -> None:
    results = {} if options.quick else _read_results()
    for name in options.names:
        print(f"\n=== {name}", flush=True)
        figures = run(name, quick=options.quick)
        print(json.dumps(figures, indent=2), flush=True)
        if not options.quick:
            results[name] = _conditions() | figures
            _write_results(results)
    print("\nquick: no results" if options.quick else f"\nwritten to {RESULTS}")


def run(name: str, *, quick: bool) -> Figures:
    """The figures of a benchmark."""
    return importlib.import_module(f"benchmarks.{name}").main(quick=quick)


def _conditions() -> Figures:
    import jax

    versions = {}
    for package in ("jax", "flax", "grain", "numpy", "torch"):
        if importlib.util.find_spec(package) is not None:
            versions[package] = metadata.version(package)
    devices = jax.devices()
    machine = f"{platform.machine()}, {len(devices)} x {devices[0].device_kind}"
    return {"machine": machine, "versions": versions}


def _read_results() -> dict[str, Figures]:
    try:
        return json.loads(RESULTS.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{RESULTS} is not JSON ({error}); mend or remove it") from error


def _write_results(results: dict[str, Figures]) -> None:
    """After each benchmark, so that one that fails takes nothing with it."""
    temporary = RESULTS.with_suffix(".new")
    temporary.write_text(json.dumps(results, indent=2) + "\n")
    os.replace(temporary, RESULTS)


if __name__ == "__main__":
    main()
