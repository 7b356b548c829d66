"""The rows of the page's tables."""

import math

import pytest

from medclip_jax.report.run_files import Evaluation, RunFiles
from medclip_jax.report.tables import (
    Cell,
    Row,
    config_rows,
    headlines,
    label_rows,
    metric_name,
    metric_rows,
)


def make_evaluation(task, metrics, intervals):
    return Evaluation(task, "d", "test", metrics, intervals, 10, 5, {}, {})


RETRIEVAL = make_evaluation(
    "retrieval",
    {
        "text_to_image_recall@1": 0.25,
        "text_to_image_median_rank": 4.0,
        "random_initialization/text_to_image_recall@1": 0.01,
        "random_initialization/text_to_image_median_rank": 50.5,
        "improvement_over_random_initialization/text_to_image_recall@1": 0.24,
        "chance/text_to_image_recall@1": 0.02,
        "chance/text_to_image_median_rank": 49.0,
    },
    {
        "text_to_image_recall@1": (0.2, 0.3),
        "random_initialization/text_to_image_recall@1": (0.0, 0.02),
        "text_to_image_median_rank": (math.nan, math.nan),
    },
)
PROBE = make_evaluation(
    "linear-probe",
    {
        "macro_auroc": 0.9,
        "macro_auprc": 0.5,
        "auroc/Mass": math.nan,
        "auprc/Mass": math.nan,
        "chance/auprc/Mass": 0.0,
        "random_initialization/macro_auroc": 0.7,
        "chance/macro_auroc": 0.5,
    },
    {"macro_auroc": (0.85, 0.95)},
)


def test_metric_rows():
    recall, rank = metric_rows(RETRIEVAL)
    assert recall == Row(
        "Text → image, recall@1",
        [
            Cell("0.250", "0.200 to 0.300"),
            Cell("0.010", "0.000 to 0.020", True),
            Cell("0.020", "", True),
        ],
        strong=True,
    )
    assert rank == Row(
        "Text → image, median rank", [Cell("4.0"), Cell("50.5", "", True), Cell("49.0", "", True)]
    )


def test_label_rows():
    macro, mass = label_rows(PROBE)
    assert macro.strong and macro.cells[0] == Cell("0.900", "0.850 to 0.950")
    assert [cell.value for cell in macro.cells] == ["0.900", "0.700", "0.500", "–", "–"]
    assert mass.name == "Mass" and [cell.value for cell in mass.cells] == ["–"] * 4 + ["0.000"]


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("image_to_text_mrr", "Image → text, mean reciprocal rank"),
        ("image_to_image_precision@5/Edema", "Image → image, precision@5/Edema"),
        ("other", "other"),
    ],
)
def test_metric_name(metric, name):
    assert metric_name(metric) == name


def test_headlines_come_from_each_tasks_first_evaluation():
    first, second = headlines(RunFiles("r", {}, [], [PROBE, RETRIEVAL]))
    assert (first.title, first.value, first.interval) == (
        "Text → image recall@1",
        "0.250",
        "0.200 to 0.300",
    )
    assert second.beside == "random init 0.700, chance 0.500"
    assert second.where == "d, test split"
    precision = make_evaluation("retrieval", {"image_to_image_precision@5": 0.4}, {})
    assert headlines(RunFiles("r", {}, [], [precision])) == []


def test_config_rows():
    config = {"num_steps": 1000, "optimizer": {"learning_rate": 1e-4}, "objectives": {}}
    assert config_rows(config) == [("Steps", "1,000"), ("Learning rate", "0.0001")]
    config["objectives"] = {"contrastive": {"weight": 0.5}, "captioning": {"weight": 0.0}}
    assert config_rows(config)[0] == ("Objectives", "contrastive × 0.5")
    config["data"] = {"dataset": "a", "mixture": []}
    assert config_rows(config)[1] == ("Data", "a")
    config["data"]["mixture"] = [["a", 2.0], ["b", 0.5, "image"]]
    assert config_rows(config)[1] == ("Data", "a × 2, b (image) × 0.5")
    assert config_rows({}) == []
