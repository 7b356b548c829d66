"""One training step and one validation step, as pure functions of (state, batch).

All randomness (augmentation, dropout) comes from `fold_in(seed, step)`, so a resumed run repeats
the steps of one that was never stopped, on any mesh.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medclip_jax import objectives, sharding
from medclip_jax.data.augment import Augmentation, augment, prepare
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.masks import BatchMasks
from medclip_jax.train.pieces import loss_in_pieces
from medclip_jax.train.state import Batch, TrainState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[TrainState, Batch], Metrics]


def make_train_step(
    model: ImageTextModel,
    config: ConfigDict,
    masks: BatchMasks,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
) -> TrainStep:
    """The function (state, batch) -> (state, metrics); the caller jits it and donates the state.

    Metrics are scalars of this step: the losses, `learning_rate` and `gradient_norm`.
    """
    augmentation = Augmentation.from_config(config.augmentation)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        augment_key, dropout_key = jax.random.split(key)
        mask_key, negatives_key = jax.random.split(jax.random.fold_in(key, 1))
        batch = batch | {"image": augment(batch["image"], augment_key, augmentation)}
        batch = masks(batch, mask_key)
        trainable, frozen = optimizers.split_frozen(state.params, config.optimizer.frozen)

        def loss_fn(trainable: optimizers.FlatParams) -> tuple[jax.Array, tuple[Metrics, Any]]:
            variables = {
                "params": optimizers.unflatten_params(trainable | frozen),
                "batch_stats": state.batch_stats,
            }
            keys = {"dropout": dropout_key, "negatives": negatives_key}
            if 0 < config.microbatch_size < config.batch_size:
                size = config.microbatch_size
                return loss_in_pieces(model, variables, batch, keys, config, size)
            outputs, updated = model.apply(
                variables, batch, train=True, rngs=keys, mutable=["batch_stats"]
            )
            loss, metrics = objectives.total_loss(outputs, batch, config.objectives)
            return loss, (metrics, updated.get("batch_stats", {}))

        with sharding.rows_stay_apart(mesh):
            gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
            (_, (metrics, batch_stats)), gradients = gradient_fn(trainable)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trainable)
        learning_rate = schedule(state.step) * state.plateau.scale
        trainable = {name: leaf + learning_rate * updates[name] for name, leaf in trainable.items()}
        params = optimizers.unflatten_params(trainable | frozen)
        metrics |= {
            "learning_rate": learning_rate,
            "gradient_norm": optax.tree.norm(gradients),
        }
        return state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema_params=_average(state.ema_params, params, config.optimizer.ema_decay),
        ), metrics

    return train_step


def make_eval_step(
    model: ImageTextModel, config: ConfigDict, masks: BatchMasks, mesh: Mesh
) -> EvalStep:
    """The function (state, batch) -> metrics: the losses without augmentation or dropout.

    Masks and negatives are drawn alike at every evaluation.
    """
    augmentation = Augmentation.from_config(config.augmentation)

    def eval_step(state: TrainState, batch: Batch) -> Metrics:
        mask_key, negatives_key = jax.random.split(jax.random.key(config.seed))
        batch = batch | {"image": prepare(batch["image"], augmentation)}
        batch = masks(batch, mask_key)
        with sharding.rows_stay_apart(mesh):
            outputs: Any = model.apply(
                state.evaluation_variables, batch, train=False, rngs={"negatives": negatives_key}
            )
        return objectives.total_loss(outputs, batch, config.objectives)[1]

    return eval_step


def check_objectives(model: ImageTextModel, config: ConfigDict, batch: Batch) -> None:
    """Raises a UserError where an objective needs what the model or the batch does not give."""
    keys = {"params": jax.random.key(0), "negatives": jax.random.key(0)}
    outputs = jax.eval_shape(lambda: model.init_with_output(keys, batch, train=False)[0])
    objectives.check_inputs(config.objectives, tuple(outputs), tuple(batch))


def _average(ema: dict[str, Any], params: dict[str, Any], decay: float) -> dict[str, Any]:
    if not ema:
        return ema
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * jnp.asarray(new), ema, params)
