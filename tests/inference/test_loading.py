"""Which checkpoint is loaded, also while a run saves better ones; a damaged one is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

import medclip_jax
from medclip_jax.config import write_config
from medclip_jax.errors import UserError
from medclip_jax.inference import Encoder, loading
from medclip_jax.inference.weights import hash_weights
from medclip_jax.train.checkpoint import Checkpointer
from medclip_jax.train.state import TrainState


class SavingRun:
    """In place of a `Checkpointer`: a run that deletes checkpoint 5 for 10 while 5 is read."""

    def __init__(self, directory: Path, *, read_only: bool):
        assert read_only
        self._directory = directory

    def best_step(self) -> int:
        return min(int(path.name) for path in self._directory.iterdir())

    def restore_model(self, step: int) -> dict[str, Any]:
        if step == 5:
            (self._directory / "10").mkdir()
            (self._directory / "5").rmdir()
            raise FileNotFoundError(step)
        return {"params": step}

    def close(self) -> None:
        pass


def test_a_checkpoint_that_its_run_deletes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "Checkpointer", SavingRun)
    (tmp_path / "5").mkdir()
    assert loading._best_checkpoint(tmp_path) == ({"params": 10}, 10)


def save(directory: Path, variables: dict[str, Any], losses: dict[int, float]) -> None:
    """Checkpoints of the same variables, each with a validation loss."""
    checkpointer = Checkpointer(directory)
    for step, loss in losses.items():
        state = TrainState(
            step=jnp.int32(step),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state={"moment": jnp.zeros(3)},
            plateau={"scale": jnp.ones(())},
            ema_params={},
        )
        checkpointer.save(state, {}, loss)
    checkpointer.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, of which that of step 1 is the best."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    save(directory, {"params": {"kernel": jnp.arange(4000.0)}}, {1: 0.25, 2: 0.5})
    return directory


@pytest.fixture
def checkpoints(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(saved, tmp_path / "checkpoints")


def flip_a_bit(checkpoint: Path) -> None:
    """In the file with most of the parameters."""
    path = max((checkpoint / "model").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def without_checksums(damage: Callable[[Path], object]) -> Callable[[Path], object]:
    """The same damage to a checkpoint of an earlier version."""

    def both(checkpoint: Path) -> None:
        (checkpoint / "checksums.json").unlink()
        damage(checkpoint)

    return both


def remove_model(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "model")


def remove_arrays(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "model" / "d")


def cut_metrics(checkpoint: Path) -> None:
    (checkpoint / "metrics" / "metrics").write_text('{"valid')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, r"checkpoints/1 is damaged \(model/.* has changed\).* of the steps 2$"),
        (remove_arrays, r"checkpoints/1 is damaged \(model/d/.* is missing\)"),
        (remove_model, r"checkpoints/1 is damaged \(model/.* is missing\)"),
        (cut_metrics, r"checkpoints/1 is damaged \(metrics/metrics has changed\)"),
        (without_checksums(remove_model), r"checkpoints/1 is damaged \(it cannot be read: "),
        (without_checksums(remove_arrays), r"checkpoints/1 is damaged \(it cannot be read: "),
        (without_checksums(cut_metrics), "the best step cannot be told"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    checkpoints: Path, damage: Callable[[Path], object], message: str
) -> None:
    variables, step = loading._best_checkpoint(checkpoints)
    np.testing.assert_array_equal(variables["params"]["kernel"], np.arange(4000))
    assert step == 1
    damage(checkpoints / "1")
    with pytest.raises(UserError, match=message):
        loading._best_checkpoint(checkpoints)


def test_without_the_damaged_checkpoint_the_next_best_is_loaded(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints / "1")
    assert loading._best_checkpoint(checkpoints)[1] == 2


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    config = tiny.tiny_config("convirt")
    tokens = tiny.tokenizer(tmp_path / "tokens")
    shapes = Encoder(config, tokens, {}).shapes()
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    workdir = tmp_path / "run"
    save(workdir / "checkpoints", variables, {3: 0.5})
    tokens.save(workdir / "tokenizer", tiny.LENGTH)
    write_config(config, workdir / "config.json")
    assert medclip_jax.load(workdir).weights_hash == hash_weights(variables)
    config.projection.size = 16
    write_config(config, workdir / "config.json")
    expected = r"do not fit config.json .*image_projection/output/bias is \(8,\).* be \(16,\)"
    with pytest.raises(UserError, match=expected):
        medclip_jax.load(workdir)


def test_a_file_is_no_workdir(tmp_path: Path) -> None:
    (tmp_path / "toy.py").touch()
    with pytest.raises(UserError, match=r"toy\.py is not a run's workdir"):
        medclip_jax.load(tmp_path / "toy.py")
