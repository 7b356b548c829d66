"""Optimiser groups, schedules and Adam against PyTorch's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from support import tiny

from medclip_jax.config import base_config, load_config
from medclip_jax.errors import UserError
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.state import init_variables

PARAMS = {
    "image_encoder": {"conv": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}},
    "text_encoder": {"layer_0": {"kernel": jnp.ones(4)}, "layer_1": {"kernel": jnp.ones(4)}},
}
NAMES = list(optimizers.flatten_params(PARAMS))


def options(**values: object) -> ConfigDict:
    config = base_config().optimizer
    config.update(values)
    return config


def test_frozen_parameters_are_split_off() -> None:
    trainable, frozen = optimizers.split_frozen(PARAMS, (r"text_encoder/layer_0/",))
    assert list(frozen) == ["text_encoder/layer_0/kernel"]
    assert set(trainable) | set(frozen) == set(NAMES)
    merged = optimizers.unflatten_params(trainable | frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)


def test_the_first_matching_pattern_gives_the_multiplier() -> None:
    table = (("bias", 0.0), ("image_encoder", 0.1))
    assert optimizers.multipliers(NAMES, table) == {
        "image_encoder/conv/kernel": 0.1,
        "image_encoder/conv/bias": 0.0,
        "text_encoder/layer_0/kernel": 1.0,
        "text_encoder/layer_1/kernel": 1.0,
    }


@pytest.mark.parametrize("pattern", ["decoder/", "("])
def test_a_pattern_that_finds_nothing_or_is_broken_is_an_error(pattern: str) -> None:
    with pytest.raises(UserError, match="config.optimizer"):
        optimizers.split_frozen(PARAMS, (pattern,))
    with pytest.raises(UserError, match="config.optimizer"):
        optimizers.multipliers(NAMES, ((pattern, 1.0),))


def test_freezing_all_is_an_error() -> None:
    with pytest.raises(UserError, match="every parameter"):
        optimizers.split_frozen(PARAMS, ("",))


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_updates_equal_pytorchs(decoupled: bool, clip_norm: float) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, rate, decay = rng.normal(size=(5, 3)).astype(np.float32), 0.01, 0.1
    tensor = torch.nn.Parameter(torch.tensor(start))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    reference = kind([tensor], lr=rate, weight_decay=decay, eps=1e-8)
    optimizer = optimizers.make_optimizer(
        options(weight_decay=decay, decoupled_weight_decay=decoupled, clip_norm=clip_norm), ["w"]
    )
    params = {"w": jnp.asarray(start)}
    state = optimizer.init(params)
    for _ in range(10):
        gradient = rng.normal(size=start.shape).astype(np.float32)
        tensor.grad = torch.tensor(gradient)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_([tensor], clip_norm)
        reference.step()
        updates, state = optimizer.update({"w": jnp.asarray(gradient)}, state, params)
        params = {"w": params["w"] + rate * updates["w"]}
    np.testing.assert_allclose(params["w"], tensor.detach().numpy(), atol=2e-6)


def test_multipliers_scale_rate_and_decay() -> None:
    config = options(
        weight_decay=0.5,
        learning_rate_multipliers=(("layer_0", 0.1),),
        weight_decay_multipliers=(("layer_1", 0.0),),
    )
    trainable, _ = optimizers.split_frozen(PARAMS, ())
    optimizer = optimizers.make_optimizer(config, list(trainable))
    zeros = jax.tree.map(jnp.zeros_like, trainable)
    updates, _ = optimizer.update(zeros, optimizer.init(trainable), trainable)
    np.testing.assert_allclose(updates["image_encoder/conv/kernel"], -0.5, rtol=1e-6)
    np.testing.assert_allclose(updates["text_encoder/layer_0/kernel"], -0.05, rtol=1e-6)
    np.testing.assert_allclose(updates["text_encoder/layer_1/kernel"], 0.0)


def shapes_of(name: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, ...]]:
    tokens = tiny.tokenizer(tmp_path_factory.mktemp("tokens"))
    config = tiny.tiny_config(name, **{"temperature.learnable": True})
    model, masks = tiny.model_and_masks(config, tokens)
    example = jax.eval_shape(lambda: tiny.example(config, masks))
    variables = jax.eval_shape(lambda batch: init_variables(model, 0, batch), example)
    return {k: v.shape for k, v in optimizers.flatten_params(variables["params"]).items()}


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_matrices_decay_and_nothing_else_does(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By what PyTorch's recipes go by, the number of axes (open_clip, timm); and no positions."""
    shapes = shapes_of(name, tmp_path_factory)
    expected = {
        parameter
        for parameter, shape in shapes.items()
        if len(shape) >= 2 and not re.search("position|token$|modality", parameter)
    }
    assert {parameter for parameter in shapes if optimizers.decays(parameter)} == expected
    assert expected and expected < set(shapes)
    config = tiny.tiny_config(name).optimizer
    config.update(weight_decay=0.5, decoupled_weight_decay=True, weight_decay_multipliers=())
    params = {parameter: jnp.ones(()) for parameter in shapes}
    optimizer = optimizers.make_optimizer(config, list(params))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert {parameter for parameter, update in updates.items() if update} == expected


@pytest.mark.parametrize("config_name", tiny.CONFIGS)
def test_matrices_decay_in_every_config(
    config_name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = load_config(f"{config_name}.py")
    assert config.optimizer.weight_decay > 0
    shapes = shapes_of(config_name, tmp_path_factory)
    factors = optimizers.multipliers(list(shapes), config.optimizer.weight_decay_multipliers)
    off = {name for name in shapes if optimizers.decays(name) and not factors[name]}
    # Liao et al.'s Adam decays BERT alone.
    others = {name for name in shapes if not name.startswith("text_encoder/")}
    expected = (
        {name for name in others if optimizers.decays(name)} if config_name == "matching" else set()
    )
    assert off == expected


def schedule_options(**values: object) -> ConfigDict:
    config = base_config().schedule
    config.update(values)
    return config


def test_warm_up_then_cosine() -> None:
    schedule = optimizers.make_schedule(
        schedule_options(name="cosine", warmup_steps=4, final_fraction=0.1), 1.0, 20
    )
    rates = np.array([schedule(step) for step in range(20)])
    np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0], atol=1e-6)
    cosine = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.arange(16) / 16))
    np.testing.assert_allclose(rates[4:], cosine, atol=1e-6)


def test_wrong_schedules() -> None:
    with pytest.raises(UserError, match="linear"):
        optimizers.make_schedule(schedule_options(name="linear"), 1.0, 10)
    with pytest.raises(UserError, match="warmup_steps"):
        optimizers.make_schedule(schedule_options(name="cosine", warmup_steps=10), 1.0, 10)


def test_plateau_halves_after_patience_evaluations_without_improvement() -> None:
    plateau = optimizers.make_plateau(schedule_options(name="plateau", factor=0.5, patience=3))
    state = plateau.init({})
    scales = []
    for loss in [3.0, 2.0, 2.5, 2.5, 2.0, 1.9, 1.95, 1.95, 1.95]:
        state = optimizers.update_plateau(plateau, state, loss)
        scales.append(float(state.scale))
    assert scales == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_other_schedules_never_plateau() -> None:
    plateau = optimizers.make_plateau(schedule_options(name="cosine"))
    state = plateau.init({})
    for _ in range(20):
        state = optimizers.update_plateau(plateau, state, 1.0)
    assert float(state.scale) == 1.0
    assert isinstance(state, optax.contrib.ReduceLROnPlateauState)
