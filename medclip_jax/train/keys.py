"""The random keys of a run: each use has its own, by name.

With JAX's partitionable threefry `split(key)[i]` equals `fold_in(key, i)`. So a key is either split
once or folded with numbers, never both, and none is handed to two parts. The seed's own key is
Flax's, which folds hashes of parameters' names into it; so its other uses are hashes of names too.
"""

import zlib
from typing import NamedTuple, Self

import jax
from jaxtyping import Array, Int, PRNGKeyArray


class RunKeys(NamedTuple):
    """What the seed of a run decides, beside the order of its data."""

    parameters: PRNGKeyArray
    initial_negatives: PRNGKeyArray
    training: PRNGKeyArray
    evaluation: PRNGKeyArray

    @classmethod
    def from_seed(cls, seed: int) -> Self:
        """The keys of a seed."""
        key, (_, *others) = jax.random.key(seed), cls._fields
        return cls(key, *(jax.random.fold_in(key, zlib.crc32(name.encode())) for name in others))


class StepKeys(NamedTuple):
    """What is drawn for one batch; evaluation draws masks and negatives only."""

    augmentation: PRNGKeyArray
    masks: PRNGKeyArray
    dropout: PRNGKeyArray
    negatives: PRNGKeyArray

    @classmethod
    def of_training(cls, seed: int, step: int | Int[Array, ""]) -> Self:
        """The keys of a training step."""
        return cls._split(jax.random.fold_in(RunKeys.from_seed(seed).training, step))

    @classmethod
    def of_evaluation(cls, seed: int) -> Self:
        """The keys of every evaluation, which are always the same."""
        return cls._split(RunKeys.from_seed(seed).evaluation)

    @classmethod
    def _split(cls, key: PRNGKeyArray) -> Self:
        return cls(*jax.random.split(key, len(cls._fields)))
