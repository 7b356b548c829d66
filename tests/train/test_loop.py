"""A run that diverges saves nothing of it, says what may be done, and does that when it is told."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import commands, tiny

from medclip_jax import sharding
from medclip_jax.config import load_config
from medclip_jax.errors import UserError
from medclip_jax.train.checksums import saved_steps
from medclip_jax.train.loop import pretrain

SMALL = (
    "--config.image_encoder.name=patches",
    "--config.image_encoder.hidden_size=16",
    "--config.image_encoder.patch_size=16",
    "--config.text_encoder.num_layers=1",
    "--config.num_steps=8",
    "--config.evaluate_every=4",
    "--config.checkpoint_every=2",
)


def run(config: Path, workdir: Path, *overrides: str, from_step: int | None = None) -> None:
    pretrain(load_config(str(config), [*SMALL, *overrides]), workdir, from_step)


def changes(workdir: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (workdir / "changes.jsonl").read_text().splitlines()]


make_mesh = sharding.make_mesh


@pytest.fixture(scope="module", autouse=True)
def one_device() -> Iterator[None]:
    """Runs of this file use one device, on which they take a fraction of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda axes: tiny.one_device())
        yield


@pytest.fixture(scope="module")
def finished(toy_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at the steps 4 (if it is the best), 6 and 8."""
    workdir = tmp_path_factory.mktemp("finished")
    run(toy_config, workdir)
    return workdir


@pytest.fixture
def workdir(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_an_update_that_ruins_the_parameters_is_not_saved(toy_config: Path, tmp_path: Path) -> None:
    """The loss of the first step is finite; what it makes of the parameters is not."""
    with pytest.raises(UserError) as error:
        run(
            toy_config,
            tmp_path,
            "--config.optimizer.learning_rate=1e39",
            "--config.checkpoint_every=1",
        )
    assert "at step 1, before a checkpoint was saved: lower" in str(error.value)
    assert "None" not in str(error.value)
    assert saved_steps(tmp_path / "checkpoints") == []
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_diverged_run_goes_on_as_its_message_says(workdir: Path, toy_config: Path) -> None:
    before = commands.metrics(workdir)
    more = "--config.num_steps=12"
    with pytest.raises(UserError, match="the last good checkpoint is step 8: lower") as error:
        run(toy_config, workdir, more, "--config.optimizer.learning_rate=1e39")
    assert "--from-step" in str(error.value)
    run(toy_config, workdir, more, "--config.optimizer.learning_rate=1e-5")
    after = commands.metrics(workdir)
    assert after[: len(before)] == before
    rates = [line["learning_rate"] for line in after if "learning_rate" in line]
    assert rates == pytest.approx([1e-3] * 8 + [1e-5] * 4)
    noted = [(c["step"], c["key"], c["before"], c["after"]) for c in changes(workdir)]
    assert noted == [
        (8, "num_steps", 8, 12),
        (8, "optimizer.learning_rate", 1e-3, 1e39),
        (8, "optimizer.learning_rate", 1e39, 1e-5),
    ]


@pytest.mark.slow
def test_clipping_may_begin_and_end_at_a_resume(workdir: Path, toy_config: Path) -> None:
    run(toy_config, workdir, "--config.num_steps=10", "--config.optimizer.clip_norm=1e-3")
    run(toy_config, workdir, "--config.num_steps=12")
    keys = [change["key"] for change in changes(workdir)]
    assert keys.count("optimizer.clip_norm") == 2
    steps = [line["step"] for line in commands.metrics(workdir) if "loss" in line]
    assert steps == list(range(1, 13))


def test_from_an_earlier_step_the_rest_is_the_same_bit_by_bit(
    finished: Path, workdir: Path, toy_config: Path, capsys: pytest.CaptureFixture
) -> None:
    run(toy_config, workdir, from_step=6)
    assert commands.metrics(workdir) == commands.metrics(finished)
    told = capsys.readouterr().err
    assert "going back to step 6" in told and "resumed from the checkpoint at step 6" in told
    aside = workdir / "set_aside" / "after_6"
    assert (aside / "8").is_dir()
    assert (aside / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()


def test_a_step_that_is_not_saved_is_one_line_with_those_that_are(
    workdir: Path, toy_config: Path, tmp_path: Path
) -> None:
    steps = ", ".join(map(str, saved_steps(workdir / "checkpoints")))
    with pytest.raises(UserError, match=f"there are the steps {steps}$"):
        run(toy_config, workdir, from_step=7)
    with pytest.raises(UserError, match="there is no other$"):
        run(toy_config, tmp_path / "new", from_step=7)
    (workdir / "checkpoints/6/checksums.json").write_text("{")
    with pytest.raises(UserError, match=r"\(checksums.json cannot be read\); there are"):
        run(toy_config, workdir, from_step=6)
    assert saved_steps(workdir / "checkpoints")[-1] == 8


@pytest.mark.parametrize(
    "overrides",
    [
        ["--config.image_encoder.width=8"],
        ["--config.optimizer.learning_rate=1e-4", "--config.data.data_dir=nowhere"],
        ["--config.num_steps=9", "--config.attention=none"],
    ],
)
def test_a_refused_start_changes_nothing(
    workdir: Path, toy_config: Path, overrides: list[str]
) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}

    before = files()
    for from_step in (None, 6):
        with pytest.raises(UserError):
            run(toy_config, workdir, *overrides, from_step=from_step)
    assert {path: data for path, data in files().items() if path.name != "lock"} == {
        path: data for path, data in before.items() if path.name != "lock"
    }


@pytest.mark.slow
def test_what_changes_no_result_may_change_on_resume(
    finished: Path,
    workdir: Path,
    toy_config: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharding, "make_mesh", make_mesh)
    run(
        toy_config,
        workdir,
        "--config.mesh.fsdp=2",
        "--config.fsdp_min_size=64",
        "--config.attention=xla",
        "--config.remat_policy=dots",
        "--config.text_encoder.remat=True",
        "--config.objectives.contrastive.tile_size=4",
        "--config.data.num_threads=3",
        "--config.log_every=1",
        from_step=6,
    )
    told = capsys.readouterr().err
    assert "from step 6 on remat_policy is 'dots', before 'nothing': the same is computed" in told
    assert "num_threads" not in told
    for line, expected in zip(commands.metrics(workdir), commands.metrics(finished), strict=True):
        assert line == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_run_without_validation_says_so_and_ends_well(
    toy_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(toy_config, tmp_path, "--config.data.validation_examples=0", "--config.num_steps=2")
    assert (
        "there is no validation (config.data.validation_examples is 0)" in capsys.readouterr().err
    )
    assert not any("validation/loss" in line for line in commands.metrics(tmp_path))


def test_a_validation_loss_that_is_not_finite_is_no_figure(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "medclip_jax.train.validation.Validation.mean", lambda *_: {"loss": float("nan")}
    )
    with pytest.raises(UserError, match="the validation loss is nan at step 4; the last good .* 2"):
        run(toy_config, tmp_path)
    assert saved_steps(tmp_path / "checkpoints") == [2]
    assert not any("validation/loss" in line for line in commands.metrics(tmp_path))
