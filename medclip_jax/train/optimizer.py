"""Adam with parameter groups chosen by regular expressions, and the learning rate's schedule.

Parameters are named by their path ("text_encoder/layer_0/attention/query/kernel"). Frozen ones
never reach the optimiser: they carry no state, and no gradient is computed for them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from medclip_jax.errors import UserError

FlatParams = dict[str, jax.Array]

_NO_MATRIX = re.compile(
    r"(^|[/_])(bias|scale|temperature|token|modality|positions|position_embedding"
    r"|position_embeddings/embedding)$"
)


def flatten_params(params: Mapping[str, Any]) -> FlatParams:
    """Nested parameters as {"a/b/kernel": array}."""
    return traverse_util.flatten_dict(params, sep="/")


def unflatten_params(flat: FlatParams) -> dict[str, Any]:
    """The inverse of `flatten_params`."""
    return traverse_util.unflatten_dict(flat, sep="/")


def split_frozen(
    params: Mapping[str, Any], patterns: Sequence[str]
) -> tuple[FlatParams, FlatParams]:
    """(trainable, frozen) flat parameters; frozen are those whose name a pattern finds.

    Raises:
        UserError: a pattern is not a regular expression or finds no parameter, or all are frozen.
    """
    flat = flatten_params(params)
    frozen = {name for pattern in patterns for name in _matches(pattern, flat)}
    if len(frozen) == len(flat):
        raise UserError("config.optimizer.frozen freezes every parameter: leave some to train")
    trainable = {name: leaf for name, leaf in flat.items() if name not in frozen}
    return trainable, {name: flat[name] for name in flat if name in frozen}


def multipliers(names: Sequence[str], table: Sequence[tuple[str, float]]) -> dict[str, float]:
    """A factor for each name: that of the first pattern of `table` that finds it, else 1.

    Raises:
        UserError: a pattern is not a regular expression or finds no name.
    """
    result: dict[str, float] = {}
    for pattern, factor in table:
        for name in _matches(pattern, names):
            result.setdefault(name, factor)
    return {name: result.get(name, 1.0) for name in names}


def decays(name: str) -> bool:
    """Whether weight decay applies to a parameter: matrices decay, the rest does not.

    Matrices are the kernels of dense layers and convolutions and, as in BERT and open_clip, the
    tables of words and segments. The rest is biases, norms, the temperature, class, mask and
    modality tokens, and positions, whether they are a table or not (as in timm and MAE).
    """
    return not _NO_MATRIX.search(name)


def make_optimizer(config: ConfigDict, names: Sequence[str]) -> optax.GradientTransformation:
    """Clipping, Adam (Kingma & Ba, arXiv 1412.6980), weight decay and rate multipliers.

    Weight decay is AdamW's (arXiv 1711.05101) where `decoupled_weight_decay`, else it is added to
    the gradient; it is the config's times its multipliers where `decays`, else 0. The updates are
    not yet multiplied by the learning rate, which changes by step and by plateau: the train step
    does that.
    """
    factors = multipliers(names, config.weight_decay_multipliers)
    decay = {name: config.weight_decay * factor * decays(name) for name, factor in factors.items()}
    rates = multipliers(names, config.learning_rate_multipliers)
    weight_decay = optax.stateless(
        lambda updates, params: {
            name: update + decay[name] * params[name] for name, update in updates.items()
        }
    )
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    parts = [adam, weight_decay] if config.decoupled_weight_decay else [weight_decay, adam]
    if config.clip_norm:
        parts = [optax.clip_by_global_norm(config.clip_norm), *parts]
    scale = optax.stateless(
        lambda updates, _: {name: -rates[name] * update for name, update in updates.items()}
    )
    return optax.chain(*parts, scale)


def make_schedule(config: ConfigDict, learning_rate: float, num_steps: int) -> optax.Schedule:
    """The learning rate by step: linear warm-up, then constant (also for plateau) or cosine.

    Raises:
        UserError: the schedule's name is unknown, or the warm-up is longer than the run.
    """
    if config.name not in ("constant", "cosine", "plateau"):
        raise UserError(
            f"config.schedule.name is {config.name!r}; there are constant, cosine and plateau"
        )
    warmup = config.warmup_steps
    if config.name == "cosine":
        if warmup >= num_steps:
            raise UserError(f"config.schedule.warmup_steps {warmup} must be below config.num_steps")
        rest = optax.cosine_decay_schedule(learning_rate, num_steps - warmup, config.final_fraction)
    else:
        rest = optax.constant_schedule(learning_rate)
    if not warmup:
        return rest
    # The first step already moves: it uses learning_rate / warmup.
    start = optax.linear_schedule(learning_rate / warmup, learning_rate, warmup - 1)
    return optax.join_schedules([start, rest], [warmup])


def make_plateau(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """Lowers the rate where the validation loss stalls; `update` is called once an evaluation."""
    patience = config.patience if config.name == "plateau" else 2**30
    return optax.contrib.reduce_on_plateau(factor=config.factor, patience=patience)


def update_plateau(
    plateau: optax.GradientTransformationExtraArgs, state: Any, validation_loss: float
) -> Any:
    """The plateau's state after one more evaluation."""
    value = jnp.asarray(validation_loss, jnp.float32)
    return plateau.update({}, state, value=value)[1]


def _matches(pattern: str, names: Mapping[str, Any] | Sequence[str]) -> list[str]:
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise UserError(
            f"config.optimizer: {pattern!r} is no regular expression: {error}"
        ) from None
    if not found:
        raise UserError(
            f"config.optimizer: {pattern!r} finds no parameter; their names are like "
            f"{next(iter(names))} (all are listed at the start of a run)"
        )
    return found
