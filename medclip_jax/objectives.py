"""Objectives: named, weighted losses over a model's outputs and a batch.

Each entry says which outputs and batch keys it needs. Any set of them trains in one step, on
outputs that are computed once; what is missing is an error before anything is compiled.

Adding one is a function and an entry in `OBJECTIVES`, and its options in `base_config.py`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from medclip_jax import losses
from medclip_jax.errors import UserError
from medclip_jax.models.caption_decoder import reverse_tokens
from medclip_jax.models.patches import patchify

Arrays = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

NUM_ENTRIES = "num_entries"


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a loss needs and how it is called.

    Attributes:
        outputs: names of the model's outputs that it reads.
        batch: names of the batch's arrays that it reads.
        loss_fn: (outputs, batch, options) -> (loss, metrics).
        count_fn: of an objective whose loss and metrics are means over entries (tokens, patches) of
            single rows, the number of entries in a batch; None where rows are compared.
        rows_fn: of an objective that compares rows, those that count, bool [..., B].
    """

    outputs: tuple[str, ...]
    batch: tuple[str, ...]
    loss_fn: Callable[[Arrays, Arrays, ConfigDict], tuple[jax.Array, Metrics]]
    count_fn: Callable[[Arrays], jax.Array] | None = None
    rows_fn: Callable[[Arrays], jax.Array] = lambda batch: _pairs(batch)


def _contrastive(outputs: Arrays, batch: Arrays, options: ConfigDict) -> tuple[jax.Array, Metrics]:
    return losses.info_nce(
        outputs["image_embeddings"],
        outputs["text_embeddings"],
        temperature=outputs["temperature"],
        image_to_text_weight=options.image_to_text_weight,
        group_ids=batch["group_ids"],
        mask=_pairs(batch),
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
        mask=_pairs(batch),
        tile_size=options.tile_size or None,
    )


def _soft_contrastive(
    outputs: Arrays, batch: Arrays, options: ConfigDict
) -> tuple[jax.Array, Metrics]:
    return losses.soft_target_contrastive(
        outputs["image_embeddings"],
        outputs["text_embeddings"],
        temperature=outputs["temperature"],
        image_labels=batch["labels"],
        text_labels=batch["labels"],
        image_mask=batch["has_image"],
        text_mask=batch["has_text"],
    )


def _multi_view_contrastive(
    outputs: Arrays, batch: Arrays, options: ConfigDict
) -> tuple[jax.Array, Metrics]:
    def by_study(rows: jax.Array) -> jax.Array:
        return rows.reshape(-1, options.views, *rows.shape[1:])

    return losses.multi_view_contrastive(
        by_study(outputs["image_embeddings"]),
        by_study(outputs["text_embeddings"]),
        temperature=outputs["temperature"],
        image_weight=options.image_weight,
        text_weight=options.text_weight,
        group_ids=batch["group_ids"][:: options.views],
        mask=by_study(_pairs(batch)).all(axis=1),
        tile_size=options.tile_size or None,
    )


def _local_contrastive(
    outputs: Arrays, batch: Arrays, options: ConfigDict
) -> tuple[jax.Array, Metrics]:
    return losses.local_alignment(
        outputs["image_regions"],
        outputs["word_embeddings"],
        _between_special_tokens(batch["token_mask"]),
        attention_temperature=options.attention_temperature,
        word_temperature=options.word_temperature,
        temperature=options.temperature,
        group_ids=batch["group_ids"],
        mask=_pairs(batch),
    )


def _matching(outputs: Arrays, batch: Arrays, options: ConfigDict) -> tuple[jax.Array, Metrics]:
    is_match, mask = outputs["is_match"], outputs["match_mask"]
    if options.kind == "binary":
        return losses.matching(outputs["match_logits"], is_match, mask=mask)
    return losses.margin_matching(
        outputs["match_similarities"], is_match, margin=options.margin, mask=mask
    )


def _captioning(outputs: Arrays, batch: Arrays, options: ConfigDict) -> tuple[jax.Array, Metrics]:
    ids, token_mask = batch["token_ids"], batch["token_mask"]
    smoothing = options.label_smoothing
    loss, metrics = losses.captioning(
        outputs["caption_logits"], ids[:, 1:], _told_tokens(batch), label_smoothing=smoothing
    )
    if options.backward:
        backward, parts = losses.captioning(
            outputs["backward_caption_logits"],
            reverse_tokens(ids, token_mask)[:, 1:],
            _told_tokens(batch, backward=True),
            label_smoothing=smoothing,
        )
        loss += backward
        metrics |= {f"backward_{name}": value for name, value in parts.items()}
    return loss, metrics


def _masked_language(
    outputs: Arrays, batch: Arrays, options: ConfigDict
) -> tuple[jax.Array, Metrics]:
    return losses.masked_language_modeling(
        outputs["token_logits"], batch["token_ids"], _masked_tokens(batch)
    )


def _masked_vision(
    outputs: Arrays, batch: Arrays, options: ConfigDict
) -> tuple[jax.Array, Metrics]:
    predictions = outputs["patch_predictions"]
    patch_size = math.isqrt(predictions.shape[-1])
    return losses.masked_patch_regression(
        predictions,
        patchify(batch["image"], patch_size),
        _masked_patches(batch),
        normalize_patches=options.normalize_patches,
    )


def _pairs(batch: Arrays) -> jax.Array:
    """The rows that are a whole pair."""
    return batch["has_image"] & batch["has_text"]


def _told_tokens(batch: Arrays, backward: bool = False) -> jax.Array:
    """The tokens that captioning tells: all but the first, of pairs.

    Not what stands at a cut: there the text does not end, nor does it begin there backwards. A
    batch that does not say which texts were cut has none.
    """
    token_mask = batch["token_mask"]
    place_of_cut = 0 if backward else token_mask.sum(axis=1, keepdims=True) - 2
    is_cut = batch.get("text_is_cut", jnp.zeros_like(batch["has_text"]))
    at_cut = is_cut[:, None] & (jnp.arange(token_mask.shape[1] - 1) == place_of_cut)
    return token_mask[:, 1:] & _pairs(batch)[:, None] & ~at_cut


def _labelled_sides(batch: Arrays) -> jax.Array:
    """The images, and the texts, that have a label which is present; [2, B]."""
    labelled = jnp.any(jnp.nan_to_num(batch["labels"]) != 0, axis=-1)
    return labelled & jnp.stack([batch["has_image"], batch["has_text"]])


def _masked_tokens(batch: Arrays) -> jax.Array:
    return batch["token_is_masked"] & batch["has_text"][:, None]


def _masked_patches(batch: Arrays) -> jax.Array:
    return batch["patch_is_masked"] & batch["has_image"][:, None]


def _between_special_tokens(token_mask: jax.Array) -> jax.Array:
    """The tokens but the first and the last of each text, which are special."""
    inner = token_mask[:, 1:-1] & token_mask[:, 2:]
    return jnp.pad(inner, ((0, 0), (1, 1)))


_EMBEDDINGS = ("image_embeddings", "text_embeddings", "temperature")
_ROWS = ("group_ids", "has_image", "has_text")

OBJECTIVES: dict[str, Objective] = {
    "contrastive": Objective(_EMBEDDINGS, _ROWS, _contrastive),
    "sigmoid_contrastive": Objective((*_EMBEDDINGS, "bias"), _ROWS, _sigmoid_contrastive),
    "soft_contrastive": Objective(
        _EMBEDDINGS,
        (*_ROWS, "labels"),
        _soft_contrastive,
        rows_fn=_labelled_sides,
    ),
    "multi_view_contrastive": Objective(_EMBEDDINGS, _ROWS, _multi_view_contrastive),
    "local_contrastive": Objective(("image_regions", "word_embeddings"), _ROWS, _local_contrastive),
    "matching": Objective(("match_logits", "is_match", "match_mask"), _ROWS, _matching),
    "captioning": Objective(
        ("caption_logits",),
        ("token_ids", "token_mask", "has_image", "has_text"),
        _captioning,
        lambda batch: _told_tokens(batch).sum(),
    ),
    "masked_language": Objective(
        ("token_logits",),
        ("token_ids", "token_is_masked", "has_text"),
        _masked_language,
        lambda batch: _masked_tokens(batch).sum(),
    ),
    "masked_vision": Objective(
        ("patch_predictions",),
        ("image", "patch_is_masked", "has_image"),
        _masked_vision,
        lambda batch: _masked_patches(batch).sum(),
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
    found = {
        name: OBJECTIVES[name].loss_fn(outputs, batch, options)
        for name, options in active(config).items()
    }
    return weighted_sum(found, config)


def entry_counts(batch: Arrays, config: ConfigDict) -> Metrics:
    """Over how many entries of a batch each active objective is a mean, as "NAME/num_entries".

    A row that is alone in its batch counts for nothing where rows are compared: its loss is 0 and
    its accuracy 1, whatever the model is.
    """
    counts: Metrics = {}
    for name in active(config):
        objective = OBJECTIVES[name]
        if objective.count_fn:
            count = objective.count_fn(batch)
        else:
            rows = objective.rows_fn(batch)
            count = jnp.where(rows.sum(axis=-1).max() > 1, rows.sum(), 0)
        counts[f"{name}/{NUM_ENTRIES}"] = count
    return counts


def mean_metrics(batches: Sequence[Mapping[str, float]], config: ConfigDict) -> dict[str, float]:
    """The means over the entries of all batches, in float64, and their weighted sum as "loss".

    An objective without any entry is left out; there is no "loss" if that is so for all.

    Args:
        batches: of each batch the metrics of `total_loss` and of `entry_counts`.
        config: `config.objectives`.
    """
    means: dict[str, float] = {}
    for name, options in active(config).items():
        count_key = f"{name}/{NUM_ENTRIES}"
        counts = [metrics[count_key] for metrics in batches]
        if not any(counts):
            continue
        for key in batches[0]:
            if key.startswith(f"{name}/") and key != count_key:
                terms = (m[key] * count for m, count in zip(batches, counts, strict=True) if count)
                means[key] = sum(terms) / sum(counts)
        means["loss"] = means.get("loss", 0.0) + options.weight * means[f"{name}/loss"]
    return means


def weighted_sum(
    found: Mapping[str, tuple[jax.Array, Metrics]], config: ConfigDict
) -> tuple[jax.Array, Metrics]:
    """As `total_loss`, from the loss and the metrics of each active objective."""
    total: Any = 0.0
    metrics: Metrics = {}
    for name, options in active(config).items():
        loss, parts = found[name]
        total = total + options.weight * loss
        metrics |= {f"{name}/{key}": value for key, value in parts.items()}
        metrics[f"{name}/loss"] = loss
    return total, metrics | {"loss": total}
