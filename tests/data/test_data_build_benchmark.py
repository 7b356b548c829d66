"""The benchmark of `data build` runs and compares rates that all sides really reached."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_small_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import data_build

    result = data_build.main(small=True)
    rates = result["images_per_second"]
    assert set(rates) == {"data_build", "opencv_all_cores", "opencv_loop"}
    assert min(rates.values()) > 1
    expected = rates["data_build"] / rates["opencv_all_cores"]
    assert result["ratio_to_opencv_on_all_cores"] == expected
    assert min(result["peak_mib"].values()) > 10
