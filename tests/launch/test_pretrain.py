"""`launch/pretrain.py`: the status by which a scheduler knows whether to start again."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import commands

LAUNCH = Path(__file__).parents[2] / "launch"
COMMAND = [sys.executable, str(LAUNCH / "pretrain.py")]
# Two processes that write down their ids.
NUMBERED = [str(LAUNCH / "local.sh"), "2", "bash", "-c", 'echo $$ >"$0$JAX_PROCESS_ID"; exec "$@"']


def pretrain(*arguments: str | Path, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*launcher, *COMMAND, *map(str, arguments)],
        env=commands.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_stopped_then_complete_then_nothing_to_do(
    toy_config: Path, tmp_path: Path
) -> None:
    launcher, workdir = [*NUMBERED, str(tmp_path / "process")], tmp_path / "run"
    quick = ("--config.checkpoint_every=1", "--config.data.validation_examples=0")
    flags = ("--config.num_steps=500", *quick)
    process = pretrain(toy_config, workdir, *flags, launcher=launcher)
    while not list((workdir / "checkpoints").glob("[0-9]")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    # One is told; the other must not take its own end for that of the run.
    os.kill(int((tmp_path / "process1").read_text()), signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 75
    last = max(int(path.name) for path in (workdir / "checkpoints").iterdir())

    flags = (f"--config.num_steps={last + 1}", *quick)
    process = pretrain(toy_config, workdir, *flags, launcher=launcher)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors  # of both: local.sh would end with another
    assert f"resumed from the checkpoint at step {last}" in errors
    steps = [line["step"] for line in commands.metrics(workdir)]
    assert steps == list(range(1, last + 2))

    # A process that is started once more: it would have waited for the other.
    process = pretrain(toy_config, workdir, *flags)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and not errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("configs/convirt.py",), "usage: launch/pretrain.py CONFIG WORKDIR"),
        (("missing.py", "w"), "missing.py not found"),
        (("configs/convirt.py", "w", "--config.num_stepz=1"), "num_stepz"),
        (("configs/convirt.py", "w", "--batch"), "--batch"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    arguments = tuple(str(tmp_path / "w") if part == "w" else part for part in arguments)
    process = pretrain(*arguments)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in errors and errors.count("\n") == 1


@pytest.mark.parametrize("flag", [["--from-step", "6"], ["--from-step=6"]])
def test_a_run_goes_back_once(
    flag: list[str], toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("launch_pretrain", LAUNCH / "pretrain.py")
    launch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launch)
    calls: list[list[str]] = []
    monkeypatch.setattr(launch.cli, "main", calls.append)
    start = ["pretrain", "--config", str(toy_config), "--workdir", str(tmp_path)]
    steps = "--config.num_steps=8"
    (tmp_path / "checkpoints" / "8").mkdir(parents=True)
    launch.main([str(toy_config), str(tmp_path), *flag, steps])
    assert calls == [[*start, steps, "--from-step", "6"]]  # though the last step is saved
    (tmp_path / "set_aside" / "after_6").mkdir(parents=True)
    (tmp_path / "checkpoints" / "8").rmdir()
    assert launch.main([str(toy_config), str(tmp_path), *flag, steps]) == launch.STOPPED
    assert calls[1:] == [[*start, steps]]
