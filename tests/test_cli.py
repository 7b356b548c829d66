"""The command line: quick help, one line and exit status 2 for a user's mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medclip_jax import cli


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medclip_jax.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_help_imports_neither_jax_nor_tensorflow() -> None:
    code = (
        "import sys, medclip_jax.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'tensorflow', 'torch', 'numpy', 'flax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "data", "pretrain", "evaluate", "embed", "report"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "COMMAND"),
        (["nonsense"], "nonsense"),
        (["pretrain"], "--config"),
        (["pretrain", "--config", "convirt.py", "--workdir", "x", "--wrong=1"], "--wrong=1"),
        (["pretrain", "--config", "convirt.py", "--workdir", "x", "--from-step", "z"], "'z'"),
        (["embed", "--checkpoint", "x", "--output", "x.npz"], "--images"),
        (["data", "build", "manifest", "--name", "x"], "--manifest"),
        (["data", "build", "openi", "--vews", "all"], "--vews; see medclip-jax data build openi"),
        (["data", "build", "openi/x", "--views", "back"], "'back'"),
        (["data", "build", "openi/x", "--image-size", "big"], "'big'"),
        (["data", "build", "openi", "--views", "frontal"], "openi/NAME"),
        (["data", "build", "openi", "--manual-dir", "nowhere"], "nowhere: --manual-dir is not"),
        (["data", "build", "openi", "--manual-dir", "{empty}"], "is an empty folder"),
        (["data", "build", "chest"], "no set is called 'chest'"),
        (["report", "--workdir", "x", "--config.seed=1"], "--config.seed=1"),
        (["embed", "--checkpoint", "x", "--texts", "x", "--output", "x.csv"], ".parquet"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([argument.format(empty=tmp_path) for argument in arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert named in error and error.count("\n") == 1


def test_the_report_reads_jax_environment_as_other_commands_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medclip_jax.cli", "report", "--workdir", "x"],
        env=os.environ | {"JAX_ENABLE_X64": "maybe"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "JAX refuses a variable of its environment" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_installed_program_reports_a_mistake_without_a_traceback() -> None:
    done = run("pretrain", "--config", "nowhere.py", "--workdir", "x")
    assert done.returncode == 2
    assert done.stderr == (
        "medclip-jax: config file nowhere.py not found (nor packaged); "
        "give --config PATH.py[:argument]\n"
    )


def test_data_build_hands_on_folders_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medclip_jax.data import build

    given: dict[str, object] = {}

    def record(name: str, **folders: object) -> str:
        given.update(folders, name=name)
        return "prepared"

    monkeypatch.setattr(build, "build", record)
    folders = ["--manual-dir", "down", "--data-dir", "sets"]
    flags = ["--views", "frontal", "--image-size=320", "--labels", "l.csv", "--max-rejected", "0.5"]
    cli.main(["data", "build", "openi/small", *folders, *flags])
    assert given == {
        "name": "openi/small",
        "manual_dir": Path("down"),
        "data_dir": Path("sets"),
        "options": {"views": "frontal", "image_size": 320, "labels": "l.csv"},
        "max_rejected": 0.5,
        "beam_runner": None,
        "beam_options": (),
    }
    assert capsys.readouterr().out == "prepared\n"


def test_the_help_of_data_build_shows_the_options_of_the_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data", "build", "openi", "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "--manual-dir" in shown and "--views-file" in shown and "options of openi" in shown
