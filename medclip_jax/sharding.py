"""The only file that knows the mesh: its axes, and where a batch and a state lie on it.

Rows of a batch lie over `data` x `fsdp`; large parameters are split over `fsdp`, and those of
attention and MLPs over `tensor` besides. XLA derives the collectives (GSPMD), so models, losses and
the train step are written for one device.
"""

import math
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medclip_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")
TENSOR_AXIS = "tensor"
# The logical axes of parameters, by the ends of their names: the first matrix of a block is split
# by its columns, the second by its rows, so that a device computes whole heads and hidden units
# (Megatron-LM, https://arxiv.org/abs/1909.08053). Other arrays have none.
LOGICAL_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"attention/(query|key|value)/kernel$", (None, "heads")),
    (r"attention/(query|key|value)/bias$", ("heads",)),
    (r"attention/output/kernel$", ("heads", None)),
    (r"mlp/hidden/kernel$", (None, "hidden_units")),
    (r"mlp/hidden/bias$", ("hidden_units",)),
    (r"mlp/output/kernel$", ("hidden_units", None)),
)
MESH_AXES = {"heads": TENSOR_AXIS, "hidden_units": TENSOR_AXIS}


def make_mesh(axes: Mapping[str, int]) -> Mesh:
    """A mesh of all devices; one axis may be -1 and takes what the others leave.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    names, sizes, count = tuple(axes), list(axes.values()), jax.device_count()
    if sizes.count(-1) == 1:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = count // known if known > 0 else 0
    if math.prod(sizes) != count or min(sizes) < 1:
        raise UserError(
            f"config.mesh {dict(axes)} does not fit {count} devices: "
            "the sizes must multiply to that number (one of them may be -1)"
        )
    # Linen's constraints need Auto axes; make_mesh alone would make Explicit ones.
    return jax.make_mesh(tuple(sizes), names, axis_types=(AxisType.Auto,) * len(names))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """The number of parts that the rows of a batch lie in."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises a UserError where the rows of a batch cannot be shared out evenly."""
    shards = batch_shards(mesh)
    if batch_size % shards:
        raise UserError(
            f"config.batch_size {batch_size} cannot be split over {shards} devices: "
            f"make it a multiple of {shards}"
        )


def state_shardings(mesh: Mesh, state: Any, fsdp_min_size: int) -> Any:
    """A sharding for each leaf: by its logical axes, and over `fsdp` along its largest other side.

    What the optimiser keeps of a parameter has the parameter's name at the end of its path, and so
    lies where the parameter does.

    Args:
        mesh: with the axes of `config.mesh`.
        state: a tree of arrays or shapes.
        fsdp_min_size: entries of the smallest leaf that is split over `fsdp`.
    """

    def shard(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, leaf_spec(name, leaf.shape, dict(mesh.shape), fsdp_min_size))

    return jax.tree_util.tree_map_with_path(shard, state)


def rows_stay_apart(mesh: Mesh) -> AbstractContextManager[None]:
    """While it is open, what modules return lies by its rows, as the batch does.

    Left to itself, XLA splits activations by their channels to fit the parameters, and adds whole
    batches of them up over the devices. So constrained it gathers parameters where they are used
    (ZeRO-3, https://arxiv.org/abs/1910.02054); whether it keeps them for the backward pass or
    gathers them again is its choice.
    """
    if mesh.size == 1:
        return nullcontext()
    shards = batch_shards(mesh)

    def constrain(array: jax.Array) -> jax.Array:
        if array.ndim < 2 or array.shape[0] % shards:  # not of the batch
            return array
        others = [PartitionSpec.UNCONSTRAINED] * (array.ndim - 1)
        sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES, *others))
        return jax.lax.with_sharding_constraint(array, sharding)

    def intercept(
        next_fn: Callable[..., Any],
        arguments: Any,
        options: Any,
        context: nn.module.InterceptorContext,
    ) -> Any:
        outputs = next_fn(*arguments, **options)
        if context.method_name != "__call__":
            return outputs
        if isinstance(context.module, nn.Embed) and outputs.ndim == 2:
            return outputs  # of positions, which may be as many as the rows of the batch
        return jax.tree.map(constrain, outputs)

    return nn.intercept_methods(intercept)


def leaf_spec(
    name: str, shape: tuple[int, ...], mesh_shape: Mapping[str, int], fsdp_min_size: int
) -> PartitionSpec:
    """Where the sides of an array lie; a side that an axis does not divide stays whole."""
    axes: list[str | None] = [None] * len(shape)
    for pattern, logical in LOGICAL_AXES:
        if re.search(pattern, name) and len(logical) == len(shape):
            axes = [None if axis is None else MESH_AXES[axis] for axis in logical]
            break
    axes = [
        axis
        if axis and mesh_shape.get(axis, 1) > 1 and shape[side] % mesh_shape[axis] == 0
        else None
        for side, axis in enumerate(axes)
    ]
    fsdp = mesh_shape.get("fsdp", 1)
    sides = [side for side in range(len(shape)) if not axes[side] and shape[side] % fsdp == 0]
    if fsdp > 1 and sides and math.prod(shape) >= fsdp_min_size:
        axes[max(sides, key=lambda side: shape[side])] = "fsdp"
    return PartitionSpec(*axes) if any(axes) else PartitionSpec()


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of the global batch that this process must read, in ascending order."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = {row for index in slices if index for row in range(batch_size)[index[0]]}
    return np.array(sorted(rows), np.int64)


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The global batch, put on the devices, from the `local_rows` of each process."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for key, value in batch.items()
    }
