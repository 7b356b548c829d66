"""Which checkpoints are kept, and which is the best."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.config import base_config
from medclip_jax.train.checkpoint import Checkpointer
from medclip_jax.train.checksums import saved_steps
from medclip_jax.train.optimizer import make_optimizer
from medclip_jax.train.state import TrainState

NAN, INF = float("nan"), float("inf")


def state(step: int) -> TrainState:
    return TrainState(
        step=jnp.int32(step),
        params={"kernel": jnp.full(2, float(step))},
        batch_stats={},
        opt_state=({"mu": jnp.zeros(2)},),
        plateau={"scale": jnp.float32(1)},
        ema_params={},
    )


def saved(directory: Path, losses: list[float]) -> Checkpointer:
    checkpointer = Checkpointer(directory)
    for step, loss in enumerate(losses, start=1):
        checkpointer.save(state(step), {"next": step}, loss)
    checkpointer.close()
    return Checkpointer(directory, read_only=True)


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([1.0, NAN], 1),
        ([NAN, 1.0], 2),
        ([0.5, NAN, 1.0, 2.0], 1),
        ([0.5, INF, 1.0, -INF], 1),
        ([2.0, 0.5, 1.0], 2),
        ([NAN, NAN], 2),
    ],
)
def test_a_loss_that_is_not_finite_is_never_the_best(
    tmp_path: Path, losses: list[float], best: int
) -> None:
    reader = saved(tmp_path, losses)
    assert reader.best_step() == best
    assert reader.restore_model(best)["params"]["kernel"].tolist() == [best, best]
    assert saved_steps(tmp_path)[-1] == len(losses)


def test_a_nan_that_an_earlier_version_noted_is_never_the_best(tmp_path: Path) -> None:
    saved(tmp_path, [0.5, 1.0, 2.0]).close()
    for path in (tmp_path / "3" / "metrics").iterdir():
        path.write_text('{"validation_loss": NaN}')
    assert Checkpointer(tmp_path, read_only=True).best_step() == 1
    writer = Checkpointer(tmp_path)
    writer.save(state(4), {"next": 4}, 3.0)
    writer.close()
    assert saved_steps(tmp_path) == [1, 3, 4]


@pytest.mark.parametrize(("before", "after"), [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_the_optimisers_state_is_restored_with_and_without_clipping(
    tmp_path: Path, before: float, after: float
) -> None:
    writer = Checkpointer(tmp_path)
    writer.save(adam_state(before, 3.0), {"next": 1})
    writer.close()
    reader = Checkpointer(tmp_path)
    restored, _ = reader.restore(adam_state(after, 0.0))
    reader.close()
    assert jax.tree.structure(restored) == jax.tree.structure(adam_state(after, 0.0))
    expected = jax.tree.leaves(adam_state(before, 3.0))
    for found, value in zip(jax.tree.leaves(restored), expected, strict=True):
        np.testing.assert_array_equal(found, value)


def adam_state(clip_norm: float, value: float) -> TrainState:
    """A state of two parameters, all of whose numbers are `value`."""
    options = base_config().optimizer
    options.clip_norm = clip_norm
    params = {"a/kernel": jnp.zeros(3), "b/kernel": jnp.zeros(2)}
    opt_state = make_optimizer(options, list(params)).init(params)
    filled = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), opt_state)
    return state(int(value)).replace(opt_state=filled)
