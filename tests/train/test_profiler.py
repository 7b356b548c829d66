"""Where the time of a run goes: the clock of the loop, and the trace of some steps."""

import gzip
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict
from support import commands

from medclip_jax.train.clock import PARTS, Clock
from medclip_jax.train.profiler import ProfilerWindow

TINY = (
    "--config.image_encoder.name=patches",
    "--config.image_encoder.hidden_size=16",
    "--config.image_encoder.patch_size=16",
    "--config.text_encoder.num_layers=1",
    "--config.num_steps=6",
)


def trace_files(workdir: Path) -> list[Path]:
    return sorted(path for path in (workdir / "profile").rglob("*") if path.is_file())


def run_steps(workdir: Path, start: int, steps: int, count: int) -> list[str]:
    told: list[str] = []
    options = ConfigDict({"start": start, "steps": steps})
    profiler = ProfilerWindow(options, workdir, told.append)
    multiply = jax.jit(lambda x: x @ x)
    for step in range(1, count + 1):
        profiler.before_step()
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            result = multiply(jnp.ones((8, 8)))
        profiler.after_step(result)
    profiler.close()
    return told


def test_a_trace_of_the_steps_asked_for_is_written(tmp_path: Path) -> None:
    told = run_steps(tmp_path, start=2, steps=3, count=8)
    assert told == [f"a trace of 3 steps is in {tmp_path / 'profile'}"]
    trace, planes = trace_files(tmp_path)
    assert planes.name.endswith(".xplane.pb") and trace.name.endswith(".trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "train" for event in events) == 3


def test_a_run_that_ends_in_the_window_writes_what_there_is(tmp_path: Path) -> None:
    assert "a trace of 2 steps" in run_steps(tmp_path, start=2, steps=5, count=4)[0]
    assert trace_files(tmp_path)


@pytest.mark.parametrize(("start", "steps"), [(0, 0), (9, 2)])
def test_no_window_no_trace(tmp_path: Path, start: int, steps: int) -> None:
    assert run_steps(tmp_path, start, steps, count=4) == []
    assert not (tmp_path / "profile").exists()


def test_the_clock_sums_parts_until_they_are_taken() -> None:
    clock = Clock()
    for _ in range(2):
        with clock.measure("input"):
            time.sleep(0.02)
    with pytest.raises(ValueError), clock.measure("checkpoint"):
        time.sleep(0.02)
        raise ValueError
    taken = clock.take()
    assert list(taken) == [f"{part}_seconds" for part in PARTS]
    assert taken["input_seconds"] >= 0.04 and taken["checkpoint_seconds"] >= 0.02
    assert taken["step_seconds"] == taken["evaluation_seconds"] == 0
    assert set(clock.take().values()) == {0}


def test_a_run_writes_its_times_and_a_trace(toy_config: Path, tmp_path: Path) -> None:
    window = "--config.profile.start=1", "--config.profile.steps=2"
    errors = commands.finish(commands.start(toy_config, tmp_path, *TINY, *window))
    assert f"a trace of 2 steps is in {tmp_path / 'profile'}" in errors
    assert len(trace_files(tmp_path)) == 2
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    parts = [[line[f"{part}_seconds"] for part in PARTS] for line in logged]
    assert len(parts) == 6
    for line, seconds in zip(logged, parts, strict=True):
        assert all(second >= 0 for second in seconds)
        assert sum(seconds) <= 1 / line["steps_per_second"] + 1e-3
    # What follows step 5, its evaluation and its checkpoint, is told with step 6.
    assert logged[5]["evaluation_seconds"] > 0 < logged[5]["checkpoint_seconds"]
    assert logged[4]["evaluation_seconds"] == 0
    assert not any(key.endswith("_seconds") for line in commands.metrics(tmp_path) for key in line)
