"""What machines do to a run: disks fill, files rot and vanish, other processes die."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from support import commands

from medclip_jax.config import load_config
from medclip_jax.data import pipeline
from medclip_jax.data.tokenizer import load_tokenizer
from medclip_jax.errors import UserError
from medclip_jax.train import checksums

PEER_TIMEOUT = 10
SMALL = (
    "--config.image_encoder.name=patches",
    "--config.image_encoder.hidden_size=16",
    "--config.image_encoder.patch_size=16",
    "--config.text_encoder.num_layers=1",
    "--config.num_steps=12",
    "--config.distributed.start_timeout=60",
    f"--config.distributed.peer_timeout={PEER_TIMEOUT}",
)
ENDLESS = "--config.num_steps=100000"


@pytest.fixture(scope="module")
def undisturbed(toy_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    commands.finish(commands.start(toy_config, workdir, *SMALL))
    return workdir


@pytest.fixture
def workdir(undisturbed: Path, tmp_path: Path) -> Path:
    """A finished run of its own, with checkpoints at the steps 10 (or 5) and 12."""
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


def failed(process: subprocess.Popen[str], status: int, timeout: float = 120) -> str:
    _, errors = process.communicate(timeout=timeout)
    assert process.returncode == status, errors
    return errors


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


def arrays_of(checkpoint: Path) -> Path:
    """The file with most of the parameters; Orbax alone does not see a flipped bit there."""
    return max((checkpoint / "model").rglob("d/*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("how", ["deleted", "cut", "flipped"])
def test_every_damaged_file_of_the_items_is_found(workdir: Path, how: str) -> None:
    checkpoint = workdir / "checkpoints" / "12"
    assert checksums.find_damage(checkpoint) is None
    files = sorted(path for path in checkpoint.glob("*/**/*") if path.is_file())
    assert {path.relative_to(checkpoint).parts[0] for path in files} == {
        *("model", "training", "data", "metrics")
    }
    for path in files:
        data = path.read_bytes()
        damage(path, how)
        assert str(path.relative_to(checkpoint)) in str(checksums.find_damage(checkpoint))
        path.write_bytes(data)
    assert checksums.find_damage(checkpoint) is None


def test_the_checkpoint_before_a_damaged_one_is_used(
    undisturbed: Path, workdir: Path, toy_config: Path
) -> None:
    directory = workdir / "checkpoints"
    before = checksums.saved_steps(directory)[-2]
    damage(arrays_of(directory / "12"), "flipped")
    errors = commands.finish(commands.start(toy_config, workdir, *SMALL))
    assert "the checkpoint at step 12 is damaged (model/" in errors
    assert f"step {before} is used" in errors
    assert f"resumed from the checkpoint at step {before}" in errors
    assert commands.metrics(workdir) == commands.metrics(undisturbed)
    assert checksums.find_damage(directory / "12") is None
    assert (workdir / checksums.DAMAGED / "12").is_dir()


def test_damaged_checkpoints_are_left_where_no_whole_one_is(
    workdir: Path, toy_config: Path
) -> None:
    directory = workdir / "checkpoints"
    steps = checksums.saved_steps(directory)
    for step in steps:
        damage(arrays_of(directory / str(step)), "deleted")
    errors = failed(commands.start(toy_config, workdir, *SMALL), 2)
    assert errors.startswith("medclip-jax: every checkpoint in") and errors.count("\n") == 1
    assert checksums.saved_steps(directory) == steps


def test_a_second_damaged_checkpoint_of_a_step_is_kept_too(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    for content in ("first", "second"):
        for step in (3, 6):
            item = directory / str(step) / "model"
            item.mkdir(parents=True, exist_ok=True)
            (item / "array").write_text(content)
        (directory / "6" / checksums.CHECKSUMS).write_text('{"model/array": [1, 0]}')
        assert checksums.newest_whole(directory) == 3
    kept = {path.name: path for path in (tmp_path / checksums.DAMAGED).iterdir()}
    assert {n: (p / "model/array").read_text() for n, p in kept.items()} == {
        "6": "first",
        "6.1": "second",
    }


def test_killed_while_saving(undisturbed: Path, toy_config: Path, tmp_path: Path) -> None:
    process = commands.start(toy_config, tmp_path, *SMALL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("checkpoints/[56].orbax-checkpoint-tmp")):
        assert process.poll() is None and time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate()
    errors = commands.finish(commands.start(toy_config, tmp_path, *SMALL))
    assert "resumed from the checkpoint at step" in errors and "damaged" not in errors
    assert commands.metrics(tmp_path) == commands.metrics(undisturbed)


# A file system of 900 KiB holds two checkpoints, not three. It is only there within the script.
FULL_DISK = """
mount -t tmpfs -o size=900k tmpfs "$1" || exit 99
shift
"$@"
status=$?
cp -r "$0/run" "$0.after"
exit $status
"""


def test_a_full_disk_is_one_line_and_keeps_the_checkpoint_before(
    undisturbed: Path, toy_config: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    may = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if not shutil.which("unshare") or subprocess.run(may, capture_output=True).returncode:
        pytest.skip("no file system can be mounted in a namespace of one's own here")
    launcher = ["unshare", "-Urm", "sh", "-c", FULL_DISK, str(disk), str(disk)]
    process = commands.start(toy_config, disk / "run", *SMALL, launcher=launcher)
    errors = failed(process, 2)
    # TensorStore's threads print tracebacks of their own, even into the middle of a line.
    (line,) = (line for line in errors.splitlines() if "medclip-jax:" in line)
    assert f"{disk}/run" in line and "No space left on device" in line
    after = tmp_path / "disk.after"
    steps = checksums.saved_steps(after / "checkpoints")
    assert steps and f"kept are the steps {', '.join(map(str, steps))}:" in line
    assert checksums.find_damage(after / "checkpoints" / str(steps[-1])) is None
    assert f"step {steps[-1]}" in commands.finish(commands.start(toy_config, after, *SMALL))
    assert commands.metrics(after) == commands.metrics(undisturbed)


@pytest.fixture
def own_data(toy_data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the toy data, and its file of the training split."""
    copy = Path(shutil.copytree(toy_data, tmp_path / "data"))
    (shard,) = copy.rglob("*-train.array_record*")
    return copy, shard


@pytest.mark.parametrize("how", ["deleted", "cut", "overwritten"])
def test_a_data_file_that_cannot_be_read_is_named(
    toy_config: Path, undisturbed: Path, own_data: tuple[Path, Path], how: str
) -> None:
    data_dir, shard = own_data
    config: ConfigDict = load_config(str(toy_config), [f"--config.data.data_dir={data_dir}"])
    tokenizer = load_tokenizer(undisturbed / "tokenizer")
    iterator = pipeline.make_iterator(
        config.data, seed=0, batch_size=16, tokenizer=tokenizer, max_length=16
    )
    if how == "deleted":
        shard.unlink()
    elif how == "cut":
        os.truncate(shard, 2**15)
    else:
        shard.write_bytes(b"x" * shard.stat().st_size)
    with pytest.raises(UserError, match=f"{shard.name} cannot be read .*: put it back"):
        next(iterator)


def test_a_data_file_that_vanished_ends_the_run_and_it_goes_on_when_it_is_back(
    undisturbed: Path, toy_config: Path, tmp_path: Path, own_data: tuple[Path, Path]
) -> None:
    data_dir, shard = own_data
    data, run = f"--config.data.data_dir={data_dir}", tmp_path / "run"
    commands.finish(commands.start(toy_config, run, *SMALL, data, "--config.num_steps=6"))
    shard.rename(tmp_path / "away")
    errors = failed(commands.start(toy_config, run, *SMALL, data), 2)
    assert errors.splitlines()[-1].startswith(f"medclip-jax: {shard} cannot be read")
    assert "Traceback" not in errors
    (tmp_path / "away").rename(shard)
    errors = commands.finish(commands.start(toy_config, run, *SMALL, data))
    assert "resumed from the checkpoint at step 6" in errors
    assert commands.metrics(run)[-1] == commands.metrics(undisturbed)[-1]


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_dead_process_ends_the_other_with_a_line(
    toy_config: Path, tmp_path: Path, victim: int
) -> None:
    processes = commands.start_two(toy_config, tmp_path, *SMALL, ENDLESS)
    commands.wait_for_lines(tmp_path, 5, processes)
    processes[victim].send_signal(signal.SIGKILL)
    started = time.monotonic()
    _, errors = processes[1 - victim].communicate(timeout=120)
    assert time.monotonic() - started < PEER_TIMEOUT + 5
    processes[victim].communicate()
    # 1 is ours, 6 the abort of JAX's coordination service, whichever hears of it first
    assert processes[1 - victim].returncode in (1, -signal.SIGABRT)
    (line,) = (line for line in errors.splitlines() if line.startswith("medclip-jax:"))
    assert "another process" in line and "the last saved step is" in line


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_silent_process_ends_the_other_in_time(
    toy_config: Path, tmp_path: Path, victim: int
) -> None:
    processes = commands.start_two(toy_config, tmp_path, *SMALL, ENDLESS)
    commands.wait_for_lines(tmp_path, 5, processes)
    processes[victim].send_signal(signal.SIGSTOP)
    started = time.monotonic()
    _, errors = processes[1 - victim].communicate(timeout=120)
    assert time.monotonic() - started < PEER_TIMEOUT + 10
    assert processes[1 - victim].returncode != 0
    assert "another process has gone" in errors
    processes[victim].send_signal(signal.SIGKILL)
    processes[victim].communicate()


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_saves_in_both(toy_config: Path, tmp_path: Path) -> None:
    seldom = "--config.checkpoint_every=100000", "--config.evaluate_every=100000"
    processes = commands.start_two(toy_config, tmp_path, *SMALL, ENDLESS, *seldom)
    commands.wait_for_lines(tmp_path, 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    errors = [commands.finish(process) for process in processes]
    (step,) = checksums.saved_steps(tmp_path / "checkpoints")
    assert f"stopped by a signal: step {step} is saved" in errors[0]
    assert commands.metrics(tmp_path)[-1]["step"] == step
    assert checksums.find_damage(tmp_path / "checkpoints" / str(step)) is None


def test_a_mistake_in_one_of_two_processes_ends_both(toy_config: Path, tmp_path: Path) -> None:
    processes = commands.start_two(
        toy_config, tmp_path, *SMALL, "--config.data.dataset=manifest/none"
    )
    _, errors = processes[0].communicate(timeout=120)
    assert processes[0].returncode == 2, errors
    assert "medclip-jax: manifest/none is not prepared" in errors
    _, errors = processes[1].communicate(timeout=120)
    assert processes[1].returncode != 0 and "medclip-jax:" in errors
