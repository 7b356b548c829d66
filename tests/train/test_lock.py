"""One run a workdir: the second is refused, whatever becomes of the first."""

import errno
import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import commands

import medclip_jax
from medclip_jax.errors import UserError
from medclip_jax.report.page import write_report
from medclip_jax.train import checksums
from medclip_jax.train.lock import LOCK, only_run_in

SMALL = (
    "--config.image_encoder.name=patches",
    "--config.image_encoder.hidden_size=16",
    "--config.image_encoder.patch_size=16",
    "--config.text_encoder.num_layers=1",
    "--config.num_steps=100000",
)
HOLD = """
import sys, time
from pathlib import Path
from medclip_jax.train.lock import only_run_in
with only_run_in(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def refused(process: subprocess.Popen[str], workdir: Path) -> None:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    (line,) = errors.splitlines()
    assert line.startswith("medclip-jax: another run (process ")
    assert f"is at work in {workdir}: wait until it has ended, or give another --workdir" in line


def test_the_second_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    workdir = tmp_path / "new" / "run"
    with only_run_in(workdir):
        with pytest.raises(UserError, match="another run .process"), only_run_in(workdir):
            pass
        with only_run_in(tmp_path / "another"):
            pass
    with only_run_in(workdir):
        pass


def test_a_run_that_fails_gives_its_workdir_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a mistake"), only_run_in(tmp_path):
        raise UserError("a mistake")
    with only_run_in(tmp_path):
        pass


def test_a_run_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match=f"process {process.pid} on "), only_run_in(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (tmp_path / LOCK).exists()
    with only_run_in(tmp_path):
        pass


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with only_run_in(tmp_path):
        pass
    assert f"{tmp_path} cannot be locked (No locks available)" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--workdir .* cannot be written: Not a directory"):
        with only_run_in(tmp_path / "file" / "run"):
            pass


def test_pretrain_is_refused_and_touches_nothing(toy_config: Path, tmp_path: Path) -> None:
    with only_run_in(tmp_path):
        refused(commands.start(toy_config, tmp_path, *SMALL), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.slow
def test_all_processes_of_a_second_run_are_refused(toy_config: Path, tmp_path: Path) -> None:
    with only_run_in(tmp_path):
        for process in commands.start_two(toy_config, tmp_path, *SMALL):
            refused(process, tmp_path)


@pytest.mark.slow
def test_the_first_goes_on_undisturbed_and_can_be_read(toy_config: Path, tmp_path: Path) -> None:
    first = commands.start(toy_config, tmp_path, *SMALL)
    commands.wait_for_lines(tmp_path, 10, [first])
    lines = commands.lines_written(tmp_path)
    refused(commands.start(toy_config, tmp_path, *SMALL), tmp_path)
    assert medclip_jax.load(tmp_path).embed_texts(["small left effusion"]).shape == (1, 8)
    write_report(tmp_path)
    commands.wait_for_lines(tmp_path, lines + 10, [first])
    first.send_signal(signal.SIGTERM)
    assert "is saved" in commands.finish(first)
    steps = [line["step"] for line in commands.metrics(tmp_path) if "loss" in line]
    assert steps == list(range(1, steps[-1] + 1))
    assert checksums.newest_whole(tmp_path / "checkpoints") == steps[-1]
