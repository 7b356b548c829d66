"""The mesh: its axes, where batches and states lie, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from medclip_jax import sharding
from medclip_jax.errors import UserError


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ({"data": -1, "fsdp": 1}, {"data": 8, "fsdp": 1}),
        ({"data": 2, "fsdp": -1}, {"data": 2, "fsdp": 4}),
        ({"data": 4, "fsdp": 2}, {"data": 4, "fsdp": 2}),
    ],
)
def test_minus_one_takes_the_devices_that_are_left(axes: dict, shape: dict) -> None:
    mesh = sharding.make_mesh(axes)
    assert dict(mesh.shape) == shape
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    "axes", [{"data": 3, "fsdp": -1}, {"data": 2, "fsdp": 2}, {"data": -1, "fsdp": 0}]
)
def test_sizes_that_do_not_fit(axes: dict) -> None:
    with pytest.raises(UserError, match="config.mesh"):
        sharding.make_mesh(axes)


def test_a_batch_must_share_out_evenly() -> None:
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2})
    sharding.check_batch_size(16, mesh)
    with pytest.raises(UserError, match="multiple of 8"):
        sharding.check_batch_size(12, mesh)


def test_rows_lie_over_data_and_fsdp() -> None:
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2})
    batch = sharding.to_global({"x": np.arange(16)}, mesh)
    assert [shard.data.shape for shard in batch["x"].addressable_shards] == [(2,)] * 8
    np.testing.assert_array_equal(batch["x"], np.arange(16))
    np.testing.assert_array_equal(sharding.local_rows(mesh, 16), np.arange(16))


def test_large_leaves_are_split_over_fsdp_and_small_ones_copied() -> None:
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4})
    state = {"big": jnp.zeros((6, 512, 1024)), "odd": jnp.zeros((99999, 3)), "small": jnp.zeros(8)}
    specs = jax.tree.map(lambda s: s.spec, sharding.state_shardings(mesh, state))
    assert specs == {
        "big": PartitionSpec(None, None, "fsdp"),
        "odd": PartitionSpec(),
        "small": PartitionSpec(),
    }
