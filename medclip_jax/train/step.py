"""One training step and one validation step, as pure functions of (state, batch).

All randomness comes from the seed and the number of the step (`train/keys.py`), so a resumed run
repeats the steps of one that was never stopped, on any mesh.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from medclip_jax import objectives, sharding
from medclip_jax.data.augment import Augmentation, augment, prepare
from medclip_jax.models.image_text_model import ImageTextModel
from medclip_jax.models.layers import locked_norms
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.finite import NUM_NOT_FINITE, num_not_finite
from medclip_jax.train.keys import StepKeys
from medclip_jax.train.masks import BatchMasks
from medclip_jax.train.pieces import loss_in_pieces
from medclip_jax.train.state import Batch, TrainState, initial_rngs

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

    Metrics are scalars of this step: the losses, `learning_rate`, `gradient_norm`, and how many
    entries of what it updated are not finite.
    """
    augmentation = Augmentation.from_config(config.augmentation)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = StepKeys.of_training(config.seed, state.step)
        batch = batch | {"image": augment(batch["image"], keys.augmentation, augmentation)}
        batch = masks(batch, keys.masks)
        trainable, frozen = optimizers.split_frozen(state.params, config.optimizer.frozen)

        def loss_fn(trainable: optimizers.FlatParams) -> tuple[jax.Array, tuple[Metrics, Any]]:
            variables = {
                "params": optimizers.unflatten_params(trainable | frozen),
                "batch_stats": state.batch_stats,
            }
            rngs = {"dropout": keys.dropout, "negatives": keys.negatives}
            if 0 < config.microbatch_size < config.batch_size:
                size = config.microbatch_size
                return loss_in_pieces(model, variables, batch, rngs, config, size)
            outputs, updated = model.apply(
                variables, batch, train=True, rngs=rngs, mutable=["batch_stats"]
            )
            loss, metrics = objectives.total_loss(outputs, batch, config.objectives)
            return loss, (metrics, updated.get("batch_stats", {}))

        with sharding.rows_stay_apart(mesh), locked_norms(frozen):
            gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
            (_, (metrics, batch_stats)), gradients = gradient_fn(trainable)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trainable)
        learning_rate = schedule(state.step) * state.plateau.scale
        trainable = {name: leaf + learning_rate * updates[name] for name, leaf in trainable.items()}
        params = optimizers.unflatten_params(trainable | frozen)
        decay = average_decay(config.optimizer.ema_decay, state.step)
        ema_params = _average(state.ema_params, params, decay)
        metrics |= {
            "learning_rate": learning_rate,
            "gradient_norm": optax.tree.norm(gradients),
            NUM_NOT_FINITE: num_not_finite((trainable, batch_stats)),
        }
        return state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema_params=ema_params,
        ), metrics

    return train_step


def make_eval_step(
    model: ImageTextModel, config: ConfigDict, masks: BatchMasks, mesh: Mesh
) -> EvalStep:
    """The function (state, batch) -> metrics: the losses without augmentation or dropout.

    Masks and negatives are drawn alike at every evaluation. The metrics also say over how many
    entries each objective is a mean, since a batch may be filled up with rows that do not count.
    """
    augmentation = Augmentation.from_config(config.augmentation)

    def eval_step(state: TrainState, batch: Batch) -> Metrics:
        keys = StepKeys.of_evaluation(config.seed)
        batch = batch | {"image": prepare(batch["image"], augmentation)}
        batch = masks(batch, keys.masks)
        with sharding.rows_stay_apart(mesh):
            outputs: Any = model.apply(
                state.evaluation_variables, batch, train=False, rngs={"negatives": keys.negatives}
            )
        metrics = objectives.total_loss(outputs, batch, config.objectives)[1]
        return metrics | objectives.entry_counts(batch, config.objectives)

    return eval_step


def check_objectives(model: ImageTextModel, config: ConfigDict, batch: Batch) -> None:
    """Raises a UserError where an objective needs what the model or the batch does not give."""
    rngs = initial_rngs(config.seed)
    outputs = jax.eval_shape(lambda: model.init_with_output(rngs, batch, train=False)[0])
    objectives.check_inputs(config.objectives, tuple(outputs), tuple(batch))


def average_decay(decay: float, step: int | Int[Array, ""]) -> Float[Array, ""]:
    """The share of the average of the weights that step `step`, counted from 0, keeps.

    min(decay, (1 + step) / (10 + step)): the weights of the start are soon forgotten, as in
    TensorFlow's `ExponentialMovingAverage` with `num_updates`.
    """
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def _average(
    ema: dict[str, Any], params: dict[str, Any], decay: Float[Array, ""]
) -> dict[str, Any]:
    """The new average, so computed that frozen parameters stay the same to the last bit."""
    if not ema:
        return ema
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), ema, params)
