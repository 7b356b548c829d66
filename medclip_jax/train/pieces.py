"""The loss of a batch whose activations do not fit in memory: piece by piece, and exact.

As GradCache (Gao et al., https://arxiv.org/abs/2101.06983) does for dense retrieval: the encoders
run on one microbatch after the other, and only what rows are compared by (embeddings) is kept; the
losses that compare rows see the whole batch; for the gradient each microbatch is encoded again.
Losses that are means over the entries of single rows are summed up on the way. All of it is a
`lax.scan` of a checkpointed function, which JAX differentiates.

What differs from one big step: batch normalisation has the statistics of each microbatch, and
dropout is drawn for each.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from medclip_jax import objectives
from medclip_jax.errors import UserError
from medclip_jax.losses.pairs import from_tiles, to_tiles
from medclip_jax.models.image_text_model import ImageTextModel

Arrays = dict[str, jax.Array]
Keys = Mapping[str, jax.Array]
Loss = tuple[jax.Array, tuple[objectives.Metrics, Any]]


class Means(NamedTuple):
    """The loss and the metrics of an objective over some rows, and over how many entries."""

    loss: jax.Array
    metrics: objectives.Metrics
    num_entries: jax.Array


def check_microbatch_size(size: int, batch_size: int, shards: int) -> None:
    """Raises a UserError where a batch does not divide into microbatches, or these over devices.

    Args:
        size: `config.microbatch_size`.
        batch_size: of the whole batch.
        shards: devices over which rows lie.
    """
    if size > 0 and (batch_size % size or size % shards):
        raise UserError(
            f"config.microbatch_size {size} must divide config.batch_size {batch_size}, and be a "
            f"multiple of the {shards} devices that share the rows"
        )


def loss_in_pieces(
    model: ImageTextModel,
    variables: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    keys: Keys,
    config: ConfigDict,
    size: int,
) -> Loss:
    """(loss, (metrics, batch statistics)) of a training batch, as of one forward pass of it.

    Args:
        model: the model.
        variables: "params" and "batch_stats".
        batch: as the model takes it, B rows.
        keys: "dropout" and "negatives".
        config: of the run.
        size: rows of a microbatch; divides B.
    """
    active = objectives.active(config.objectives)
    by_row = [name for name in active if objectives.OBJECTIVES[name].count_fn]
    compared = [name for name in active if name not in by_row]
    kept = _kept_outputs(model, compared)
    encode_key, judge_key = jax.random.split(keys["dropout"])

    @jax.checkpoint
    def encode(statistics: Any, piece: tuple[Arrays, jax.Array]) -> tuple[Any, Any]:
        rows, index = piece
        outputs, updated = model.apply(
            {"params": variables["params"], "batch_stats": statistics},
            rows,
            True,
            rngs={"dropout": jax.random.fold_in(encode_key, index)},
            mutable=["batch_stats"],
            method="encode_rows",
        )
        means = {name: _means(name, outputs, rows, active[name]) for name in by_row}
        return updated.get("batch_stats", {}), ({name: outputs[name] for name in kept}, means)

    num_rows = batch["has_image"].shape[0]
    pieces = {name: to_tiles(array, size) for name, array in batch.items()}
    numbers = jnp.arange(num_rows // size)
    statistics, (tiles, means) = jax.lax.scan(encode, variables["batch_stats"], (pieces, numbers))
    outputs = {name: from_tiles(array, num_rows) for name, array in tiles.items()}
    scalars: Any = model.apply({"params": variables["params"]}, method="scalars")
    outputs |= scalars
    if model.matching is not None:
        judge_keys = {"dropout": judge_key, "negatives": keys["negatives"]}
        outputs |= _judge(model, variables, batch, outputs, judge_keys, 2 * size)
    found = {name: _average(means[name]) for name in by_row} | {
        name: objectives.OBJECTIVES[name].loss_fn(outputs, batch, active[name]) for name in compared
    }
    loss, metrics = objectives.weighted_sum(found, config.objectives)
    return loss, (metrics, statistics)


def _kept_outputs(model: ImageTextModel, compared: list[str]) -> list[str]:
    """The outputs of `encode_rows` that are read for the batch as a whole."""
    names = {name for objective in compared for name in objectives.OBJECTIVES[objective].outputs}
    if model.matching is not None:
        names |= {*model.pair_inputs[0], *model.pair_inputs[1]}
        if model.matching.negatives == "hard":
            names |= {"image_embeddings", "text_embeddings"}
    of_the_batch = {"temperature", "bias", "match_logits", "is_match", "match_mask"}
    return sorted(names - of_the_batch)


def _means(name: str, outputs: Arrays, rows: Arrays, options: ConfigDict) -> Means:
    objective = objectives.OBJECTIVES[name]
    assert objective.count_fn is not None
    loss, metrics = objective.loss_fn(outputs, rows, options)
    return Means(loss, metrics, objective.count_fn(rows))


def _average(pieces: Means) -> tuple[jax.Array, objectives.Metrics]:
    """The means over all entries, from those of each piece."""
    weights = pieces.num_entries / jnp.maximum(pieces.num_entries.sum(), 1)
    loss, metrics = jax.tree.map(lambda values: values @ weights, (pieces.loss, pieces.metrics))
    return loss, metrics


def _judge(
    model: ImageTextModel,
    variables: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    outputs: Arrays,
    keys: Keys,
    size: int,
) -> Arrays:
    """The outputs of matching: pairs are drawn from the whole batch, and judged piece by piece."""
    params = {"params": variables["params"]}
    negatives = {"negatives": keys["negatives"]}
    pairs: Any = model.apply(params, batch, outputs, rngs=negatives, method="draw_pairs")

    @jax.checkpoint
    def judge(_: None, piece: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[None, Any]:
        image_rows, text_rows, index = piece
        image, text = model.pair_sides(batch, outputs, image_rows, text_rows)
        key = jax.random.fold_in(keys["dropout"], index)
        judged = model.apply(params, image, text, True, rngs={"dropout": key}, method="judge")
        return None, judged

    num_pairs = pairs.image_rows.shape[0]
    tiles = to_tiles(pairs.image_rows, size), to_tiles(pairs.text_rows, size)
    _, judged = jax.lax.scan(judge, None, (*tiles, jnp.arange(num_pairs // size)))
    return {name: from_tiles(array, num_pairs) for name, array in judged.items()} | pairs.targets()
