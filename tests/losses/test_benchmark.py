"""The benchmark of the losses runs, and finds what the losses promise."""

import importlib.util
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "loss.py"


def test_small_benchmark_finds_less_memory_and_the_same_gradient(capsys):
    specification = importlib.util.spec_from_file_location("loss_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    results = module.main(["--small", "--rounds", "1", "--dim", "64"])
    assert results["batch_size"] == 1024
    assert results["tiled_memory_over_dense"] < 0.3
    assert results["gradient_difference"] < 1e-6
    assert results["gradient_difference_over_largest"] < 1e-5
    assert results["dense_seconds"] > 0 and results["tiled_seconds"] > 0
    expected = results["tiled_seconds"] / results["dense_seconds"]
    assert results["tiled_time_over_dense"] == expected
    assert '"tiled_memory_over_dense"' in capsys.readouterr().out
