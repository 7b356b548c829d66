"""The benchmark of the input pipeline runs and compares rates that both sides really reached."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_small_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import input_pipeline

    result = input_pipeline.main(small=True)
    rates = result["images_per_second"]
    assert set(rates) == {"ours", "pytorch_256", "pytorch_512"}
    assert rates["ours"] > rates["pytorch_256"] > 1 and rates["pytorch_512"] > 1
    assert result["ratio_to_pytorch_512"] == rates["ours"] / rates["pytorch_512"]
