"""The train step: what moves, what stays, and that it is a function of (state, batch) alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from medclip_jax import sharding
from medclip_jax.config import base_config
from medclip_jax.errors import UserError
from medclip_jax.models.factory import build_model
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.masks import BatchMasks
from medclip_jax.train.state import TrainState, create_state, dummy_batch
from medclip_jax.train.step import check_objectives, make_eval_step, make_train_step

VOCAB_SIZE = 40
FROZEN = (r"text_encoder/(embeddings|layer_0)/",)


@pytest.fixture(scope="module")
def config() -> ConfigDict:
    config = base_config()
    config.image_encoder.update(name="resnet18", width=4)
    config.text_encoder.update(
        hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_length=8
    )
    config.projection.size = 8
    config.augmentation.crop_size = 32
    config.optimizer.update(frozen=FROZEN, learning_rate=0.01, ema_decay=0.75)
    return config


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 255, (8, 40, 40), np.uint8)),
        "token_ids": jnp.asarray(rng.integers(5, VOCAB_SIZE, (8, 8)), jnp.int32),
        "token_mask": jnp.ones((8, 8), bool),
        "group_ids": jnp.arange(16, dtype=jnp.int32).reshape(8, 2),
        "has_image": jnp.ones(8, bool),
        "has_text": jnp.ones(8, bool),
    }


@pytest.fixture(scope="module")
def start(config: ConfigDict) -> tuple[TrainState, Callable[..., Any]]:
    model = build_model(config, VOCAB_SIZE)
    example = dummy_batch(config.augmentation.crop_size, config.text_encoder.max_length)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), example, train=False))
    names = list(optimizers.split_frozen(variables["params"], FROZEN)[0])
    optimizer = optimizers.make_optimizer(config.optimizer, names)
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
    plateau = optimizers.make_plateau(config.schedule)
    state = create_state(model, optimizer, plateau, config, example, mesh)
    step = make_train_step(model, config, BatchMasks(), optimizer, lambda step: 0.01, mesh)
    return jax.device_get(state), jax.jit(step)


@pytest.fixture(scope="module")
def after(start: Any, batch: dict) -> tuple[TrainState, dict[str, Any]]:
    state, step = start
    return jax.device_get(step(state, batch))


def test_every_trainable_parameter_moves_and_no_frozen_one(start: Any, after: Any) -> None:
    before, now = (optimizers.flatten_params(s.params) for s in (start[0], after[0]))
    still = {name for name in before if np.array_equal(before[name], now[name])}
    frozen = {name for name in before if name.startswith("text_encoder/embeddings/")}
    frozen |= {name for name in before if name.startswith("text_encoder/layer_0/")}
    assert still == frozen and frozen
    assert int(after[0].step) == 1


def test_frozen_parameters_carry_no_optimiser_state(start: Any) -> None:
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(start[0].opt_state)
    ]
    assert any("text_encoder/layer_1" in path for path in paths)
    assert not any("embeddings" in path or "layer_0" in path for path in paths)


def test_no_gradient_is_computed_for_frozen_parameters(
    start: Any, batch: dict, config: ConfigDict
) -> None:
    state, step = start
    everything = ConfigDict(config.to_dict())
    everything.optimizer.frozen = ()
    model = build_model(everything, VOCAB_SIZE)
    names = list(optimizers.flatten_params(state.params))
    optimizer = optimizers.make_optimizer(everything.optimizer, names)
    all_trainable = state.replace(opt_state=optimizer.init(optimizers.flatten_params(state.params)))
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
    whole = jax.jit(
        make_train_step(model, everything, BatchMasks(), optimizer, lambda step: 0.01, mesh)
    )

    def flops(function: Any, state: TrainState) -> float:
        return function.lower(state, batch).compile().cost_analysis()["flops"]

    assert flops(step, state) < flops(whole, all_trainable)


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (5, 0.4), (200, 0.75)])
def test_the_average_warms_up(start: Any, batch: dict, step: int, decay: float) -> None:
    """It keeps min(0.75, (1 + step) / (10 + step)) of what it was; frozen parameters stay equal."""
    before, train_step = start
    ema = jax.tree.map(lambda leaf: leaf + 0.5, before.params)
    ema["text_encoder"]["embeddings"] = before.params["text_encoder"]["embeddings"]
    now, _ = jax.device_get(train_step(before.replace(step=jnp.int32(step), ema_params=ema), batch))
    expected = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, ema, now.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), now.ema_params, expected)
    embeddings = now.ema_params["text_encoder"]["embeddings"]
    jax.tree.map(
        np.testing.assert_array_equal, embeddings, now.params["text_encoder"]["embeddings"]
    )


def test_the_same_state_and_batch_give_the_same_bits(start: Any, after: Any, batch: dict) -> None:
    state, step = start
    again, metrics = jax.device_get(step(state, batch))
    jax.tree.map(np.testing.assert_array_equal, again.params, after[0].params)
    assert metrics == after[1]


def test_another_step_augments_differently(start: Any, after: Any, batch: dict) -> None:
    state, step = start
    later = step(state.replace(step=jnp.int32(5)), batch)[1]
    assert float(later["loss"]) != float(after[1]["loss"])


def test_the_plateau_scales_the_rate(start: Any, after: Any, batch: dict) -> None:
    state, step = start
    halved = state.replace(plateau=state.plateau._replace(scale=jnp.float32(0.5)))
    now, metrics = jax.device_get(step(halved, batch))
    assert metrics["learning_rate"] == pytest.approx(0.005)

    def moved(state_after: TrainState) -> np.ndarray:
        kernel = ("image_encoder", "stem_conv", "kernel")
        first, second = state.params, state_after.params
        for key in kernel:
            first, second = first[key], second[key]
        return second - first

    np.testing.assert_allclose(moved(now), 0.5 * moved(after[0]), rtol=1e-3, atol=1e-7)


def test_evaluation_uses_the_average_and_no_randomness(
    start: Any, after: Any, batch: dict, config: ConfigDict
) -> None:
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
    model = build_model(config, VOCAB_SIZE)
    evaluate = jax.jit(make_eval_step(model, config, BatchMasks(), mesh))
    state = after[0]
    loss = float(evaluate(state, batch)["loss"])
    assert loss == float(evaluate(state.replace(step=jnp.int32(9)), batch)["loss"])
    averaged = state.replace(params=state.ema_params, ema_params={})
    assert loss == float(evaluate(averaged, batch)["loss"])
    assert loss != float(evaluate(state.replace(ema_params={}), batch)["loss"])


def test_an_objective_without_its_output_is_reported_before_compiling(config: ConfigDict) -> None:
    asked = ConfigDict(config.to_dict())
    asked.objectives.sigmoid_contrastive.weight = 1.0
    model = build_model(config, VOCAB_SIZE)  # without the sigmoid's bias
    example = dummy_batch(32, 8)
    with pytest.raises(UserError, match="model output 'bias'"):
        check_objectives(model, asked, example)
