"""A result as a file and as a table."""

import json

import numpy as np
import pytest

from medclip_jax.evaluate.result import EvaluationResult, to_json
from medclip_jax.evaluate.table import print_result, result_rows


def make_result():
    return EvaluationResult(
        metrics={
            "macro_auroc": 0.91234,
            "auroc/Mass": float("nan"),
            "median_rank": 12.0,
            "random_initialization/macro_auroc": 0.5,
            "improvement_over_random_initialization/macro_auroc": 0.41234,
            "chance/macro_auroc": 0.5,
        },
        confidence_intervals={"macro_auroc": (0.9, 0.92), "auroc/Mass": (np.nan, np.nan)},
        num_examples=10,
        num_patients=4,
        protocol={"value": np.float32(1.5), "none": float("inf")},
        arrays={"scores": np.arange(3.0), "study_ids": np.array(["a", "bé"])},
    )


def test_result_is_written_as_json_and_arrays(tmp_path):
    path = make_result().write(
        tmp_path / "evaluations", "linear-probe", "synthetic_cxr/demo", "test"
    )
    assert path.name == "linear-probe-synthetic_cxr_demo-test.json"
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["metrics"]["auroc/Mass"] is None
    assert content["confidence_intervals"] == {
        "macro_auroc": [0.9, 0.92],
        "auroc/Mass": [None, None],
    }
    assert content["num_examples"] == 10 and content["num_patients"] == 4
    assert content["protocol"] == {"value": 1.5, "none": None, "arrays": path.stem + ".npz"}
    with np.load(path.with_suffix(".npz")) as arrays:  # no pickle is allowed by default
        assert arrays["study_ids"].tolist() == ["a", "bé"]
    assert sorted(p.name for p in path.parent.iterdir()) == [
        path.stem + ".json",
        path.stem + ".npz",
    ]


def test_to_json_knows_numpy():
    value = {"a": np.array([[1, 2]]), "b": np.float64("nan"), "c": (np.int64(3), np.bool_(True))}
    assert to_json(value) == {"a": [[1, 2]], "b": None, "c": [3, True]}


def test_table_has_one_row_a_figure(capsys):
    assert result_rows(make_result()) == [
        ["macro_auroc", "0.912", "0.900 to 0.920", "0.500", "0.500"],
        ["auroc/Mass", "–", "–", "–", "–"],
        ["median_rank", "12.0", "–", "–", "–"],
    ]
    print_result(make_result(), "linear-probe on x")
    lines = capsys.readouterr().out.splitlines()
    assert "10 studies of 4 patients" in lines[1]
    assert len({len(line) for line in lines[2:7]}) == 1  # aligned
    assert "macro_auroc minus random init: 0.412" in lines[-1]
