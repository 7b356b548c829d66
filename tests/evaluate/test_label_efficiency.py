"""Label efficiency: known answers for the labels saved, and the task on encoders that differ."""

import csv
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from medclip_jax.config import base_config
from medclip_jax.data.datasets import open_split
from medclip_jax.data.tokenizer import load_tokenizer, train_wordpiece
from medclip_jax.evaluate import label_efficiency, linear_probe
from medclip_jax.evaluate.bootstrap import RANDOM
from medclip_jax.evaluate.finetune_training import FinetuneSettings
from medclip_jax.evaluate.label_budgets import Budgets
from medclip_jax.evaluate.label_curve import Curve, draw_curves, label_reduction, labels_to_match
from medclip_jax.evaluate.label_efficiency import Efficiency, evaluate
from medclip_jax.evaluate.label_subsets import LabelSubset
from medclip_jax.evaluate.request import Request
from medclip_jax.inference import Encoder

SIZE = 8
LABELS = np.array([10.0, 100.0, 1000.0])


@pytest.mark.parametrize(
    ("aurocs", "target", "expected", "is_upper_bound"),
    [
        ([0.6, 0.8, 0.9], 0.7, 10**1.5, False),  # half of the way in the logarithm
        ([0.6, 0.8, 0.9], 0.8, 100, False),
        ([0.6, 0.8, 0.9], 0.825, 10**2.25, False),
        ([0.6, 0.8, 0.9], 0.6, 10, True),
        ([0.6, 0.8, 0.9], 0.5, 10, True),
        ([0.6, 0.8, 0.9], 0.91, np.inf, False),
        ([0.6, 0.9, 0.8], 0.85, 100, False),  # the two are 0.85 both once they may not fall
        ([0.6, 0.9, 0.8], 0.86, np.inf, False),
        ([0.8, 0.8, 0.8], 0.8, 10, True),
        ([0.6, np.nan, 0.9], 0.7, np.nan, False),
        ([0.6, 0.8, 0.9], np.nan, np.nan, False),
    ],
)
def test_labels_to_match_has_known_answers(aurocs, target, expected, is_upper_bound):
    found = labels_to_match(LABELS, np.array(aurocs), target)
    assert found.labels == pytest.approx(expected, nan_ok=True)
    assert found.is_upper_bound == is_upper_bound


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.5, 1), min_size=2, max_size=6), st.floats(0.5, 1))
def test_labels_to_match_is_where_the_nearest_rising_curve_crosses(aurocs, target):
    """The curve by bounded least squares of its steps, which is another way to the same."""
    number = len(aurocs)
    steps = np.tril(np.ones((number, number)))
    lower = np.array([-np.inf, *np.zeros(number - 1)])
    fitted = steps @ lsq_linear(steps, aurocs, (lower, np.inf), tol=1e-14, method="bvls").x
    labels = 10.0 ** np.arange(1, number + 1)
    found = labels_to_match(labels, np.array(aurocs), target)
    if target > fitted[-1] + 1e-9:
        assert found.labels == np.inf
    elif np.isfinite(found.labels):
        height = np.interp(np.log(found.labels), np.log(labels), fitted)
        assert height >= target - 1e-6 if found.is_upper_bound else height == pytest.approx(target)


def test_a_rising_curve_needs_all_labels_to_match_itself():
    aurocs = np.array([0.6, 0.71, 0.9])
    found = labels_to_match(LABELS, aurocs, aurocs[-1])
    assert found == (pytest.approx(1000, rel=1e-12), False)
    assert label_reduction(found.labels, 1000) == pytest.approx(0)
    assert label_reduction(100, 1000) == pytest.approx(90)


def efficiency(trained, random):
    """Of one mode, with two seeds, from the AUROC of the runs."""
    subsets = [
        LabelSubset(name, seed, np.arange(1000) < number)
        for name, number in (("1%", 10), ("10%", 100), ("100%", 1000))
        for seed in (0, 1)
    ]
    budgets = Budgets(["1%", "10%", "100%"], [0, 1], subsets)
    runs = {"": np.array(trained), RANDOM: np.array(random)}
    return Efficiency(budgets, {"linear": {k: lambda _, v=v: v for k, v in runs.items()}})


def test_figures_are_those_of_the_drawn_seeds():
    trained = [[0.6, 0.7], [0.8, 0.9], [0.9, 1.0]]
    runs = efficiency(trained, [[0.5, 0.5], [0.6, 0.6], [0.7, 0.9]])
    both = runs.figures(np.ones(5), np.array([0, 1]))
    assert both["macro_auroc@1%@linear"] == pytest.approx(0.65)
    assert both["random_initialization/macro_auroc@100%@linear"] == pytest.approx(0.8)
    name = "improvement_over_random_initialization/macro_auroc@10%@linear"
    assert both[name] == pytest.approx(0.25)
    assert both["labels_to_match_random@linear"] == pytest.approx(10**1.75)
    assert both["label_reduction@linear"] == pytest.approx(100 - 10**0.75)
    second = runs.figures(np.ones(5), np.array([1, 1]))
    assert second["labels_to_match_random@linear"] == pytest.approx(100)


def test_a_resample_that_never_matches_needs_all_labels():
    flat = [[0.6, 0.6]] * 3
    runs = efficiency(flat, [[0.5, 0.5], [0.6, 0.6], [0.7, 0.7]])
    everything = np.ones(5), np.array([0, 1])
    assert runs.figures(*everything)["labels_to_match_random@linear"] == np.inf
    censored = runs.censored_figures(*everything)
    assert censored["labels_to_match_random@linear"] == 1000
    assert censored["label_reduction@linear"] == 0
    undefined = efficiency(flat, [[np.nan, np.nan]] * 3).censored_figures(*everything)
    assert np.isnan(undefined["labels_to_match_random@linear"])


@pytest.fixture
def splits(study, studies_of):
    """Labels follow the first two of eight numbers, which are weak beside the others."""
    generator = np.random.default_rng(0)

    def split(name, size):
        studies = []
        for number in range(size):
            images = generator.normal(size=(1 + number % 2, SIZE))
            images[:, :2] = generator.normal(size=2)
            labels = images[0, :2] + 0.3 * generator.normal(size=2) > 0
            patient = f"{name}{number // 2}"
            studies.append(study(f"{name}{number}", images, patient=patient, labels=labels))
        return studies_of(studies, ("Edema", "Mass"))

    return {"train": split("a", 200), "validation": split("b", 80), "test": split("c", 90)}


@pytest.fixture
def encoder(encoder_of):
    """It passes on the signal; its random initialisation buries it in a sum with the rest."""

    class LosingEncoder(encoder_of):
        def randomly_initialized(self, seed=0):
            matrix = np.eye(SIZE, dtype=np.float32)
            matrix[2, :2] = 1.0
            matrix[:, 2:] = 0
            return dataclasses.replace(self, matrix=matrix)

    return LosingEncoder({}, np.eye(SIZE, dtype=np.float32))


@pytest.fixture
def request_(tmp_path):
    return Request(
        "d",
        task="label-efficiency",
        fractions=(0.05, 0.2),
        num_seeds=2,
        num_resamples=30,
        output=tmp_path,
        seed=1,
    )


def test_the_curve_is_the_linear_probes_at_the_same_budgets(
    splits, encoder, opened, request_, tmp_path
):
    result = evaluate(encoder, opened(splits), request_)
    probe = linear_probe.evaluate(
        encoder,
        opened(splits),
        dataclasses.replace(request_, task="linear-probe", fractions=(0.05, 0.2, 1.0)),
    )
    for budget in ("5%", "20%", "100%"):
        for prefix in ("", RANDOM, "improvement_over_random_initialization/"):
            name = f"{prefix}macro_auroc@{budget}"
            assert result.metrics[f"{name}@linear"] == pytest.approx(probe.metrics[name])
    lists = [
        tmp_path / f"{task}-d-test" / "subsets" for task in ("label-efficiency", "linear-probe")
    ]
    names = [
        {path.name: list(csv.reader(path.open())) for path in part.iterdir()} for part in lists
    ]
    assert names[0] == names[1] and len(names[0]) == 6

    curve = result.protocol["curves"]["linear"]["this checkpoint"]
    target = result.metrics["random_initialization/macro_auroc@100%@linear"]
    expected = labels_to_match(np.mean(curve["studies"], axis=1), curve["mean"], target)
    assert result.metrics["labels_to_match_random@linear"] == pytest.approx(expected.labels)
    saved = result.metrics["label_reduction@linear"]
    assert saved == pytest.approx(100 * (1 - expected.labels / 200)) and saved > 50
    low, high = result.confidence_intervals["label_reduction@linear"]
    assert 0 <= low <= saved <= high <= 100
    assert result.arrays["scores@linear"].shape == (3, 2, 90, 2)
    assert result.metrics["chance/macro_auroc@5%@linear"] == 0.5


def test_other_checkpoints_are_drawn_beside(splits, encoder, opened, request_, monkeypatch):
    loaded = {Path("runs/same"): encoder, Path("runs/worse"): encoder.randomly_initialized()}
    monkeypatch.setattr(label_efficiency, "load", loaded.__getitem__)
    request = dataclasses.replace(request_, compare=tuple(loaded), num_resamples=2)
    result = evaluate(encoder, opened(splits), request)
    metrics = result.metrics
    for name in ("macro_auroc@5%", "labels_to_match_random", "label_reduction"):
        assert metrics[f"compare/same/{name}@linear"] == metrics[f"{name}@linear"]
    worse, random = (
        metrics[f"{prefix}macro_auroc@100%@linear"] for prefix in ("compare/worse/", RANDOM)
    )
    assert worse == random
    needed = metrics["compare/worse/labels_to_match_random@linear"]
    assert needed > metrics["labels_to_match_random@linear"]
    assert list(result.protocol["curves"]["linear"]) == [
        "this checkpoint",
        "random initialisation",
        "same",
        "worse",
        "raw pixels",
    ]
    image = cv2.imread(str(request.output / "label-efficiency-d-test" / "label_efficiency.png"))
    assert image is not None and image.std() > 10


def test_a_figure_without_a_match_is_drawn(tmp_path):
    curve = Curve(np.array([[10.0], [100.0]]), np.array([[0.6], [0.7]]))
    better = curve._replace(aurocs=np.array([[0.7], [0.8]]))
    never = labels_to_match(curve.num_studies[:, 0], curve.aurocs[:, 0], 0.8)
    path = tmp_path / "folder" / "figure.png"
    draw_curves(
        {
            "linear": {"this": curve, "random": better},
            "finetune": {"this": better, "random": curve},
        },
        {"linear": never, "finetune": labels_to_match(*np.squeeze(better), 0.7)},
        path,
    )
    assert path.stat().st_size > 5000


def test_fine_tuning_is_a_mode(toy_data, tmp_path):
    train_wordpiece(("Left effusion.", "Right effusion."), 100, tmp_path)
    config = base_config().unlock()
    config.image_encoder.update(name="resnet18", width=4)
    config.text_encoder.update(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_length=12
    )
    config.projection.size = 8
    config.data.image_size = config.augmentation.crop_size = 32
    encoder = Encoder(config, load_tokenizer(tmp_path), {}).randomly_initialized(seed=4)
    request = Request(
        "manifest/toy",
        fractions=(0.25,),
        num_seeds=1,
        num_resamples=5,
        modes=("finetune", "linear"),
        output=tmp_path,
    )
    brief = FinetuneSettings(batch_size=32, max_epochs=1, min_epoch_steps=10)
    result = evaluate(
        encoder, lambda split: open_split("manifest/toy", split, toy_data), request, brief
    )
    curves = result.protocol["curves"]
    assert list(curves) == ["finetune", "linear"]
    for curve in curves.values():
        np.testing.assert_array_equal(curve["this checkpoint"]["studies"][:, 0], [16, 64])
    scores = [result.arrays[f"scores@{mode}"] for mode in curves]
    assert scores[0].shape == scores[1].shape == (2, 1, 16, 2)
    assert (scores[0] != scores[1]).all()
    assert result.protocol["finetune_settings"]["max_epochs"] == 1
    assert "labels_to_match_random@finetune" in result.metrics
