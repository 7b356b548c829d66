"""Random embeddings, and a mesh over the eight virtual devices, for the tests of the losses."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Images and texts that resemble one another a little, of various lengths, and group ids."""

    def make(size: int, dim: int = 16, num_keys: int = 2, seed: int = 0) -> Batch:
        rng = np.random.default_rng(seed)
        image = rng.normal(size=(size, dim))
        text = 0.5 * image + rng.normal(size=(size, dim))
        text *= rng.uniform(0.1, 10.0, size=(size, 1))
        groups = rng.integers(0, max(2, size // 2), size=(size, num_keys))
        return image.astype(np.float32), text.astype(np.float32), groups.astype(np.int32)

    return make


@pytest.fixture
def shard_rows() -> Callable[[np.ndarray], jax.Array]:
    """Puts an array on eight devices, an eighth of the rows on each."""
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return lambda values: jax.device_put(values, sharding)
