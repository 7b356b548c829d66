"""Recomputation in the backward pass: what it keeps, and that it changes no result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.config import base_config
from medclip_jax.errors import UserError
from medclip_jax.models.bert import Bert
from medclip_jax.models.factory import build_model
from medclip_jax.models.resnet import ResNet
from medclip_jax.models.vit import VisionTransformer

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((4, 64, 64, 1)).astype(np.float32)
IDS, MASK = RNG.integers(0, 11, (4, 48)), np.arange(48) < np.array([[48], [30], [5], [1]])

MODELS = {
    "vit": (
        VisionTransformer(hidden_size=32, num_layers=3, num_heads=4, patch_size=8),
        (IMAGE,),
        {"train": True},
    ),
    "bert": (
        Bert(11, 32, 3, 4, 128, max_position_embeddings=48, dropout_rate=0.1),
        (IDS, MASK),
        {"deterministic": False},
    ),
    "resnet": (ResNet((1, 1), bottleneck=True, width=8), (IMAGE,), {"train": True}),
}
# From the one that keeps most.
POLICIES = {
    "none": {"remat": False},
    "dots": {"remat": True, "remat_policy": "dots"},
    "nothing": {"remat": True, "remat_policy": "nothing"},
}


def make_loss(name, **changes):
    """A function of parameters, and the variables' shapes."""
    model, inputs, options = MODELS[name]
    model = dataclasses.replace(model, **changes)

    def loss(params, batch_stats):
        outputs, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            *inputs,
            **options,
            rngs={"dropout": jax.random.key(3)},
            mutable=["batch_stats"],
        )
        return sum(jnp.mean(output**2) for output in jax.tree.leaves(outputs)), updated

    return loss


def variables_of(make, name):
    model, inputs, options = MODELS[name]
    still = {"train": False} if "train" in options else {"deterministic": True}
    variables = make(model, *inputs, **still)
    return variables["params"], variables.get("batch_stats", {})


@pytest.mark.parametrize("name", MODELS)
def test_policies_change_no_result(make_variables, name):
    params, batch_stats = variables_of(make_variables, name)

    def evaluate(**changes):
        step = jax.value_and_grad(make_loss(name, **changes), has_aux=True)
        return jax.jit(step)(params, batch_stats)

    expected = evaluate(**POLICIES["none"])
    for policy in ("dots", "nothing"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            evaluate(**POLICIES[policy]),
            expected,
        )


@pytest.mark.parametrize("name", MODELS)
def test_the_forward_pass_keeps_less(make_variables, name):
    """By what the backward pass is given."""
    params, batch_stats = variables_of(make_variables, name)

    def kept(**changes):
        loss = make_loss(name, **changes)
        residuals = jax.eval_shape(
            lambda p: jax.vjp(lambda p: loss(p, batch_stats)[0], p)[1], params
        )
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    none, dots, nothing = (kept(**changes) for changes in POLICIES.values())
    assert nothing < 0.7 * dots < 0.7 * 0.7 * none


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_the_compiled_step_needs_less_memory(make_variables, name):
    """With scanned layers: written out, XLA on CPU recomputes them too early to save memory."""
    params, batch_stats = variables_of(make_variables, name)

    def temporary_bytes(**changes):
        step = jax.jit(jax.grad(make_loss(name, scan_layers=True, **changes), has_aux=True))
        compiled = step.lower(params, batch_stats).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    none, dots, nothing = (temporary_bytes(**changes) for changes in POLICIES.values())
    assert nothing < dots < none


def test_an_unknown_policy_is_one_clear_line():
    config = base_config()
    config.remat_policy = "everything"
    with pytest.raises(UserError, match="remat_policy is 'everything': give one of nothing, dots"):
        build_model(config, 99)
