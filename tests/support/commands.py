"""Runs `medclip-jax pretrain` in processes of its own, and compares what they wrote."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

# Times and rates are all that two runs of the same computation may differ in.
TIMED = ("per_second", "_seconds")
# Nearly all of the tests' time is compilation: without optimisation it takes half, and without the
# emitters, which JAX 0.12 has no flag for, a seventh.
QUICK_FLAGS = "--xla_backend_optimization_level=0"
if metadata.version("jax").startswith("0.10."):
    QUICK_FLAGS += " --xla_cpu_use_fusion_emitters=false"


def environment(devices: int = 1, **extra: str) -> dict[str, str]:
    flags = f"{QUICK_FLAGS} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | extra


def start(
    config: Path,
    workdir: Path,
    *overrides: str,
    env: dict[str, str] | None = None,
    launcher: Sequence[str] = (),
) -> subprocess.Popen[str]:
    command = [
        *launcher,
        sys.executable,
        "-m",
        "medclip_jax.cli",
        "pretrain",
        "--config",
        str(config),
    ]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir), *overrides],
        env=env or environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(config: Path, workdir: Path, *overrides: str) -> list[subprocess.Popen[str]]:
    """One run of two processes."""
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    numbered = [
        environment(
            JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(index)
        )
        for index in range(2)
    ]
    return [start(config, workdir, *overrides, env=env) for env in numbered]


def lines_written(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_lines(
    workdir: Path, lines: int, processes: Sequence[subprocess.Popen[str]], timeout: float = 120
) -> None:
    """Returns when the run has written so many lines, none of its processes having ended."""
    deadline = time.monotonic() + timeout
    while lines_written(workdir) < lines:
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(process: subprocess.Popen[str], timeout: float = 240) -> str:
    """What the process wrote to standard error; it must have ended well."""
    _, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return errors


def metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without their times and rates."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not key.endswith(TIMED)}
        for line in lines
    ]
