"""The charts draw the data they are given."""

import base64
import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from medclip_jax.report import charts
from medclip_jax.report.charts import roc_chart, training_chart
from medclip_jax.report.run_files import Evaluation, RunFiles, read_run


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, kept before they become SVG."""
    figures = []
    to_uri = charts._data_uri

    def keep(figure: Figure):
        figures.append(figure)
        return to_uri(figure)

    monkeypatch.setattr(charts, "_data_uri", keep)
    return figures


def lines_of(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}


def test_training_curves(drawn):
    lines = [
        {"step": 1, "loss": 2.0, "learning_rate": 0.1, "contrastive/image_to_text_accuracy": 0.1},
        {
            "step": 2,
            "loss": math.nan,
            "learning_rate": 0.2,
            "contrastive/image_to_text_accuracy": 0.3,
        },
        {"step": 2, "validation/loss": 1.5, "validation/contrastive/image_to_text_accuracy": 0.2},
    ]
    uri = training_chart(RunFiles("r", {}, lines, []))
    assert uri.startswith("data:image/svg+xml;base64,")
    loss, accuracy, rate = drawn[0].axes
    assert lines_of(loss)["train"][0] == [1, 2.0] and math.isnan(lines_of(loss)["train"][1][1])
    assert lines_of(loss)["validation"] == [[2, 1.5]]
    assert lines_of(accuracy) == {"train": [[1, 0.1], [2, 0.3]], "validation": [[2, 0.2]]}
    assert next(iter(lines_of(rate).values())) == [[1, 0.1], [2, 0.2]]


def test_chart_is_the_same_every_time(finished_run):
    run = read_run(finished_run)
    # Dates and random ids would make two pages of one run differ.
    assert training_chart(run) == training_chart(run)
    svg = base64.b64decode(training_chart(run).partition(",")[2]).decode()
    assert not re.search(r"\d{4}-\d\d-\d\dT", svg)


def test_roc_curves_of_scorable_labels(drawn):
    evaluation = Evaluation(
        task="zero-shot",
        dataset="d",
        split="test",
        metrics={"auroc/A": 1.0, "auroc/Nobody": math.nan, "random_initialization/auroc/A": 0.5},
        intervals={},
        num_examples=4,
        num_patients=4,
        protocol={},
        arrays={
            "label_names": np.array(["A", "Nobody"]),
            "labels": np.array([[1, 0], [0, 0], [1, 0], [0, 0.0]]),
            "scores": np.array([[0.9, 0], [0.2, 0], [0.8, 0], [0.1, 0.0]]),
            "random_scores": np.full((4, 2), 0.5),
        },
    )
    roc_chart(evaluation)
    (axes,) = [axes for axes in drawn[0].axes if axes.get_visible()]
    lines = lines_of(axes)
    assert lines["trained 1.000"] == [[0, 0], [0, 0.5], [0, 1], [0.5, 1], [1, 1]]
    assert lines["random init 0.500"] == [[0, 0], [1, 1]]


def test_no_chart_without_scores_or_scorable_labels():
    nothing = Evaluation("zero-shot", "d", "test", {}, {}, 0, 0, {}, {})
    assert roc_chart(nothing) is None
    arrays = {"label_names": np.array(["A"]), "scores": np.zeros((2, 1))}
    assert (
        roc_chart(Evaluation("zero-shot", "d", "test", {"auroc/A": math.nan}, {}, 0, 0, {}, arrays))
        is None
    )
