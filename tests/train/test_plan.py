"""`pretrain --plan`: the needs of a step, as its parts add up, for any number of devices."""

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from support import commands, tiny

from medclip_jax import sharding
from medclip_jax.errors import UserError
from medclip_jax.train import flops
from medclip_jax.train.collectives import Collective, read_collectives
from medclip_jax.train.plan import (
    describe_plan,
    fitting_microbatch_size,
    make_plan,
    use_devices,
    with_fitting_microbatches,
)
from medclip_jax.train.step_parts import StepParts

HLO = """\
HloModule step

%body (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %sum = f32[8]{0} all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}

ENTRY %main (x: f32[8], y: bf16[4,2]) -> f32[8] {
  %y = bf16[4,2]{1,0} parameter(1)
  %gather = bf16[16,2]{1,0} all-gather(%y), replica_groups=[2,4]<=[8], dimensions={0}
  %both = (f32[3]{0}, s32[5]{0}) all-to-all(%a, %b), replica_groups=mesh['x'=2,'y'=4] {'x','y'}
  %start = (f32[2]{0}, f32[8]{0}) all-gather-start(%z), replica_groups={{0,1,2,3}}
  %done = f32[8]{0} all-gather-done(%start)
  %moved = f32[6]{0} collective-permute(%c), source_target_pairs={{0,1},{1,0}}
  ROOT %loop = f32[8]{0} while(%x), body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_collectives_are_read_with_loops_groups_and_asynchronous_ones() -> None:
    assert read_collectives(HLO) == {
        Collective("all-reduce", ("f32[8]",), 4, 32): 5,
        Collective("all-gather", ("bf16[16,2]",), 4, 64): 1,
        Collective("all-to-all", ("f32[3]", "s32[5]"), 8, 32): 1,
        Collective("all-gather", ("f32[8]",), 4, 32): 1,
        Collective("collective-permute", ("f32[6]",), 2, 24): 1,
    }


@pytest.mark.parametrize(
    ("kind", "moved"),
    [
        ("all-reduce", 2 * 3 / 4 * 100),
        ("all-gather", 3 / 4 * 100),
        ("reduce-scatter", 3 * 100),  # of which a device keeps a quarter
        ("all-to-all", 3 / 4 * 100),
        ("collective-permute", 100),
    ],
)
def test_bytes_by_ring_algorithms(kind: str, moved: float) -> None:
    assert Collective(kind, ("s8[100]",), 4, 100).moved_bytes == pytest.approx(moved)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    tokens = tiny.tokenizer(tmp_path_factory.mktemp("tokens"))
    config = tiny.tiny_config("convirt", batch_size=32, fsdp_min_size=64)
    config.image_encoder.name = "vit"
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    return StepParts.make(config, mesh, tokens, 3)


def test_a_plan_adds_up(parts: StepParts) -> None:
    plan = make_plan(parts)
    sizes = [
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(parts.abstract_state())
    ]
    assert plan.parameter_bytes + plan.optimizer_bytes == sum(sizes)
    assert plan.optimizer_bytes == pytest.approx(2 * plan.parameter_bytes, rel=0.01)
    image = 32 // 8 * parts.config.data.image_size**2
    assert image < plan.batch_bytes < 1.5 * image
    assert plan.total_bytes > plan.temporary_bytes > 0
    assert plan.moved_bytes > plan.parameter_bytes
    assert plan.flops == flops.train_step_flops(parts.config, parts.vocab_size) / 8


@pytest.mark.slow
def test_the_largest_microbatch_that_fits(
    parts: StepParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {}
    for size in (32, 16, 8):
        config = parts.config.copy_and_resolve_references()
        config.microbatch_size = size
        plans[size] = make_plan(parts._replace(config=config))
    # Each size is compiled once.
    known = "medclip_jax.train.plan.make_plan"
    monkeypatch.setattr(known, lambda parts: plans[parts.config.microbatch_size])
    needed = {size: plan.total_bytes for size, plan in plans.items()}
    assert needed[32] > needed[16] > needed[8]
    for size, limit in needed.items():
        assert fitting_microbatch_size(parts, limit) == size
    with pytest.raises(UserError, match="microbatches of 8 still need"):
        fitting_microbatch_size(parts, 1000)


def test_a_device_that_does_not_tell_its_memory(parts: StepParts) -> None:
    assert with_fitting_microbatches(parts) is parts
    config = parts.config.copy_and_resolve_references()
    config.microbatch_size = -1
    with pytest.raises(UserError, match="does not tell its memory; give a number"):
        with_fitting_microbatches(parts._replace(config=config))


@pytest.mark.slow
def test_a_plan_of_whole_words_needs_neither_tokenizer_nor_data() -> None:
    config = tiny.tiny_config("mixed", variant="", batch_size=16, **{"data.image_size": 72})
    config.image_encoder.hidden_size = config.text_encoder.hidden_size = 16
    config.fusion.update(hidden_size=16, num_layers=1, num_heads=2)
    config.mesh.update(data=2, fsdp=2, tensor=2)
    config.tokenizer.vocab_size = 90
    text = describe_plan(config)
    assert text.startswith("8 devices, mesh {'data': 2, 'fsdp': 2, 'tensor': 2}; batch 16")
    assert "90 tokens" in text and re.search("^  all-reduce ", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "is_here"),
    [
        ({}, False),
        ({"text_encoder.init": "emilyalsentzer/Bio_ClinicalBERT"}, False),  # of the hub
        ({"text_encoder.init": "/absent/bert"}, False),
        ({"tokenizer.directory": "HERE"}, True),
        ({"text_encoder.init": "HERE"}, True),
    ],
)
def test_a_plan_downloads_nothing(
    changes: dict[str, str], is_here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = tiny.tokenizer(tmp_path).vocab_size
    assert size != 50
    here = {key: value.replace("HERE", str(tmp_path)) for key, value in changes.items()}
    config = tiny.tiny_config("mixed", **{"tokenizer.vocab_size": 50}, **here)
    found = []

    def stop(parts: StepParts) -> None:
        found.append(parts.vocab_size)
        raise UserError("that is all")

    monkeypatch.setattr("medclip_jax.train.plan.make_plan", stop)
    with pytest.raises(UserError, match="that is all"):
        describe_plan(config)
    assert found == [size if is_here else 50]


def plan_command(toy_config: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medclip_jax.cli", "pretrain", "--config", str(toy_config)]
    return subprocess.run(
        [*command, *flags], env=commands.environment(), capture_output=True, text=True
    )


@pytest.mark.slow
def test_a_plan_of_more_devices_than_there_are(toy_config: Path) -> None:
    done = plan_command(
        toy_config, "--plan", "32", "--config.mesh.fsdp=4", "--config.batch_size=64"
    )
    assert done.returncode == 0, done.stderr
    assert "32 devices, mesh {'data': 8, 'fsdp': 4, 'tensor': 1}; batch 64" in done.stdout
    for line in ("parameters", "optimiser state", "temporary", "sent in a step"):
        assert re.search(rf"^  {line} +[0-9,.]+ MiB$", done.stdout, re.MULTILINE)
    assert re.search(r"^  all-reduce +[0-9,.]+ MiB in [0-9]+ transfers$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--plan", "0.5"), "invalid int value"),
        (("--plan", "-3"), "--plan -3: give the number of devices"),
        (("--plan", "12", "--config.mesh.fsdp=5"), "does not fit 12 devices"),
        ((), "pretrain needs --workdir DIR"),
    ],
)
def test_wrong_calls_are_one_line(toy_config: Path, flags: tuple[str, ...], message: str) -> None:
    done = plan_command(toy_config, *flags)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_no_devices() -> None:
    with pytest.raises(UserError, match="1 or more"):
        use_devices(0)
