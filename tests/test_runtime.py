"""Starting JAX: joining other processes, and where compiled programs are kept."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from medclip_jax import runtime
from medclip_jax.errors import UserError


def test_without_a_coordinator_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    runtime.initialize_distributed()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES"):
        runtime.initialize_distributed()


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "somewhere"}, "HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "somewhere:0"}, "HOST:PORT"),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "localhost:1234",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "2",
            },
            "from 0 to 1",
        ),
        ({"MEDCLIP_JAX_DISTRIBUTED": "yes"}, "set it to auto"),
    ],
)
def test_wrong_variables_are_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=named):
        runtime.initialize_distributed()


TIMEOUT = 2
# Statuses: the second says that another start would fail the same way.
MAY_START_AGAIN, MUST_BE_MENDED = 1, 2
JOIN = f"""
import sys
from medclip_jax import runtime
from medclip_jax.errors import UserError
try:
    runtime.initialize_distributed(start_timeout={TIMEOUT}, peer_timeout=10)
except UserError as error:
    print("medclip-jax:", error, file=sys.stderr)
    sys.exit(2)
"""


def join(status: int, **variables: str) -> str:
    """What a process says that cannot join, which must end in time, with this status."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", JOIN], env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("medclip-jax: ") and done.stderr.count("\n") == 1
    assert time.monotonic() - started < TIMEOUT + 30  # mostly for the imports
    return done.stderr


def one_of_two(port: int, index: int) -> dict[str, str]:
    return {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
    }


@pytest.fixture
def listening() -> int:
    """A port that a program has which is not ours."""
    with socket.create_server(("localhost", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def test_a_coordinator_that_cannot_be_reached_is_named(free: int) -> None:
    error = join(MAY_START_AGAIN, **one_of_two(free, 1))
    assert f"localhost:{free} cannot be reached (Connection refused)" in error


def test_a_program_that_is_no_coordinator_does_not_keep_us_waiting(listening: int) -> None:
    error = join(MAY_START_AGAIN, **one_of_two(listening, 1))
    assert f"joined the coordinator at localhost:{listening}" in error


def test_processes_that_do_not_come_are_not_waited_for(free: int) -> None:
    error = join(MAY_START_AGAIN, **one_of_two(free, 0))
    assert f"not all 2 processes have joined the coordinator at localhost:{free}" in error


def test_a_port_that_is_taken_is_named(listening: int) -> None:
    error = join(MUST_BE_MENDED, **one_of_two(listening, 0))
    assert f"cannot listen at localhost:{listening} (Address already in use)" in error


def test_without_a_cluster_jax_finds_none() -> None:
    error = join(MUST_BE_MENDED, MEDCLIP_JAX_DISTRIBUTED="auto", JAX_COORDINATOR_ADDRESS="")
    assert "JAX does not find its cluster here" in error


@pytest.fixture
def restore_cache() -> None:
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.usefixtures("restore_cache")
def test_compiled_programs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runtime.start()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "medclip_jax" / "xla")
