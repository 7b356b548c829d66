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
    specs = jax.tree.map(lambda s: s.spec, sharding.state_shardings(mesh, state, 2**16))
    assert specs == {
        "big": PartitionSpec(None, None, "fsdp"),
        "odd": PartitionSpec(),
        "small": PartitionSpec(),
    }


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("text_encoder/layer_0/attention/query/kernel", (8, 16), ("fsdp", "tensor")),
        ("text_encoder/layer_0/attention/query/bias", (16,), ("tensor",)),
        ("text_encoder/layer_0/attention/output/kernel", (16, 8), ("tensor", "fsdp")),
        ("text_encoder/layer_0/attention/output/bias", (8,), ("fsdp",)),
        ("fusion/layer_3/mlp/hidden/kernel", (8, 32), ("fsdp", "tensor")),
        ("caption_decoder/forward_layers_0/mlp/output/kernel", (32, 8), ("tensor", "fsdp")),
        ("caption_decoder/forward_layers_0/self_attention/key/kernel", (8, 8), ("fsdp", "tensor")),
        # What a side does not divide stays whole.
        ("text_encoder/layer_0/attention/query/kernel", (8, 9), ("fsdp", None)),
        ("text_encoder/layer_0/attention/query/kernel", (7, 9), ()),
        ("image_encoder/stage1_block0/conv1/kernel", (3, 3, 64, 128), (None, None, None, "fsdp")),
        ("text_encoder/embeddings/word_embeddings/embedding", (100, 8), ("fsdp", None)),
    ],
)
def test_attention_and_mlps_lie_over_tensor(name: str, shape: tuple, spec: tuple) -> None:
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    # The optimiser's averages of a parameter lie where the parameter does.
    for path in (f"params/{name}", f"opt_state/0/mu/{name}"):
        assert sharding.leaf_spec(path, shape, mesh, 1) == PartitionSpec(*spec)
    whole = sharding.leaf_spec(name, shape, {"data": 8, "fsdp": 1, "tensor": 1}, 1)
    assert whole in (PartitionSpec(), PartitionSpec(*[a if a == "tensor" else None for a in spec]))
