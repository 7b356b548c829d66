"""`python -m benchmarks`: which benchmarks run, and what becomes of their figures."""

import importlib
import json
from pathlib import Path

import pytest


@pytest.fixture
def main(monkeypatch, tmp_path):
    """The command with benchmarks that are known at once; `broken` raises."""
    module = importlib.import_module("benchmarks.__main__")

    def run(name, *, quick):
        if name == "broken":
            raise RuntimeError("a bug")
        return {"name": name, "quick": quick}

    monkeypatch.setattr(module, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(module, "BENCHMARKS", {"first": (), "broken": (), "last": ()})
    monkeypatch.setattr(module, "run", run)
    return module


def refusal(main, capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    return output.err


def test_each_benchmark_is_a_module_and_has_a_test_of_its_quick_form():
    real = importlib.import_module("benchmarks.__main__").BENCHMARKS
    assert set(real) >= {"loss", "data_build", "input_pipeline", "train_step", "checkpoint"}
    assert "retrieval" in real
    for name in real:
        importlib.import_module(f"benchmarks.{name}")
    text = Path(__file__).with_name("test_quick.py").read_text()
    assert [name for name in real if f'run("{name}")' not in text] == []


def test_figures_are_added_to_those_of_other_benchmarks(main, capsys):
    before = {"last": {"ratio": 2.0}, "other": {"ratio": 3.0}}
    main.RESULTS.write_text(json.dumps(before))
    main.main(["first", "first"])
    after = json.loads(main.RESULTS.read_text())
    assert after.keys() == {"first", "last", "other"}
    assert {name: after[name] for name in before} == before
    assert after["first"]["name"] == "first" and after["first"]["quick"] is False
    assert after["first"]["versions"].keys() >= {"jax", "flax", "grain"}
    assert "cpu" in after["first"]["machine"]
    assert capsys.readouterr().out.count("=== first") == 1


def test_quick_figures_are_printed_and_not_written(main, capsys):
    main.main(["--quick", "first", "last"])
    assert not main.RESULTS.exists()
    printed = capsys.readouterr().out
    assert '"name": "last"' in printed and '"quick": true' in printed


def test_a_benchmark_that_fails_takes_nothing_with_it(main):
    main.RESULTS.write_text(json.dumps({"last": {"ratio": 2.0}}))
    with pytest.raises(RuntimeError, match="a bug"):
        main.main([])
    after = json.loads(main.RESULTS.read_text())
    assert after.keys() == {"first", "last"} and after["last"] == {"ratio": 2.0}


def test_wrong_calls_are_one_line(main, capsys, monkeypatch):
    assert "no benchmark 'frist'; there are first" in refusal(main, capsys, "first", "frist")
    assert "python -m benchmarks.gpu" in refusal(main, capsys, "gpu")
    assert "--quik" in refusal(main, capsys, "first", "--quik")
    monkeypatch.setitem(main.BENCHMARKS, "last", ("no_such_package",))
    assert "last needs no_such_package" in refusal(main, capsys)
    main.RESULTS.write_text("{")
    assert "results.json is not JSON" in refusal(main, capsys, "first")
    assert main.RESULTS.read_text() == "{"
