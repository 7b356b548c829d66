"""One device, eight on several meshes, two and four processes: one run, of use to any of them.

The losses are the same for 20 steps; what some devices trained can be read, and go on, on others.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from support import command_list, commands

LAUNCH = Path(__file__).parents[2] / "launch"
TOLERANCE = 1e-5
READ_TOLERANCE = 1e-6
# ConVIRT's own; a larger rate and a sharper softmax only amplify the rounding of float32.
CONVIRT = (
    "--config.optimizer.learning_rate=1e-4",
    "--config.temperature.init=0.1",
    "--config.temperature.learnable=False",
    "--config.fsdp_min_size=64",
)
ONE, ALL = "one device", "all axes"
# Of every run: processes, devices of each, sizes of the mesh.
RUNS: dict[str, tuple[int, int, dict[str, int]]] = {
    ONE: (1, 1, {}),
    "two devices": (1, 2, {"data": 1, "fsdp": 2}),
    "data": (1, 8, {"data": 8}),
    "fsdp": (1, 8, {"data": 1, "fsdp": 8}),
    ALL: (1, 8, {"data": 2, "fsdp": 2, "tensor": 2}),
    "two processes": (2, 1, {"data": 1, "fsdp": 2}),
    "two processes of four": (2, 4, {}),
    "four processes": (4, 2, {}),
}
QUICK = (ALL,)
Trained = Callable[[str], Path]


def pretrain(config: Path, workdir: Path, name: str) -> str:
    """Starts a run, or goes on with it, on the devices of that name; its standard error."""
    processes, devices, mesh = RUNS[name]
    flags = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
    launcher = [str(LAUNCH / "local.sh"), str(processes)] if processes > 1 else []
    env = commands.environment(devices=devices)
    process = commands.start(config, workdir, *CONVIRT, *flags, env=env, launcher=launcher)
    return commands.finish(process, timeout=600)  # eight devices on a core or two


def losses(workdir: Path) -> np.ndarray:
    return np.array([line["loss"] for line in commands.metrics(workdir) if "loss" in line])


def slow_but(quick: Iterable[str], names: Iterable[str]) -> list[object]:
    """Parameters of a test, of which only the `quick` ones are in the usual suite."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def trained(toy_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The workdir of the run of a name, which is trained where it is first asked for."""
    workdirs: dict[str, Path] = {}

    def workdir(name: str) -> Path:
        if name not in workdirs:
            new = tmp_path_factory.mktemp("run")
            pretrain(toy_config, new, name)
            workdirs[name] = new
        return workdirs[name]

    return workdir


def test_the_steps_differ(trained: Trained) -> None:
    assert len(set(losses(trained(ONE)))) == 20


@pytest.mark.parametrize("name", slow_but(QUICK, list(RUNS)[1:]))
def test_the_losses_do_not_depend_on_the_devices(trained: Trained, name: str) -> None:
    np.testing.assert_allclose(losses(trained(name)), losses(trained(ONE)), atol=TOLERANCE)


def read(workdir: Path, output: Path, devices: int, data_dir: Path, *, all_tasks: bool) -> None:
    """Reads a run with every command that does, on so many devices; they must end well."""
    images = str(data_dir.parent / "1*.png")
    texts = output / "texts.txt"
    output.mkdir()
    texts.write_text("There is a small left effusion.\nHeart size is normal.\n")
    checkpoint = ["--checkpoint", str(workdir)]
    evaluate = [*checkpoint, "--dataset", "manifest/toy", "--data-dir", str(data_dir)]
    evaluate += ["--output", str(output)]
    calls = [
        ["embed", *checkpoint, "--images", images, "--output", str(output / "images.npz")],
        ["embed", *checkpoint, "--texts", str(texts), "--output", str(output / "texts.npz")],
        ["export", *checkpoint, "--format", "safetensors", "--output", str(output / "export")],
        ["evaluate", "retrieval", *evaluate],
        ["report", "--workdir", str(workdir)],
    ]
    if all_tasks:
        pytorch = ["--format", "huggingface", "--output", str(output / "pytorch"), "--verify"]
        calls += [
            ["export", *checkpoint, *pytorch],
            ["evaluate", "linear-probe", *evaluate, "--fractions", "1", "--num-seeds", "1"],
            ["evaluate", "finetune", *evaluate, "--fractions", "1", "--max-epochs", "1"],
        ]
    listed = output / "commands.json"
    listed.write_text(json.dumps(calls))
    done = subprocess.run(
        [sys.executable, command_list.__file__, str(listed)],
        env=commands.environment(devices=devices),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", slow_but(QUICK, RUNS))
def test_a_run_is_read_on_any_number_of_devices(
    trained: Trained, toy_data: Path, tmp_path: Path, name: str
) -> None:
    for devices in (1, 8):
        output = tmp_path / str(devices)
        read(trained(name), output, devices, toy_data, all_tasks=name not in QUICK)
    for kind in ("images", "texts"):
        one, eight = (np.load(tmp_path / d / f"{kind}.npz")["embedding"] for d in ("1", "8"))
        assert len(one) > 1 and np.ptp(one, axis=0).max() > 1e-3  # they tell inputs apart
        np.testing.assert_allclose(one, eight, rtol=0, atol=READ_TOLERANCE)
    weights = [(tmp_path / d / "export" / "model.safetensors").read_bytes() for d in ("1", "8")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ALL, ONE),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in [
                ("data", ONE),
                (ONE, ALL),
                ("fsdp", "data"),
                ("two processes", ONE),
                ("two processes of four", "two devices"),
                (ONE, "two processes"),
                (ALL, "four processes"),
            ]
        ),
    ],
)
def test_a_run_goes_on_on_other_devices(
    trained: Trained, toy_config: Path, tmp_path: Path, first: str, second: str
) -> None:
    workdir = Path(shutil.copytree(trained(first), tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints" / "20")
    errors = pretrain(toy_config, workdir, second)
    assert "resumed from the checkpoint at step 18" in errors
    np.testing.assert_allclose(losses(workdir), losses(trained(ONE)), atol=TOLERANCE)
