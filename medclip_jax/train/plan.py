"""`medclip-jax pretrain --plan`: what a step needs, by its compiled program, which is not run."""

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from medclip_jax import sharding
from medclip_jax.convert.initialize import tokenizer_directory
from medclip_jax.data.tokenizer import Tokenizer, load_tokenizer, placeholder_tokenizer
from medclip_jax.errors import UserError
from medclip_jax.train.collectives import Collective, read_collectives
from medclip_jax.train.flops import train_step_flops
from medclip_jax.train.pieces import check_microbatch_size
from medclip_jax.train.step_parts import StepParts

_MEBIBYTE = 2**20
_NUM_LABELS = 14  # CheXpert's, where a plan does not open the set


class Plan(NamedTuple):
    """The needs of a train step on one device.

    Attributes:
        parameter_bytes: of the parameters, with statistics and their average.
        optimizer_bytes: of what the optimiser keeps.
        batch_bytes: of the rows of a batch.
        temporary_bytes: what the program holds at once besides, at most.
        flops: of the model, by the convention of `flops.py`; a share of the whole step.
        collectives: what is sent in a step.
    """

    parameter_bytes: int
    optimizer_bytes: int
    batch_bytes: int
    temporary_bytes: int
    flops: float
    collectives: Counter[Collective]

    @property
    def total_bytes(self) -> int:
        """All that is held at once."""
        held = self.parameter_bytes, self.optimizer_bytes, self.batch_bytes, self.temporary_bytes
        return sum(held)

    @property
    def moved_bytes(self) -> float:
        """What a device sends in a step, by ring algorithms."""
        return sum(c.moved_bytes * times for c, times in self.collectives.items())


def use_devices(count: int) -> None:
    """Makes so many virtual devices on the CPU; called before JAX is used.

    Raises:
        UserError: there is none to make.
    """
    if count < 1:
        raise UserError(f"--plan {count}: give the number of devices, 1 or more")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


def describe_plan(config: ConfigDict) -> str:
    """The plan of a config on the devices that there are, as text.

    Raises:
        UserError: the config asks for what does not fit together.
    """
    mesh = sharding.make_mesh(config.mesh.to_dict())
    sharding.check_batch_size(config.batch_size, mesh)
    check_microbatch_size(config.microbatch_size, config.batch_size, sharding.batch_shards(mesh))
    parts = StepParts.make(config, mesh, _tokenizer(config), _NUM_LABELS)
    parts = with_fitting_microbatches(parts)
    plan = make_plan(parts)
    pieces = parts.config.microbatch_size or config.batch_size
    lines = [
        f"{mesh.size} devices, mesh {dict(mesh.shape)}; batch {config.batch_size}, "
        f"{pieces} rows at once, {config.compute_dtype}, {parts.vocab_size:,} tokens",
        "on each device:",
        *(
            f"  {name:<22}{value / _MEBIBYTE:>12,.1f} MiB"
            for name, value in (
                ("parameters", plan.parameter_bytes),
                ("optimiser state", plan.optimizer_bytes),
                ("batch", plan.batch_bytes),
                ("temporary", plan.temporary_bytes),
                ("in all", plan.total_bytes),
                ("sent in a step", plan.moved_bytes),
            )
        ),
        f"  {'computed in a step':<22}{plan.flops / 1e9:>12,.1f} GFLOP",
        "sent, by kind:",
        *_describe_collectives(plan.collectives),
    ]
    if mesh.devices.flat[0].platform == "cpu":
        lines.append(
            "Compiled for CPUs, whose compiler fuses less: an accelerator's temporary memory is "
            "less, most of all with bfloat16 and cuDNN's attention."
        )
    return "\n".join(lines)


def make_plan(parts: StepParts) -> Plan:
    """Compiles the train step and reads what it needs."""
    state, batch = parts.abstract_state(), parts.abstract_batch()
    compiled = parts.train_step().lower(state, batch).compile()
    memory = compiled.memory_analysis()
    return Plan(
        parameter_bytes=_held((state.params, state.batch_stats, state.ema_params)),
        optimizer_bytes=_held((state.opt_state, state.plateau, state.step)),
        batch_bytes=_held(batch),
        temporary_bytes=int(memory.temp_size_in_bytes),
        flops=train_step_flops(parts.config, parts.vocab_size) / parts.mesh.size,
        collectives=read_collectives(compiled.as_text()),
    )


def with_fitting_microbatches(parts: StepParts) -> StepParts:
    """The parts with the largest microbatches that fit, where the config leaves the size (-1).

    Raises:
        UserError: the device does not tell its memory, or the smallest does not fit.
    """
    if parts.config.microbatch_size != -1:
        return parts
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        raise UserError(
            f"config.microbatch_size -1: a {device.device_kind} device does not tell its memory; "
            "give a number"
        )
    config = parts.config.copy_and_resolve_references()
    config.microbatch_size = fitting_microbatch_size(parts, limit)
    return parts._replace(config=config)


def fitting_microbatch_size(parts: StepParts, limit: int) -> int:
    """The largest half, quarter, ... of a batch with which a step needs at most `limit` bytes.

    Raises:
        UserError: there is none.
    """
    config = parts.config.copy_and_resolve_references()
    shards = sharding.batch_shards(parts.mesh)
    size = config.batch_size
    while True:
        config.microbatch_size = size
        needed = make_plan(parts._replace(config=config)).total_bytes
        if needed <= limit:
            return size
        if size % (2 * shards):
            raise UserError(
                f"config.batch_size {config.batch_size}: microbatches of {size} still need "
                f"{needed / 2**30:.1f} GiB of a device's {limit / 2**30:.1f}: raise "
                "config.mesh.fsdp, or set remat"
            )
        size //= 2


def _held(tree: object) -> int:
    """Bytes of a tree on one device."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )


def _describe_collectives(collectives: Counter[Collective]) -> list[str]:
    lines = []
    for kind in sorted({collective.kind for collective in collectives}):
        found = [(c, times) for c, times in collectives.items() if c.kind == kind]
        moved = sum(c.moved_bytes * times for c, times in found) / _MEBIBYTE
        count = sum(times for _, times in found)
        lines.append(f"  {kind:<22}{moved:>12,.1f} MiB in {count} transfers")
    return lines or ["  nothing"]


def _tokenizer(config: ConfigDict) -> Tokenizer:
    """The run's own where it is at hand, else one of the config's size: plans download nothing."""
    source = config.tokenizer.directory or config.text_encoder.init
    directory = tokenizer_directory(config) if source and _is_here(source) else None
    if directory is None:
        return placeholder_tokenizer(config.tokenizer.vocab_size)
    return load_tokenizer(directory)


def _is_here(path: str) -> bool:
    return Path(path).expanduser().exists()
