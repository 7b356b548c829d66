"""Training steps and InfoNCE on one accelerator: this package, and PyTorch beside it.

    python -m benchmarks.gpu --output gpu.json

measures steps of ConVIRT and of ViT-B/16 + BERT-base, of 256 rows and of as many as fit, and the
tiled loss against the dense one. Each measurement has a process of its own, so that neither memory
nor an error of one touches the next, and is written at once: a run that was cut off goes on from
its file when started again. Without an accelerator tiny sizes run on the CPU.

Our step has the augmentation in it, and PyTorch's gets views that are ready. Texts have no padding.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TINY_NOTE = "figures of a CPU at tiny sizes: only shows that the script runs"
MODELS = {"convirt": "ResNet-50 + BERT-base", "vit": "ViT-B/16 + BERT-base"}
FRAMEWORKS = ("jax", "torch")
JOB_SECONDS = 300
Record = dict[str, Any]


class Case(NamedTuple):
    """A training step; without dropout BERT's attention can be cuDNN's."""

    model: str
    dropout: bool = True
    attention: str = "auto"
    frameworks: tuple[str, ...] = FRAMEWORKS

    def __str__(self) -> str:
        dropout = "dropout" if self.dropout else "no dropout"
        return f"{self.model}, {dropout}, attention {self.attention}"


# In the order of their importance, for a run that is cut off.
MAIN_CASES = tuple(Case(model) for model in MODELS)
OTHER_CASES = (
    Case("vit", dropout=False),
    Case("vit", dropout=False, attention="xla", frameworks=("jax",)),
    Case("convirt", dropout=False),
)


class Sizes(NamedTuple):
    """What is measured.

    Attributes:
        rows: of a step.
        most_rows: the most that are tried where the largest batch is searched.
        searched: cases where it is.
        others: cases that are measured beside `MAIN_CASES`.
        loss_rows: of the losses.
        dim: of their embeddings.
        tile_size: of the tiled loss.
    """

    rows: int
    most_rows: int
    searched: tuple[Case, ...]
    others: tuple[Case, ...]
    loss_rows: tuple[int, ...]
    dim: int
    tile_size: int


FULL = Sizes(256, 8192, MAIN_CASES, OTHER_CASES, (32_768, 65_536), 512, 2048)
TINY = Sizes(4, 4, MAIN_CASES, (), (64,), 8, 16)


def main(arguments: Sequence[str] | None = None) -> Record:
    """Prints a line for each measurement and a table, and returns what the JSON file holds."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="JSON file, written after each measurement")
    parser.add_argument("--quick", action="store_true", help="tiny sizes on the CPU")
    options = parser.parse_args(arguments)
    session = _open_session(options.output, options.quick)
    sizes = TINY if session.tiny else FULL
    for case in MAIN_CASES:
        session.steps(case, sizes.rows)
    for rows in sizes.loss_rows:
        session.losses(rows, sizes)
    for case in sizes.others:
        session.steps(case, sizes.rows)
    for case in sizes.searched:
        for framework in case.frameworks:
            session.largest(case, framework, sizes)
    session.content["complete"] = True
    session.write()
    print("\n" + "\n".join(table(session.content)), flush=True)
    return session.content


class Session:
    """Runs measurements that are not in the file yet, and writes it after each."""

    def __init__(self, content: Record, path: Path | None) -> None:
        self.content, self._path = content, path
        self.tiny = "note" in content
        self._started = time.monotonic()

    def steps(self, case: Case, rows: int) -> None:
        """Measures a case in each framework."""
        for framework in case.frameworks:
            self._step(case, framework, rows)

    def losses(self, rows: int, sizes: Sizes) -> None:
        """Measures the tiled loss alone, then the dense one and how far the two are apart."""
        for kind in ("tiled", "dense"):
            job = {"rows": rows, "dim": sizes.dim, "tile_size": sizes.tile_size, "kind": kind}
            self._measure(f"loss, {rows} rows, {kind}", "jax_loss", job)

    def largest(self, case: Case, framework: str, sizes: Sizes) -> None:
        """Finds the largest batch that fits, and notes its rows; 0 if none does."""
        if framework == "torch" and "missing" in self.content["torch"]:
            return
        rows = largest_batch(
            sizes.rows, sizes.most_rows, lambda rows: self._step(case, framework, rows)
        )
        self.content["largest"][f"{case}, {framework}"] = rows
        self.write()

    def write(self) -> None:
        """Brings the ratios up to date and replaces the file."""
        self.content["ratios"] = ratios(self.content)
        if self._path:
            temporary = self._path.with_name(self._path.name + ".new")
            temporary.write_text(json.dumps(self.content, indent=2) + "\n")
            temporary.replace(self._path)

    def _step(self, case: Case, framework: str, rows: int) -> Record:
        name = f"{case}, {rows} rows, {framework}"
        if framework == "torch" and (missing := self.content["torch"].get("missing")):
            return self._keep(name, {"missing": missing})
        job = {
            "model": case.model,
            "dropout": case.dropout,
            "attention": case.attention,
            "rows": rows,
        }
        if framework == "jax":
            return self._measure(name, "jax_step", job)
        # Triton needs a C compiler, which may be missing: better a figure without it than none.
        record = self._measure(name, "torch_step", job | {"compiled": not self.tiny})
        if "error" in record and not self.tiny:
            error = record["error"]
            record = self._measure(name, "torch_step", job | {"compiled": False})
            self._keep(name, record | {"compile_error": error})
        return record

    def _measure(self, name: str, function: str, job: Mapping[str, Any]) -> Record:
        known = self.content["measurements"].get(name)
        if known and "error" not in known:
            return known
        return self._keep(name, run_job(function, job, self.tiny))

    def _keep(self, name: str, record: Record) -> Record:
        self.content["measurements"][name] = record
        self.write()
        seconds = time.monotonic() - self._started
        print(f"{seconds:6.0f} s  {name}: {describe(record)}", flush=True)
        return record


def _open_session(path: Path | None, quick: bool) -> Session:
    """A session of the device that there is, with what an unfinished run on it has measured."""
    device = run_job("jax_device", {}, quick)
    if "error" in device:
        raise SystemExit(f"JAX does not start: {device['error']}")
    tiny = device["platform"] == "cpu"
    torch = run_job("torch_device", {}, tiny)
    head = {
        **({"note": TINY_NOTE} if tiny else {}),
        "device": device["device"],
        "versions": device["versions"],
        "torch": {"missing": torch["error"]} if "error" in torch else torch,
    }
    print(json.dumps(head, indent=2), flush=True)
    if path and path.exists():
        before = json.loads(path.read_text())
        if not before.get("complete") and all(before.get(key) == head[key] for key in head):
            print(f"goes on with {len(before['measurements'])} measurements of {path}", flush=True)
            return Session(before, path)
    return Session(head | {"measurements": {}, "largest": {}, "complete": False}, path)


def run_job(function: str, job: Mapping[str, Any], tiny: bool) -> Record:
    """What a function of `gpu_jobs` returns in a fresh process.

    Returns:
        Its figures; or `out_of_memory`, or `error` with the last line that it wrote.
    """
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    if tiny or function.startswith("torch"):  # PyTorch has the accelerator for itself
        environment["JAX_PLATFORMS"] = "cpu"
    if tiny:
        environment["OMP_NUM_THREADS"] = "1"  # threads only wait for one another
        environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    text = json.dumps({**job, "function": function, "tiny": tiny})
    command = [sys.executable, "-m", "benchmarks.gpu_jobs", text]
    root = Path(__file__).parents[1]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=JOB_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {JOB_SECONDS} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        return {"error": lines[-1][:500]}
    return json.loads(done.stdout.splitlines()[-1])


def largest_batch(rows: int, most: int, measure: Callable[[int], Record]) -> int:
    """The largest batch that fits, to a quarter of `rows`; 0 if none does.

    Rows are doubled until they do not fit, then the interval is halved. A size that needs more
    than 1.25 times the device's memory by the line through two that fit is not tried.

    Args:
        rows: what is tried first.
        most: more are not tried.
        measure: tries so many rows; its record has `out_of_memory` or `error` if they do not fit.
    """
    fits, too_many = 0, None
    peaks: list[tuple[int, float, float]] = []
    while too_many is None or too_many - fits > max(rows // 4, 1):
        size = (2 * fits or rows) if too_many is None else (fits + too_many) // 2
        if size > most:
            break
        if _is_hopeless(size, peaks):
            too_many = size
            continue
        record = measure(size)
        if "images_per_second" not in record:
            too_many = size
            continue
        fits = size
        if record["peak_mib"] is not None:
            peaks.append((size, record["peak_mib"], record["limit_mib"]))
    return fits


def _is_hopeless(size: int, peaks: Sequence[tuple[int, float, float]]) -> bool:
    if len(peaks) < 2:
        return False
    (less, lower, _), (more, upper, limit) = peaks[-2:]
    return upper + (upper - lower) / (more - less) * (size - more) > 1.25 * limit


def ratios(content: Record) -> dict[str, float]:
    """JAX's images a second over PyTorch's, by case and rows; tiled over dense for the losses."""
    measured, found = content["measurements"], {}
    for name, record in measured.items():
        start, _, kind = name.rpartition(", ")
        other = measured.get(f"{start}, {'torch' if kind == 'jax' else 'dense'}", {})
        if kind == "jax" and "images_per_second" in record and "images_per_second" in other:
            found[start] = record["images_per_second"] / other["images_per_second"]
        if kind == "tiled" and "ms" in record and "ms" in other:
            found[f"{start}, time"] = record["ms"] / other["ms"]
            if record["peak_mib"] is not None:
                found[f"{start}, memory"] = record["peak_mib"] / other["peak_mib"]
    for case in MAIN_CASES:
        rows = [content["largest"].get(f"{case}, {framework}") for framework in FRAMEWORKS]
        if all(rows):
            ours, theirs = (
                measured[f"{case}, {size} rows, {framework}"]["images_per_second"]
                for size, framework in zip(rows, FRAMEWORKS, strict=True)
            )
            found[f"{case}, largest batches"] = ours / theirs
    return found


def table(content: Record) -> list[str]:
    """All figures as lines of text, under the device and the versions."""
    lines = [content["note"]] if "note" in content else []
    lines += [f"{content['device']}; {content['versions']}; PyTorch: {content['torch']}", ""]
    lines += [f"{model}: {name}, bfloat16" for model, name in MODELS.items()]
    width = max(map(len, content["measurements"]))
    lines += [
        f"{name:{width}}  {describe(record)}" for name, record in content["measurements"].items()
    ]
    lines += ["", "largest batches that fit:"]
    lines += [f"{name:{width}}  {rows} rows" for name, rows in content["largest"].items()]
    lines += ["", "JAX's images/s over PyTorch's; of the losses tiled over dense:"]
    lines += [f"{name:{width}}  {value:.2f}" for name, value in content["ratios"].items()]
    return lines


def describe(record: Record) -> str:
    """A measurement in a few words."""
    if "missing" in record:
        return f"missing ({record['missing']})"
    if "error" in record:
        return f"failed ({record['error']})"
    if "out_of_memory" in record:
        return "out of memory"
    memory = "" if record["peak_mib"] is None else f", peak {record['peak_mib']:,.0f} MiB"
    if "images_per_second" not in record:
        return f"{record['ms']:.2f} ms{memory}"
    share = "" if record["mfu"] is None else f", MFU {100 * record['mfu']:.1f} %"
    eager = "" if record.get("compiled", True) else ", not compiled"
    return f"{record['images_per_second']:,.1f} images/s{share}{memory}{eager}"


if __name__ == "__main__":
    main()
