"""A run that is killed and started again writes what an undisturbed run writes."""

import json
import signal
import time
from pathlib import Path

import pytest
from support import commands


@pytest.fixture(scope="module")
def undisturbed(toy_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    commands.finish(commands.start(toy_config, workdir))
    return workdir


def kill_after(process: object, workdir: Path, lines: int, number: signal.Signals) -> None:
    deadline = time.monotonic() + 120
    while commands.lines_written(workdir) < lines and process.poll() is None:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)  # type: ignore[attr-defined]


def test_the_run_writes_all_that_is_documented(undisturbed: Path) -> None:
    written = commands.metrics(undisturbed)
    steps = [line["step"] for line in written if "loss" in line]
    assert steps == list(range(1, 21))
    assert {"contrastive/loss", "learning_rate", "gradient_norm"} <= set(written[0])
    assert [x["step"] for x in written if "validation/loss" in x] == [5, 10, 15, 20]
    assert json.loads((undisturbed / "config.json").read_text())["batch_size"] == 16
    assert (undisturbed / "tokenizer" / "tokenizer.json").exists()
    kept = {path.name for path in (undisturbed / "checkpoints").iterdir()}
    assert "20" in kept and len(kept) <= 3  # the last two, and the best


def test_killed_at_any_moment_then_resumed_is_identical(
    undisturbed: Path, toy_config: Path, tmp_path: Path
) -> None:
    for lines in (2, 14):
        process = commands.start(toy_config, tmp_path)
        kill_after(process, tmp_path, lines, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    commands.finish(commands.start(toy_config, tmp_path))
    assert commands.metrics(tmp_path) == commands.metrics(undisturbed)


def test_sigterm_saves_and_exits_with_0(
    undisturbed: Path, toy_config: Path, tmp_path: Path
) -> None:
    process = commands.start(toy_config, tmp_path, "--config.checkpoint_every=1000")
    kill_after(process, tmp_path, 7, signal.SIGTERM)
    assert "is saved" in commands.finish(process)
    stopped = commands.metrics(tmp_path)[-1]["step"]
    assert str(stopped) in {path.name for path in (tmp_path / "checkpoints").iterdir()}
    resumed = commands.finish(commands.start(toy_config, tmp_path))
    assert f"resumed from the checkpoint at step {stopped}" in resumed
    assert commands.metrics(tmp_path) == commands.metrics(undisturbed)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    toy_config: Path, tmp_path: Path
) -> None:
    process = commands.start(
        toy_config, tmp_path, "--config.optimizer.learning_rate=1e30", "--config.log_every=10"
    )
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2
    last = errors.splitlines()[-1]
    assert last.startswith("medclip-jax: the loss is nan at step")
    assert "before a checkpoint was saved: lower config.optimizer.learning_rate" in last
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]


def test_a_step_that_was_not_saved_is_one_line(undisturbed: Path, toy_config: Path) -> None:
    process = commands.start(toy_config, undisturbed, "--from-step=7")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2 and errors.count("\n") == 1
    assert errors.startswith("medclip-jax: --from-step 7: ") and errors.endswith(" 20\n")


def test_another_config_in_the_same_workdir_is_refused(undisturbed: Path, toy_config: Path) -> None:
    process = commands.start(toy_config, undisturbed, "--config.seed=7")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2 and "seed=0" in errors and "Traceback" not in errors


def test_a_mistake_in_the_data_is_one_line(toy_config: Path, tmp_path: Path) -> None:
    process = commands.start(toy_config, tmp_path, "--config.data.dataset=manifest/none")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2
    assert errors.startswith("medclip-jax: manifest/none is not prepared")
    assert errors.count("\n") == 1
