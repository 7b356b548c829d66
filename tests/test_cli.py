"""The command line: quick help, one line and exit status 2 for a user's mistake."""

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
        (["embed", "--checkpoint", "x", "--output", "x.npz"], "--images"),
        (["data", "build", "manifest", "--name", "x"], "--manifest"),
        (["report", "--workdir", "x", "--config.seed=1"], "--config.seed=1"),
        (["embed", "--checkpoint", "x", "--texts", "x", "--output", "x.csv"], ".parquet"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert named in error and error.count("\n") == 1


def test_the_installed_program_reports_a_mistake_without_a_traceback() -> None:
    done = run("pretrain", "--config", "nowhere.py", "--workdir", "x")
    assert done.returncode == 2
    assert done.stderr == (
        "medclip-jax: config file nowhere.py not found (nor packaged); "
        "give --config PATH.py[:argument]\n"
    )


def test_data_build_hands_on_the_folder_of_downloaded_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medclip_jax.data import build

    given: dict[str, object] = {}

    def record(name: str, **folders: object) -> str:
        given.update(folders, name=name)
        return "prepared"

    monkeypatch.setattr(build, "build", record)
    cli.main(["data", "build", "bones/small", "--manual-dir", "down", "--data-dir", "sets"])
    assert given == {"name": "bones/small", "manual_dir": Path("down"), "data_dir": Path("sets")}
    assert capsys.readouterr().out == "prepared\n"
