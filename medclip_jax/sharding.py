"""The only file that knows the mesh: its axes, and where a batch and a state lie on it.

Rows of a batch lie over `data` x `fsdp`; large parameters are split over `fsdp`. XLA derives the
collectives (GSPMD), so models, losses and the train step are written for one device.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medclip_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")
# A leaf smaller than this is copied to every device: splitting it saves less than it costs.
MIN_FSDP_SIZE = 2**16


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


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises a UserError where the rows of a batch cannot be shared out evenly."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size % shards:
        raise UserError(
            f"config.batch_size {batch_size} cannot be split over {shards} devices: "
            f"make it a multiple of {shards}"
        )


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """A sharding for each leaf: over `fsdp` along its largest divisible side, or replicated."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _leaf_spec(leaf.shape, mesh)), state)


def _leaf_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    fsdp = mesh.shape["fsdp"]
    sides = [side for side in range(len(shape)) if shape[side] % fsdp == 0]
    if fsdp == 1 or not sides or math.prod(shape) < MIN_FSDP_SIZE:
        return PartitionSpec()
    largest = max(sides, key=lambda side: shape[side])
    return PartitionSpec(*("fsdp" if side == largest else None for side in range(len(shape))))


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
