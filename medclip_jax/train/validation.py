"""Which rows a run is validated on, in which batches, and the mean over exactly these rows.

A batch is filled up to a multiple of the devices with rows that show neither image nor text; the
masks of the losses leave them out, and the means of the batches are weighted by what they count.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medclip_jax import objectives, sharding
from medclip_jax.data import pipeline
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError
from medclip_jax.train.step import Metrics
from medclip_jax.train.usable_data import nothing_to_learn, views_per_study


class Validation(NamedTuple):
    """The batches of a validation set.

    Attributes:
        num_rows: rows that count in all.
        batch_size: rows of a batch that count; in the last one there may be fewer.
        padded_size: rows of a batch.
    """

    config: ConfigDict
    mesh: Mesh
    tokenizer: Tokenizer
    num_rows: int
    batch_size: int
    padded_size: int

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """The rows of each batch that this process reads, the same at every call."""
        return pipeline.validation_batches(
            self.config.data,
            -(-self.num_rows // self.batch_size),
            seed=self.config.seed,
            batch_size=self.batch_size,
            tokenizer=self.tokenizer,
            max_length=self.config.text_encoder.max_length,
            views_per_study=views_per_study(self.config),
            rows=sharding.local_rows(self.mesh, self.padded_size).tolist(),
            num_rows=self.num_rows,
        )

    def mean(self, batches: Iterable[Metrics]) -> dict[str, float]:
        """The means over all rows, from what the validation step gives of each batch."""
        fetched = [
            {name: float(value) for name, value in jax.device_get(metrics).items()}
            for metrics in batches
        ]
        return objectives.mean_metrics(fetched, self.config.objectives)


def prepare_validation(
    config: ConfigDict, mesh: Mesh, tokenizer: Tokenizer
) -> tuple[Validation | None, list[str]]:
    """The validation of a run, None where there is nothing to measure, and lines that say so.

    Raises:
        UserError: `config.validation_batch_size` is impossible, or the schedule follows a
            validation loss that there is not.
    """
    views = views_per_study(config)
    asked = config.data.validation_examples
    there = pipeline.num_studies(config.data, pipeline.VALIDATION) * views
    num_rows = min(asked, there) // views * views
    size = config.validation_batch_size or config.batch_size
    if size % views:
        raise UserError(f"config.validation_batch_size {size} is not a multiple of {views} views")
    if not num_rows:
        asked_for = f"config.data.validation_examples is {asked}"
        return None, _without(config, asked_for if there else "no set has a validation split")
    size = min(size, num_rows)
    unmeasured = nothing_to_learn(config, pipeline.VALIDATION, tokenizer, size)
    notes = [f"validation does not measure {name}: {why}" for name, why in unmeasured.items()]
    if len(unmeasured) == len(objectives.active(config.objectives)):
        return None, _without(config, "; ".join(notes))
    if num_rows < asked:
        notes.append(
            f"validation is on {num_rows} rows, all there are "
            f"(config.data.validation_examples is {asked})"
        )
    multiple = math.lcm(sharding.batch_shards(mesh), views)
    padded = -(-size // multiple) * multiple
    return Validation(config, mesh, tokenizer, num_rows, size, padded), notes


def _without(config: ConfigDict, reason: str) -> list[str]:
    """The line of a run without validation, which a plateau cannot be."""
    if config.schedule.name == "plateau":
        raise UserError(
            f"config.schedule.name plateau follows the validation loss, and there is none "
            f"({reason}): choose constant or cosine, or give validation data"
        )
    return [f"there is no validation ({reason}): the last checkpoint is the one that is used"]
