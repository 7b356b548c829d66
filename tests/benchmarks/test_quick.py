"""The quick form of every benchmark runs, and its figures are what they say they are."""

import importlib
import math
from collections.abc import Iterator
from typing import Any

import pytest


def numbers(figures: Any) -> Iterator[float]:
    """All numbers of a tree of figures."""
    if isinstance(figures, dict):
        figures = list(figures.values())
    if isinstance(figures, list | tuple):
        for part in figures:
            yield from numbers(part)
    elif not isinstance(figures, str):
        yield figures


def run(name: str) -> dict[str, Any]:
    figures = importlib.import_module("benchmarks.__main__").run(name, quick=True)
    assert all(math.isfinite(number) and number >= 0 for number in numbers(figures))
    return figures


def test_loss_finds_less_memory_and_the_same_gradient(one_thread):
    results = run("loss")
    assert results["batch_size"] == 1024
    assert results["tiled_memory_over_dense"] < 0.3
    assert results["gradient_difference"] < 1e-6
    assert results["gradient_difference_over_largest"] < 1e-5
    for name in ("dense", "tiled", "pytorch"):
        assert results[f"{name}_seconds"] > 0
    for other in ("dense", "pytorch"):
        expected = results["tiled_seconds"] / results[f"{other}_seconds"]
        assert results[f"tiled_time_over_{other}"] == expected


def test_data_build_compares_rates_that_all_sides_reached():
    result = run("data_build")
    rates = result["images_per_second"]
    assert set(rates) == {"data_build", "opencv_all_cores", "opencv_loop"}
    assert min(rates.values()) > 1
    expected = rates["data_build"] / rates["opencv_all_cores"]
    assert result["ratio_to_opencv_on_all_cores"] == expected
    assert min(result["peak_mib"].values()) > 10


def test_input_pipeline_compares_rates_that_both_sides_reached():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    result = run("input_pipeline")
    rates = result["images_per_second"]
    assert set(rates) == {"ours", "pytorch_256", "pytorch_512"}
    assert min(rates.values()) > 1
    assert result["ratio_to_pytorch_512"] == rates["ours"] / rates["pytorch_512"]


def test_train_step_compares_both_sides(one_thread):
    pytest.importorskip("transformers")
    results = run("train_step")
    assert min(results["jax_ms"], results["torch_ms"]) > 0
    assert results["torch_over_jax"] == pytest.approx(results["torch_ms"] / results["jax_ms"])


def test_checkpoint_waits_for_a_part_of_the_save():
    results = run("checkpoint")
    assert results["state_gib"] > 0 and results["restore_s"] > 0
    assert 0 < results["save_blocks_training_s"] <= results["save_s"]
    expected = results["save_blocks_training_s"] / results["save_s"]
    assert results["blocking_share"] == expected


def test_retrieval_needs_little_memory_beside_the_embeddings():
    results = run("retrieval")
    assert (results["num_studies"], results["dim"]) == (1000, 64)
    assert results["embeddings_mib"] == 2 * 1000 * 64 * 4 / 2**20
    # 256 rows of scores are twice as large as these narrow embeddings; a full sort is 16 times.
    assert 2 < results["memory_over_embeddings"] < 4
    assert results["memory_over_embeddings"] == results["peak_mib"] / results["embeddings_mib"]
    expected = results["search_seconds"] / results["products_seconds"]
    assert results["time_over_products"] == expected > 0
