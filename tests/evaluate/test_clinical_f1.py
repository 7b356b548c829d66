"""Clinical F1 against scikit-learn on weighted rows, and where it is undefined."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from medclip_jax.evaluate.clinical_f1 import ClinicalF1


def test_weighted_figures_are_scikit_learns():
    generator = np.random.default_rng(0)
    stated = generator.random((40, 3)) < 0.4
    labels = (generator.random((40, 3)) < 0.4).astype(np.float32)
    weights = generator.integers(0, 3, 40).astype(np.float64)
    metrics = ClinicalF1(stated, labels, ("A", "B", "C"), "f1")(weights)
    each = f1_score(labels, stated, average=None, sample_weight=weights)
    assert [metrics[f"f1/{name}"] for name in "ABC"] == pytest.approx(each.tolist())
    assert metrics["f1"] == pytest.approx(each.mean())
    micro = f1_score(labels, stated, average="micro", sample_weight=weights)
    assert metrics["f1_micro"] == pytest.approx(micro)


def test_f1_is_undefined_where_a_weighting_loses_a_label():
    stated = np.array([[True, False], [False, True], [True, True]])
    labels = np.array([[1, 0], [0, 1], [np.nan, 0]], np.float32)
    metric = ClinicalF1(stated, labels, ("A", "B"))
    everything = metric(np.ones(3))
    assert everything["clinical_f1/A"] == 1.0  # the unknown row does not count
    assert everything["clinical_f1/B"] == pytest.approx(2 / 3)
    lost = metric(np.array([3.0, 0.0, 1.0]))
    assert np.isnan(lost["clinical_f1/B"]) and np.isnan(lost["clinical_f1"])
    assert lost["clinical_f1/A"] == 1.0
    # Of A three of three; of B one stated that is not there.
    assert lost["clinical_f1_micro"] == pytest.approx(2 * 3 / (2 * 3 + 1))


@pytest.mark.parametrize("label", [0.0, np.nan])
def test_without_a_label_that_occurs_nothing_is_defined(label):
    stated = np.array([[True, False], [False, True]])
    metrics = ClinicalF1(stated, np.full((2, 2), label, np.float32), ("A", "B"))(np.ones(2))
    assert set(metrics) == {"clinical_f1", "clinical_f1_micro", "clinical_f1/A", "clinical_f1/B"}
    assert np.isnan(list(metrics.values())).all()
