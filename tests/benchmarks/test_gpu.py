"""The benchmark of accelerators runs on a CPU, and PyTorch computes there what we compute."""

import functools
import json
import types

import jax
import numpy as np
import pytest

from medclip_jax import objectives
from medclip_jax.convert.torch_names import torch_state_dict
from medclip_jax.models.factory import build_model
from medclip_jax.train import optimizer as optimizers
from medclip_jax.train.state import dummy_batch, init_variables

STEP_FIELDS = {"rows", "images_per_second", "ms", "gflop", "mfu", "peak_mib", "limit_mib", "loss"}


@pytest.fixture
def gpu():
    from benchmarks import gpu

    return gpu


@pytest.mark.slow
def test_quick_run_measures_all_and_says_that_it_is_no_result(gpu, tmp_path, capsys):
    pytest.importorskip("torch")
    path = tmp_path / "gpu.json"
    content = gpu.main(["--quick", "--output", str(path)])
    assert json.loads(path.read_text()) == content
    assert content["complete"] and content["device"] == "cpu"
    printed = capsys.readouterr().out
    assert content["note"] == gpu.TINY_NOTE and printed.count(gpu.TINY_NOTE) == 2
    steps = {key: record for key, record in content["measurements"].items() if "loss" not in key}
    names = [f"{case}, 4 rows" for case in gpu.MAIN_CASES]
    assert sorted(steps) == sorted(f"{name}, {f}" for name in names for f in gpu.FRAMEWORKS)
    for record in steps.values():
        assert record.keys() >= STEP_FIELDS
        assert record["mfu"] is None and record["peak_mib"] is None
        assert record["images_per_second"] == pytest.approx(1000 * record["rows"] / record["ms"])
        assert np.isfinite(record["loss"])
    for name in names:
        ours, theirs = (steps[f"{name}, {framework}"] for framework in gpu.FRAMEWORKS)
        assert ours["gflop"] == theirs["gflop"]
        expected = ours["images_per_second"] / theirs["images_per_second"]
        assert content["ratios"][name] == expected
    searched = [f"{case}, {f}" for case in gpu.MAIN_CASES for f in gpu.FRAMEWORKS]
    assert content["largest"] == dict.fromkeys(searched, 4)
    dense = content["measurements"]["loss, 64 rows, dense"]
    assert dense["loss_difference"] < 1e-5 and dense["gradient_difference_over_largest"] < 1e-5


def fits_up_to(most, tried, failure="out_of_memory"):
    """Rows that need a MiB each beside 100, of which there are so many."""

    def measure(rows):
        tried.append(rows)
        peak = {"peak_mib": 100 + rows, "limit_mib": 100 + most}
        return {failure: True} if rows > most else {"images_per_second": 1.0} | peak

    return measure


@pytest.mark.parametrize(("most", "expected"), [(700, 640), (256, 256), (100, 64), (10, 0)])
def test_largest_batch_is_found_to_a_quarter_of_the_start(gpu, most, expected):
    assert gpu.largest_batch(256, 8192, fits_up_to(most, [])) == expected
    assert gpu.largest_batch(256, 8192, fits_up_to(most, [], "error")) == expected


def test_sizes_beyond_all_hope_are_not_tried(gpu):
    tried = []
    assert gpu.largest_batch(256, 8192, fits_up_to(600, tried)) == 576
    assert max(tried) <= 1.25 * 700
    assert gpu.largest_batch(256, 1000, fits_up_to(5000, tried)) == 512


def test_a_run_that_was_cut_off_goes_on_and_errors_are_tried_again(gpu, tmp_path, monkeypatch):
    jobs, crashes = [], {256}

    def run_job(function, job, tiny):
        jobs.append((function, job.get("rows")))
        if function == "jax_device":
            return {"platform": "gpu", "device": "a GPU", "versions": {}}
        if function == "torch_device":
            return {"error": "No module named 'torch'"}
        if function == "jax_loss":
            return {"ms": 1.0, "peak_mib": None}
        if job["model"] == "vit" and job["rows"] in crashes:
            return {"error": "a crash"}
        if job["rows"] > 512:
            return {"out_of_memory": True}
        return {"images_per_second": 10.0, "peak_mib": None, "mfu": None}

    monkeypatch.setattr(gpu, "run_job", run_job)
    path = tmp_path / "gpu.json"
    content = gpu.main(["--output", str(path)])
    convirt, vit = (f"{case}" for case in gpu.MAIN_CASES)
    missing = {"missing": "No module named 'torch'"}
    assert content["measurements"][f"{convirt}, 256 rows, torch"] == missing
    assert set(content["ratios"]) == {"loss, 32768 rows, time", "loss, 65536 rows, time"}
    assert content["largest"] == {f"{convirt}, jax": 512, f"{vit}, jax": 192}
    path.write_text(json.dumps(content | {"complete": False}))
    jobs.clear()
    crashes.clear()
    again = gpu.main(["--output", str(path)])
    assert {rows for function, rows in jobs if function == "jax_step"} == {
        256,
        512,
        576,
        640,
        768,
        1024,
    }
    assert not any(function == "jax_loss" for function, _ in jobs)
    assert again["largest"] == {f"{convirt}, jax": 512, f"{vit}, jax": 512}
    jobs.clear()
    gpu.main(["--output", str(path)])  # it is complete: measured anew
    assert ("jax_loss", 65_536) in jobs


@pytest.mark.parametrize("model", ["convirt", "vit"])
def test_pytorch_has_the_same_loss_and_trains_the_same_parameters(gpu, model):
    torch = pytest.importorskip("torch")
    from benchmarks.gpu_jobs import make_config
    from benchmarks.torch_models import Contrastive, make_train_step

    job = {"model": model, "rows": 6, "dropout": False, "attention": "xla", "tiny": True}
    config, vocab_size = make_config(job), 40
    config.compute_dtype = "float32"
    rng = np.random.default_rng(0)
    batch = dummy_batch(32, 8, rows=6) | {
        "image": rng.standard_normal((6, 32, 32, 1)).astype(np.float32),
        "token_ids": rng.integers(5, vocab_size, (6, 8)).astype(np.int32),
        "token_mask": np.arange(8) < rng.integers(2, 9, (6, 1)),
    }
    ours = build_model(config, vocab_size)
    variables = jax.jit(lambda: init_variables(ours, 0, batch))()
    apply = functools.partial(ours.apply, train=True, mutable=["batch_stats"])
    outputs, _ = jax.jit(apply)(variables, batch)
    expected, _ = objectives.total_loss(outputs, batch, config.objectives)

    theirs = Contrastive(config, vocab_size)
    state = {name: torch.tensor(array) for name, array in torch_state_dict(variables).items()}
    theirs.model.load_state_dict(state)
    inputs = {
        "pixels": torch.tensor(batch["image"].transpose(0, 3, 1, 2).copy()),
        "token_ids": torch.tensor(batch["token_ids"], dtype=torch.long),
        "token_mask": torch.tensor(batch["token_mask"]),
    }
    assert float(theirs(**inputs).detach()) == pytest.approx(float(expected), abs=1e-5)
    trainable, _ = optimizers.split_frozen(variables["params"], config.optimizer.frozen)
    count = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    assert count == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    step = make_train_step(config, vocab_size, inputs, compiled=False)
    losses = [float(step()) for _ in range(3)]
    assert losses[2] < losses[0]


def test_a_job_that_runs_out_of_memory_says_so_and_another_error_is_its_last_line(
    gpu, monkeypatch, capsys
):
    from benchmarks import gpu_jobs

    def fail(job):
        raise RuntimeError(job["message"])

    monkeypatch.setitem(gpu_jobs.FUNCTIONS, "fail", fail)
    for message in ("RESOURCE_EXHAUSTED: Out of memory", "CUDA out of memory. Tried to allocate"):
        gpu_jobs.main(json.dumps({"function": "fail", "rows": 4, "message": message}))
        assert json.loads(capsys.readouterr().out) == {"rows": 4, "out_of_memory": True}
    with pytest.raises(RuntimeError, match="a bug"):
        gpu_jobs.main(json.dumps({"function": "fail", "rows": 4, "message": "a bug"}))
    ended = types.SimpleNamespace(returncode=1, stderr="Traceback\nValueError: wrong\n", stdout="")
    monkeypatch.setattr(gpu.subprocess, "run", lambda *_, **__: ended)
    assert gpu.run_job("jax_step", {}, tiny=True) == {"error": "ValueError: wrong"}
