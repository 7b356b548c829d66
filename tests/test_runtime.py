"""Starting JAX: joining other processes, and where compiled programs are kept."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from support import commands

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


STATUSES = """
import json, sys
from medclip_jax import cli
for arguments in json.loads(sys.argv[1]):
    try:
        cli.main(arguments)
    except SystemExit as end:
        print(end.code)
"""
READ = ["--checkpoint", "no_run"]
EMBED = ["embed", *READ, "--texts", "no_texts", "--output", "out.npz"]
STARTING_JAX = [
    EMBED,
    ["demo", "--workdir", "no_run"],
    ["pretrain", "--config", "convirt.py:demo", "--workdir", "no_run"],
    ["pretrain", "--config", "convirt.py:demo", "--plan"],
    ["evaluate", "retrieval", *READ, "--dataset", "synthetic_cxr"],
    ["export", *READ, "--format", "safetensors", "--output", "out"],
]


def refusals(folder: Path, calls: list[list[str]], **variables: str) -> list[str]:
    """The lines with which the calls of `medclip-jax` are refused in such an environment."""
    done = subprocess.run(
        [sys.executable, "-c", STATUSES, json.dumps(calls)],
        env=os.environ | variables,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["2"] * len(calls), done.stderr
    assert not list(folder.iterdir())
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("platform", "plugin"), [("cuda", "jax_cuda12_plugin"), ("tpu", "libtpu"), ("nonsense", "")]
)
def test_devices_that_are_not_here_are_one_line(platform: str, plugin: str, tmp_path: Path) -> None:
    if plugin and importlib.util.find_spec(plugin):
        pytest.skip(f"{plugin} is installed")
    calls = [EMBED] if plugin else STARTING_JAX  # each imports most of the package
    lines = refusals(tmp_path, calls, JAX_PLATFORMS=platform)
    assert len(lines) == len(calls)
    for line in lines:
        assert line.startswith(f"medclip-jax: JAX_PLATFORMS is '{platform}', which JAX cannot use")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("JAX_ENABLE_X64", "perhaps"), ("JAX_DEFAULT_MATMUL_PRECISION", "high-ish")],
)
def test_what_jax_does_not_take_is_one_line(variable: str, value: str, tmp_path: Path) -> None:
    (line,) = refusals(tmp_path, [EMBED], **{variable: value})
    assert line.startswith("medclip-jax: JAX refuses a variable of its environment: ")
    assert variable.lower() in line.lower() and value in line


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("JAX_COORDINATOR_ADDRESS", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", home)
    runtime.start()


# What other programs of the user may need, each of which changes results or ends in a traceback.
OTHER_NUMERICS = {
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
}


def test_numbers_do_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)

    def numbers() -> np.ndarray:
        return np.asarray(jax.random.normal(jax.random.key(0), (3,)) + np.arange(3))

    expected = numbers()
    try:
        for name, value in OTHER_NUMERICS.items():
            jax.config.update(name, value)
    finally:
        runtime.start()
    np.testing.assert_array_equal(numbers(), expected, strict=True)


@pytest.mark.slow
def test_a_run_does_not_depend_on_the_environment(toy_config: Path, tmp_path: Path) -> None:
    others = {name.upper(): str(value) for name, value in OTHER_NUMERICS.items()}
    for name, variables in {"usual": {}, "other": others}.items():
        env = commands.environment(**variables)
        flags = ("--config.num_steps=6", "--config.optimizer.ema_decay=0.9")
        commands.finish(commands.start(toy_config, tmp_path / name, *flags, env=env))
        export = ["export", "--checkpoint", name, "--format", "huggingface", "--output", "out"]
        done = subprocess.run(
            [sys.executable, "-m", "medclip_jax.cli", *export, "--verify"],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        (tmp_path / "out").rename(tmp_path / name / "export")
    assert commands.metrics(tmp_path / "other") == commands.metrics(tmp_path / "usual")
    usual, other = (tmp_path / n / "export" / "model.safetensors" for n in ("usual", "other"))
    assert usual.read_bytes() == other.read_bytes()


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
