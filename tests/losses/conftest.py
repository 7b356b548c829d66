"""Random embeddings, numerical gradients and eight virtual devices, for the tests of the losses."""

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
def assert_slope() -> Callable[..., None]:
    """Compares a loss's gradient with the finite differences of its reference in float64.

    Both are taken along one random direction of all the arrays at once, each array's of length one.
    """

    def check(
        loss: Callable[..., jax.Array], reference: Callable[..., float], *arrays: np.ndarray
    ) -> None:
        rng = np.random.default_rng(1)
        directions = [rng.normal(size=np.shape(array)) for array in arrays]
        directions = [direction / np.linalg.norm(direction) for direction in directions]

        def along(step: float) -> float:
            moved = [
                np.asarray(array, np.float64) + step * direction
                for array, direction in zip(arrays, directions, strict=True)
            ]
            return reference(*moved)

        expected = (along(1e-5) - along(-1e-5)) / 2e-5
        assert abs(expected) > 1e-3
        gradients = jax.grad(loss, argnums=tuple(range(len(arrays))))(*arrays)
        slope = sum(np.sum(np.asarray(g) * d) for g, d in zip(gradients, directions, strict=True))
        assert slope == pytest.approx(expected, rel=1e-4)

    return check


@pytest.fixture
def shard_rows() -> Callable[[np.ndarray], jax.Array]:
    """Puts an array on eight devices, an eighth of the rows on each."""
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return lambda values: jax.device_put(values, sharding)
