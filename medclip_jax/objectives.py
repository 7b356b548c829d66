"""Objectives: named, weighted losses over a model's outputs and a batch.

Each entry says which outputs and batch keys it needs. Any set of them trains in one step, on
outputs that are computed once; what is missing is an error before anything is compiled.

Adding one is a function and an entry in `OBJECTIVES`, and its options in `config.base_config`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from medclip_jax import losses
from medclip_jax.errors import UserError

Arrays = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a loss needs and how it is called.

    Attributes:
        outputs: names of the model's outputs that it reads.
        batch: names of the batch's arrays that it reads.
        loss_fn: (outputs, batch, options) -> (loss, metrics).
    """

    outputs: tuple[str, ...]
    batch: tuple[str, ...]
    loss_fn: Callable[[Arrays, Arrays, ConfigDict], tuple[jax.Array, Metrics]]


def _contrastive(outputs: Arrays, batch: Arrays, options: ConfigDict) -> tuple[jax.Array, Metrics]:
    return losses.info_nce(
        outputs["image_embeddings"],
        outputs["text_embeddings"],
        temperature=outputs["temperature"],
        image_to_text_weight=options.image_to_text_weight,
        group_ids=batch["group_ids"],
        tile_size=options.tile_size or None,
    )


def _sigmoid_contrastive(
    outputs: Arrays, batch: Arrays, options: ConfigDict
) -> tuple[jax.Array, Metrics]:
    return losses.sigmoid_contrastive(
        outputs["image_embeddings"],
        outputs["text_embeddings"],
        temperature=outputs["temperature"],
        bias=outputs["bias"],
        group_ids=batch["group_ids"],
        tile_size=options.tile_size or None,
    )


OBJECTIVES: dict[str, Objective] = {
    "contrastive": Objective(
        ("image_embeddings", "text_embeddings", "temperature"), ("group_ids",), _contrastive
    ),
    "sigmoid_contrastive": Objective(
        ("image_embeddings", "text_embeddings", "temperature", "bias"),
        ("group_ids",),
        _sigmoid_contrastive,
    ),
}


def active(config: ConfigDict) -> dict[str, ConfigDict]:
    """The objectives of `config.objectives` whose weight is not 0, with their options.

    Raises:
        UserError: all are off, or a weight is negative.
    """
    chosen = {name: options for name, options in config.items() if options.weight}
    if not chosen:
        raise UserError("config.objectives: every weight is 0; give one objective a weight")
    for name, options in chosen.items():
        if options.weight < 0:
            raise UserError(f"config.objectives.{name}.weight is negative; use 0 or more")
    return chosen


def check_inputs(config: ConfigDict, outputs: Sequence[str], batch: Sequence[str]) -> None:
    """Raises a UserError that names the first output or batch array an objective lacks."""
    for name in active(config):
        objective = OBJECTIVES[name]
        for needed, present, what in (
            (objective.outputs, outputs, "model output"),
            (objective.batch, batch, "batch array"),
        ):
            for key in needed:
                if key not in present:
                    raise UserError(
                        f"config.objectives.{name} needs the {what} {key!r}, which is not there; "
                        f"there are {', '.join(sorted(present))}"
                    )


def total_loss(outputs: Arrays, batch: Arrays, config: ConfigDict) -> tuple[jax.Array, Metrics]:
    """The weighted sum of the active objectives.

    Returns:
        (loss, metrics): metrics hold "loss", and "NAME/loss" and "NAME/..." of each objective.
    """
    total: Any = 0.0
    metrics: Metrics = {}
    for name, options in active(config).items():
        loss, parts = OBJECTIVES[name].loss_fn(outputs, batch, options)
        total = total + options.weight * loss
        metrics |= {f"{name}/{key}": value for key, value in parts.items()}
        metrics[f"{name}/loss"] = loss
    return total, metrics | {"loss": total}
