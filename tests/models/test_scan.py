"""Layers compiled once for all: the same parameters, outputs and gradients; a smaller program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.config import base_config
from medclip_jax.models.bert import Bert
from medclip_jax.models.factory import build_model
from medclip_jax.models.fusion import FusionTransformer
from medclip_jax.models.vit import VisionTransformer

RNG = np.random.default_rng(0)
MASK = np.arange(6) < np.array([[6], [4]])
IMAGE = RNG.standard_normal((2, 32, 32, 1)).astype(np.float32)
GRID = RNG.standard_normal((2, 4, 5)).astype(np.float32)
TOKENS = RNG.standard_normal((2, 6, 5)).astype(np.float32)
IDS = RNG.integers(0, 11, (2, 6))

# Each with its inputs.
VIT = VisionTransformer(hidden_size=24, num_layers=3, num_heads=3), (IMAGE,), {"train": True}
BERT = (
    Bert(
        vocab_size=11,
        hidden_size=8,
        num_layers=3,
        num_heads=2,
        intermediate_size=12,
        max_position_embeddings=6,
        dropout_rate=0.0,
    ),
    (IDS, MASK),
    {"deterministic": False},
)
FUSION = (
    FusionTransformer(hidden_size=8, num_layers=3, num_heads=2),
    (GRID, TOKENS),
    {"token_mask": MASK, "deterministic": False},
)
MODELS = {"vit": VIT, "bert": BERT, "fusion": FUSION}


def total(variables, model, inputs, options, keys=None):
    """A number that depends on all outputs that have a meaning."""
    outputs = jax.tree.leaves(model.apply(variables, *inputs, **options, rngs=keys))
    return sum(jnp.sum(jnp.sin(output[:, :4])) for output in outputs)


def shapes(model, inputs, options):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, **options))


@pytest.mark.parametrize("name", MODELS)
def test_the_parameters_are_the_same(name):
    model, inputs, options = MODELS[name]
    scanned = dataclasses.replace(model, scan_layers=True)
    assert shapes(model, inputs, options) == shapes(scanned, inputs, options)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_the_same(make_variables, name, remat):
    model, inputs, options = MODELS[name]
    scanned = dataclasses.replace(model, scan_layers=True, remat=remat, remat_policy="dots")
    variables = make_variables(model, *inputs, **options)
    evaluate = jax.value_and_grad(total)
    assert scans(scanned, variables, inputs, options) == 1
    assert scans(model, variables, inputs, options) == 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        jax.jit(lambda v: evaluate(v, model, inputs, options))(variables),
        jax.jit(lambda v: evaluate(v, scanned, inputs, options))(variables),
    )


def scans(model, variables, inputs, options):
    program = jax.make_jaxpr(lambda v: total(v, model, inputs, options))(variables)
    return sum(equation.primitive.name == "scan" for equation in program.eqns)


@pytest.mark.parametrize("remat", [False, True])
def test_dropout_follows_from_the_key_alone(make_variables, remat):
    model, inputs, options = BERT
    model = dataclasses.replace(model, dropout_rate=0.5, scan_layers=True, remat=remat)
    variables = make_variables(model, *inputs, deterministic=True)
    evaluate = jax.jit(
        jax.value_and_grad(
            lambda v, key: total(v, model, inputs, options, {"dropout": jax.random.key(key)})
        )
    )
    first = evaluate(variables, 0)
    jax.tree.map(np.testing.assert_array_equal, first, evaluate(variables, 0))
    assert first[0] != evaluate(variables, 1)[0]
    still = total(variables, model, inputs, {"deterministic": True})
    assert abs(first[0] - still) > 1e-3


def test_each_layer_drops_other_numbers(make_variables):
    """With parameters that make each layer add its dropped biases, equal draws would show."""
    model, inputs, options = FUSION
    model = dataclasses.replace(model, num_layers=2, dropout_rate=0.5, scan_layers=True)
    variables = make_variables(model, *inputs, token_mask=MASK, deterministic=True)
    params = jax.tree.map(np.zeros_like, variables["params"])
    for index in range(2):
        params[f"layer_{index}"]["mlp"]["output"]["bias"] = np.ones(8, np.float32)
    params["norm"]["scale"] = np.ones(8, np.float32)
    keys = {"dropout": jax.random.key(0)}
    outputs = model.apply({"params": params}, *inputs, **options, rngs=keys)
    # Each layer adds 0 or 2: alike, the sums would be 0 and 4; else there are 2 as well.
    assert max(len(np.unique(np.round(token, 3))) for token in outputs.image[0]) == 3


def test_the_program_does_not_grow_with_the_layers(make_variables):
    def operations(num_layers, scan_layers):
        model, inputs, options = VIT
        model = dataclasses.replace(model, num_layers=num_layers, scan_layers=scan_layers)
        step = jax.jit(jax.grad(lambda v: total(v, model, inputs, options)))
        return step.lower(shapes(model, inputs, options)).as_text().count(" = ")

    assert operations(12, True) < 0.4 * operations(12, False)
    # A layer more is its parameters, which are stacked, and their gradients, which are taken apart.
    assert operations(12, True) - operations(6, True) < 0.3 * (
        operations(12, False) - operations(6, False)
    )


def test_the_config_reaches_the_modules():
    config = base_config()
    config.scan_layers, config.remat_policy = True, "dots"
    config.image_encoder.name, config.fusion.num_layers = "vit_tiny", 2
    model = build_model(config, 99)
    for module in (model.image_encoder, model.text_encoder, model.fusion):
        assert (module.scan_layers, module.remat_policy) == (True, "dots")
    config.image_encoder.name = "resnet18"
    assert build_model(config, 99).image_encoder.remat_policy == "dots"
