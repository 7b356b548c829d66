"""AUROC and AUPRC against scikit-learn, with ties, unknown labels and bootstrap weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from medclip_jax.errors import UserError
from medclip_jax.evaluate.classification import (
    ClassificationMetrics,
    RankedScores,
    label_counts,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 60), st.integers(2, 30))
def test_weighted_areas_are_scikit_learns(seed, num_rows, num_values):
    generator = np.random.default_rng(seed)
    scores = generator.integers(num_values, size=num_rows) / num_values  # many ties
    labels = generator.integers(2, size=num_rows).astype(np.float32)
    labels[:2] = 0, 1
    weights = generator.integers(0, 4, size=num_rows).astype(float)
    weights[:2] = 1
    auroc, auprc = RankedScores.from_scores(scores, labels).auroc_and_auprc(weights)
    assert auroc == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    expected = average_precision_score(labels, scores, sample_weight=weights)
    assert auprc == pytest.approx(expected, abs=1e-12)


def test_weights_are_repetitions():
    generator = np.random.default_rng(1)
    scores, labels = generator.normal(size=40), generator.integers(2, size=40).astype(float)
    counts = generator.integers(0, 3, size=40)
    weighted = RankedScores.from_scores(scores, labels).auroc_and_auprc(counts.astype(float))
    repeated = RankedScores.from_scores(scores.repeat(counts), labels.repeat(counts))
    assert weighted == pytest.approx(repeated.auroc_and_auprc(np.ones(counts.sum())), abs=1e-12)


def test_roc_curve_is_scikit_learns():
    generator = np.random.default_rng(2)
    scores = generator.integers(8, size=50) / 8
    labels = generator.integers(2, size=50).astype(float)
    labels[7] = np.nan
    known = ~np.isnan(labels)
    false_rate, true_rate = RankedScores.from_scores(scores, labels).roc_curve()
    expected = roc_curve(labels[known], scores[known], drop_intermediate=False)
    np.testing.assert_allclose(false_rate, expected[0], atol=1e-12)
    np.testing.assert_allclose(true_rate, expected[1], atol=1e-12)


def test_one_class_is_undefined():
    areas = RankedScores.from_scores(np.arange(3.0), np.ones(3)).auroc_and_auprc(np.ones(3))
    assert np.isnan(areas).all()
    ranked = RankedScores.from_scores(np.arange(3.0), np.array([1.0, 0.0, 0.0]))
    assert np.isnan(ranked.auroc_and_auprc(np.array([0.0, 1.0, 1.0]))).all()
    nothing = RankedScores.from_scores(np.arange(3.0), np.full(3, np.nan))
    assert np.isnan(nothing.auroc_and_auprc(np.ones(3))).all()


@pytest.fixture
def labelled():
    generator = np.random.default_rng(4)
    labels = generator.integers(2, size=(80, 4)).astype(np.float32)
    scores = generator.normal(size=(80, 4)) + labels * [0.2, 1.0, 3.0, 0.0]
    labels[generator.random(size=labels.shape) < 0.3] = np.nan
    labels[:, 3] = np.where(np.isnan(labels[:, 3]), np.nan, 0)  # nobody has it
    return scores, labels, ("A", "B", "C", "Nobody")


def test_unknown_labels_are_ignored_and_macro_is_over_scorable_labels(labelled):
    scores, labels, names = labelled
    metrics = ClassificationMetrics(scores, labels, names)(np.ones(80))
    expected = []
    for column, name in enumerate(names[:3]):
        known = ~np.isnan(labels[:, column])
        expected.append(roc_auc_score(labels[known, column], scores[known, column]))
        assert metrics[f"auroc/{name}"] == pytest.approx(expected[-1])
        auprc = average_precision_score(labels[known, column], scores[known, column])
        assert metrics[f"auprc/{name}"] == pytest.approx(auprc)
    assert metrics["macro_auroc"] == pytest.approx(np.mean(expected))
    assert np.isnan(metrics["auroc/Nobody"])


def test_macro_is_undefined_where_a_resample_loses_a_label(labelled):
    scores, labels, names = labelled
    weights = np.where(labels[:, 0] == 1, 0.0, 1.0)  # nobody with A is drawn
    metrics = ClassificationMetrics(scores, labels, names)(weights)
    assert np.isnan(metrics["auroc/A"]) and np.isnan(metrics["macro_auroc"])
    assert np.isfinite(metrics["auroc/B"])


def test_chance_is_what_random_scores_get(labelled):
    _, labels, names = labelled
    generator = np.random.default_rng(0)
    labels = np.tile(labels, (20, 1))
    draws = []
    for _ in range(20):
        random = ClassificationMetrics(generator.normal(size=labels.shape), labels, names)
        draws.append(random(np.ones(len(labels))))
    chance = random.chance()
    for name in ("macro_auroc", "macro_auprc", "auroc/B", "auprc/B"):
        assert np.mean([draw[name] for draw in draws]) == pytest.approx(chance[name], abs=0.01)


def test_label_counts():
    labels = np.array([[1.0, np.nan], [0.0, 0.0], [1.0, np.nan]])
    assert label_counts(labels, ("A", "B")) == {
        "A": {"present": 2, "absent": 1, "unknown": 0},
        "B": {"present": 0, "absent": 1, "unknown": 2},
    }


@pytest.mark.parametrize("label", [np.inf, -np.inf, -1.0, 0.5])
def test_a_label_is_one_zero_or_unknown(label):
    with pytest.raises(UserError, match="a label must be 1"):
        RankedScores.from_scores(np.array([0.1, 0.9]), np.array([0.0, label]))
