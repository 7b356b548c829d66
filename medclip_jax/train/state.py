"""All that a training run carries from one step to the next, as one frozen PyTree."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medclip_jax import sharding
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.keys import RunKeys

Batch = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """The state after `step` steps.

    Attributes:
        params: nested float32 parameters, frozen ones included.
        batch_stats: BatchNorm's running statistics.
        opt_state: of the trainable parameters only.
        plateau: optax's plateau state; its `scale` multiplies the learning rate.
        ema_params: exponential average of `params`, or an empty dict where it is off.
    """

    step: jax.Array
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    opt_state: Any
    plateau: Any
    ema_params: dict[str, Any]

    @property
    def evaluation_variables(self) -> dict[str, Any]:
        """What evaluation uses: the averaged weights where there are some."""
        return {"params": self.ema_params or self.params, "batch_stats": self.batch_stats}


def dummy_batch(crop_size: int, max_length: int, num_labels: int = 0, rows: int = 2) -> Batch:
    """A batch of zeros in the shape that the model takes; without labels where there are none."""
    batch = {
        "image": jnp.zeros((rows, crop_size, crop_size, 1), jnp.float32),
        "token_ids": jnp.zeros((rows, max_length), jnp.int32),
        "token_mask": jnp.ones((rows, max_length), bool),
        "group_ids": jnp.arange(2 * rows, dtype=jnp.int32).reshape(rows, 2),
        "has_image": jnp.ones(rows, bool),
        "has_text": jnp.ones(rows, bool),
        "text_is_cut": jnp.zeros(rows, bool),
    }
    return batch | ({"labels": jnp.zeros((rows, num_labels))} if num_labels else {})


def init_variables(model: ImageTextModel, seed: int, batch: Batch) -> dict[str, Any]:
    """Random parameters and statistics of the model, from the seed alone.

    Args:
        model: the model.
        seed: decides the values.
        batch: in the shape that the model takes, with what `BatchMasks` adds.
    """
    return dict(model.init(initial_rngs(seed), batch, train=False))


def initial_rngs(seed: int) -> dict[str, jax.Array]:
    """The keys with which a model is initialised."""
    keys = RunKeys.from_seed(seed)
    return {"params": keys.parameters, "negatives": keys.initial_negatives}


def with_initial(variables: Mapping[str, Any], initial: Mapping[str, Any]) -> dict[str, Any]:
    """The variables, with those of `initial`, a part of the same tree, in their places."""
    return unflatten_dict(flatten_dict(variables) | flatten_dict(initial))


def quick_compilation() -> dict[str, int] | None:
    """Compiler options for what runs once: on a CPU no optimisation, in a quarter of the time."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


def create_state(
    model: ImageTextModel,
    optimizer: optax.GradientTransformation,
    plateau: optax.GradientTransformationExtraArgs,
    config: ConfigDict,
    batch: Batch,
    mesh: Mesh,
    initial: Mapping[str, Any] | None = None,
) -> TrainState:
    """A fresh state, made on the mesh leaf by leaf where it will lie.

    Args:
        model: the model.
        optimizer: of the trainable parameters.
        plateau: scales the learning rate.
        config: of the run.
        batch: in the shape that the model takes, with what `BatchMasks` adds.
        mesh: where the state lies.
        initial: variables that are not random, a part of the tree; the same on every process.
    """
    init, initial = state_init(model, optimizer, plateau, config, batch), initial or {}
    shapes = jax.eval_shape(init, initial)
    shardings = sharding.state_shardings(mesh, shapes, config.fsdp_min_size)
    return jax.jit(init, out_shardings=shardings, compiler_options=quick_compilation())(initial)


def state_init(
    model: ImageTextModel,
    optimizer: optax.GradientTransformation,
    plateau: optax.GradientTransformationExtraArgs,
    config: ConfigDict,
    batch: Batch,
) -> Callable[[Mapping[str, Any]], TrainState]:
    """The function that makes a fresh state of the variables that are not random."""

    def init(initial: Mapping[str, Any]) -> TrainState:
        variables = with_initial(init_variables(model, config.seed, batch), initial)
        params = variables["params"]
        trainable, _ = optimizers.split_frozen(params, config.optimizer.frozen)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(trainable),
            plateau=plateau.init({}),
            ema_params=jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else {},
        )

    return init
