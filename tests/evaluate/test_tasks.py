"""The door to the tasks: what is run, refused, printed and written."""

import json
import subprocess
import sys

import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.evaluate import tasks
from medclip_jax.evaluate.result import EvaluationResult, to_json
from medclip_jax.evaluate.table import print_result, result_rows
from medclip_jax.evaluate.tasks import TASKS, run_task


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


def test_unknown_task_lists_those_there_are(tmp_path):
    with pytest.raises(
        UserError, match="no task 'finetuning'; there are retrieval, zero-shot, linear-probe"
    ):
        run_task("finetuning", tmp_path, "x")


def test_option_of_another_task_is_refused(tmp_path):
    with pytest.raises(UserError, match="linear-probe has no option --prompts; it has --labels"):
        run_task("linear-probe", tmp_path, "x", prompts=tmp_path / "p.json")


def test_run_task_loads_evaluates_and_writes(
    tmp_path, monkeypatch, capsys, study, studies_of, encoder_of
):
    texts = {name: np.eye(3, dtype=np.float32)[i] for i, name in enumerate("abc")}
    split = studies_of([study(i, [texts[name]], report=name) for i, name in enumerate("abc")])
    encoder = encoder_of(texts, np.eye(3, dtype=np.float32))
    opened = []

    def open_split(*arguments):
        opened.append(arguments)
        return split

    monkeypatch.setattr("medclip_jax.data.datasets.open_split", open_split)
    monkeypatch.setattr("medclip_jax.inference.load", lambda directory: encoder)
    result, path = run_task(
        "retrieval", tmp_path, "manifest/x", split="validation", data_dir=tmp_path
    )
    assert opened == [("manifest/x", "validation", tmp_path)]
    assert path == tmp_path / "evaluations" / "retrieval-manifest_x-validation.json"
    content = json.loads(path.read_text())
    assert (
        content["metrics"]["text_to_image_recall@1"]
        == result.metrics["text_to_image_recall@1"]
        == 1
    )
    protocol = content["protocol"]
    assert (protocol["task"], protocol["dataset"], protocol["split"]) == (
        "retrieval",
        "manifest/x",
        "validation",
    )
    assert protocol["step"] == 7 and protocol["max_text_tokens"] == 32
    assert protocol["checkpoint"] == str(tmp_path)
    assert "text_to_image_recall@1" in capsys.readouterr().out


def test_every_task_has_its_module():
    for module, _ in TASKS.values():
        assert callable(tasks.importlib.import_module(f"medclip_jax.evaluate.{module}").evaluate)


def test_naming_the_tasks_imports_neither_jax_nor_scikit_learn():
    code = (
        "import sys, medclip_jax.evaluate.tasks;"
        "print([m for m in ('jax', 'sklearn', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
