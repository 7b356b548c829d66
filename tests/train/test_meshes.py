"""One device, eight on several meshes, two and four processes: the same losses for 20 steps."""

from pathlib import Path

import numpy as np
import pytest
from support import commands

LAUNCH = Path(__file__).parents[2] / "launch"
TOLERANCE = 1e-5
# ConVIRT's own; a larger rate and a sharper softmax only amplify the rounding of float32.
CONVIRT = (
    "--config.optimizer.learning_rate=1e-4",
    "--config.temperature.init=0.1",
    "--config.temperature.learnable=False",
    "--config.fsdp_min_size=64",
)
MESHES = {
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "all": {"data": 2, "fsdp": 2, "tensor": 2},
}


def losses(workdir: Path) -> np.ndarray:
    return np.array([line["loss"] for line in commands.metrics(workdir) if "loss" in line])


@pytest.fixture(scope="module")
def one_device(toy_config: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    workdir = tmp_path_factory.mktemp("one")
    commands.finish(commands.start(toy_config, workdir, *CONVIRT))
    result = losses(workdir)
    assert len(set(result)) == 20  # the steps differ
    return result


@pytest.mark.parametrize(
    "mesh", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("data", "fsdp")), "all"]
)
def test_eight_devices(one_device: np.ndarray, toy_config: Path, tmp_path: Path, mesh: str) -> None:
    overrides = [f"--config.mesh.{axis}={size}" for axis, size in MESHES[mesh].items()]
    env = commands.environment(devices=8)
    commands.finish(commands.start(toy_config, tmp_path, *CONVIRT, *overrides, env=env))
    np.testing.assert_allclose(losses(tmp_path), one_device, atol=TOLERANCE)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes(
    one_device: np.ndarray, toy_config: Path, tmp_path: Path, processes: int
) -> None:
    env = commands.environment(devices=8 // processes)
    command = [str(LAUNCH / "local.sh"), str(processes)]
    commands.finish(commands.start(toy_config, tmp_path, *CONVIRT, env=env, launcher=command))
    np.testing.assert_allclose(losses(tmp_path), one_device, atol=TOLERANCE)


@pytest.mark.slow
def test_a_checkpoint_restores_onto_another_mesh(
    one_device: np.ndarray, toy_config: Path, tmp_path: Path
) -> None:
    commands.finish(commands.start(toy_config, tmp_path, *CONVIRT, "--config.num_steps=9"))
    env = commands.environment(devices=8)
    mesh = ["--config.mesh.data=4", "--config.mesh.fsdp=2"]
    errors = commands.finish(commands.start(toy_config, tmp_path, *CONVIRT, *mesh, env=env))
    assert "resumed from the checkpoint at step 9" in errors
    np.testing.assert_allclose(losses(tmp_path), one_device, atol=TOLERANCE)
