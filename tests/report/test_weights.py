"""Pages show the figures of the weights that they describe, and say what they leave out."""

import json
from pathlib import Path

import pytest

from medclip_jax.errors import UserError
from medclip_jax.report import page
from medclip_jax.report.page import write_report
from medclip_jax.report.run_files import read_evaluations
from medclip_jax.report.weights import Weights, choose, describe_weights, saved_weights


def change(run, task, **values):
    """Writes other values into the file of a task; `step` is that of its protocol."""
    file = run / f"evaluations/{task}-manifest_x-test.json"
    content = json.loads(file.read_text())
    content["protocol"]["step"] = values.pop("step", content["protocol"]["step"])
    file.write_text(json.dumps(content | values))


@pytest.fixture
def three(run_copy):
    """The step's own weights, others, and an old file that does not tell."""
    change(run_copy, "linear-probe", weights_hash="ours", step=600)
    change(run_copy, "retrieval", weights_hash="theirs", step=600)
    change(run_copy, "zero-shot", step=600)
    return run_copy


def test_figures_of_other_weights_are_left_out(three):
    weights = Weights(600, "ours")
    chosen = choose(read_evaluations(three), weights)
    assert [each.task for each in chosen.shown] == ["linear-probe", "zero-shot"]
    assert chosen.note == (
        "Evaluations of other weights, left out: 1, namely retrieval-manifest_x-test (step 600)."
    )
    words = [describe_weights(each, weights) for each in chosen.shown]
    assert words[0] == "weights of step 600" and "recorded without a hash" in words[1]
    # An old file of another step is of other weights, whatever they are.
    assert [each.task for each in choose(read_evaluations(three), Weights(400, "ours")).shown] == [
        "linear-probe"
    ]


def test_nothing_is_left_out_where_the_weights_are_unknown(three):
    chosen = choose(read_evaluations(three), None)
    assert len(chosen.shown) == 3 and chosen.note == ""
    assert "holds no checkpoint" in describe_weights(chosen.shown[0], None)
    assert saved_weights(three) is None


def test_a_checkpoint_that_cannot_be_read_is_said(run_copy, monkeypatch, capsys):
    def load(directory):
        raise UserError("the checkpoint 5 is damaged")

    monkeypatch.setattr("medclip_jax.inference.load", load)
    (run_copy / "checkpoints").mkdir()
    content = write_report(run_copy).read_text(encoding="utf-8")
    (line,) = capsys.readouterr().err.splitlines()
    assert "without a comparison of weights: the checkpoint 5 is damaged" in line
    assert "<h2>Retrieval</h2>" in content


def test_the_page_has_the_figures_of_its_weights_only(three, monkeypatch):
    monkeypatch.setattr(page, "saved_weights", lambda workdir: Weights(600, "ours"))
    content = write_report(three).read_text(encoding="utf-8")
    assert "<h2>Linear probe</h2>" in content and "<h2>Zero-shot classification</h2>" in content
    assert "<h2>Retrieval</h2>" not in content and "recall@1" not in content
    assert "other weights, left out: 1, namely retrieval-manifest_x-test (step 600)" in content
    assert "Weights of step 600." in content and "recorded without a hash" in content


def test_other_protocols_stand_after_the_default_with_their_options(run_copy):
    evaluations = run_copy / "evaluations"
    file = evaluations / "zero-shot-manifest_x-test.json"
    content = json.loads(file.read_text())
    content["metrics"]["macro_auroc"] = 0.123
    content["protocol"] |= {
        "tag": "mine",
        "labels": ["Edema"],
        "prompts": {"Edema": {"positive": ["edema"], "negative": ["no edema"]}},
        "queries": ["/home/me/own.csv"],
        "differences": {"labels": ["Edema"], "prompts": "sha256:00", "queries": ["sha256:11"]},
    }
    (evaluations / "zero-shot-manifest_x-test-mine.json").write_text(json.dumps(content))
    names = [each.name for each in read_evaluations(run_copy)]
    assert names[-2:] == ["zero-shot-manifest_x-test", "zero-shot-manifest_x-test-mine"]
    text = write_report(run_copy).read_text(encoding="utf-8")
    assert text.count("<h2>Zero-shot classification</h2>") == 2
    assert "test split (mine; labels Edema; own prompts; queries own.csv)" in text
    head = text.partition('<dl class="config">')[0].partition("Zero-shot macro AUROC")[2]
    assert "0.123" not in head


def test_one_patient_has_a_word_for_the_missing_intervals(run_copy):
    change(run_copy, "linear-probe", num_patients=1)
    text = write_report(run_copy).read_text(encoding="utf-8")
    assert text.count("There is one patient only") == 1


def test_a_page_that_cannot_be_written_is_known_at_once(run_copy, monkeypatch):
    monkeypatch.setattr(page, "saved_weights", lambda workdir: pytest.fail("the work started"))

    def refuse(folder: Path, option: str) -> None:
        assert folder == run_copy
        raise UserError(f"{option} {folder} cannot be written: Read-only file system")

    monkeypatch.setattr(page, "check_folder", refuse)
    with pytest.raises(UserError, match="--workdir .* cannot be written"):
        write_report(run_copy)


def test_a_page_in_place_of_which_there_is_a_folder(run_copy):
    (run_copy / "report.html").unlink(missing_ok=True)
    (run_copy / "report.html").mkdir()
    with pytest.raises(UserError, match="report.html cannot be written: Is a directory"):
        write_report(run_copy)
    assert not list(run_copy.glob(".report*"))
