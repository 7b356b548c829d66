"""Training and embedding import no TensorFlow, even where it is installed."""

import subprocess
import sys
from pathlib import Path

from support import commands


def test_a_run_that_could_import_tensorflow_does_not(toy_config: Path, tmp_path: Path) -> None:
    package = tmp_path / "packages" / "tensorflow"
    package.mkdir(parents=True)
    mark = tmp_path / "imported"
    (package / "__init__.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    env = commands.environment(PYTHONPATH=str(package.parent))
    process = commands.start(toy_config, tmp_path / "run", "--config.num_steps=5", env=env)
    commands.finish(process)
    assert (tmp_path / "run" / "checkpoints" / "5").is_dir()
    (tmp_path / "texts.txt").write_text("No pneumothorax.\n")
    embed = ["embed", "--checkpoint", "run", "--texts", "texts.txt", "--output", "texts.npz"]
    command = [sys.executable, "-m", "medclip_jax.cli", *embed]
    subprocess.run(command, check=True, cwd=tmp_path, env=env, capture_output=True)
    assert not mark.exists()
