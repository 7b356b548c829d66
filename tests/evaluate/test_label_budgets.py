"""Runs by budget and seed: their AUROC by scikit-learn, and a bootstrap that draws seeds too."""

from itertools import product

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medclip_jax.evaluate.bootstrap import bootstrap_intervals
from medclip_jax.evaluate.label_budgets import MacroAurocs, bootstrap_with_seeds
from medclip_jax.evaluate.request import Request


def test_macro_auroc_of_every_run_is_scikit_learns():
    generator = np.random.default_rng(0)
    labels = (generator.random((50, 3)) < 0.4).astype(float)
    labels[generator.random(labels.shape) < 0.2] = np.nan
    scores = generator.random((2, 4, 50, 3)) + 0.3 * np.nan_to_num(labels)
    weights = generator.integers(0, 3, 50).astype(float)
    found = MacroAurocs(scores, labels, "abc")(weights)
    for budget, seed in product(range(2), range(4)):
        areas = []
        for column in range(3):
            known = ~np.isnan(labels[:, column])
            areas.append(
                roc_auc_score(
                    labels[known, column],
                    scores[budget, seed, known, column],
                    sample_weight=weights[known],
                )
            )
        assert found[budget, seed] == pytest.approx(np.mean(areas))


def test_seeds_are_drawn_with_replacement():
    """Of a figure of the seeds alone, all 4^4 equally likely draws are known."""
    values = np.array([0.1, 0.5, 0.6, 0.8])
    found = bootstrap_with_seeds(
        lambda weights, seeds: {"mean": values[seeds].mean()},
        [f"p{number}" for number in range(10)],
        num_seeds=4,
        request=Request("d", num_resamples=4000),
    )
    means = [np.mean(draw) for draw in product(values, repeat=4)]
    np.testing.assert_allclose(
        found.intervals["mean"], np.quantile(means, [0.025, 0.975]), atol=0.03
    )


def test_patients_are_drawn_as_in_every_other_task():
    values = np.random.default_rng(0).normal(size=30)
    patients = [f"p{number // 3}" for number in range(30)]
    request = Request("d", num_resamples=100, seed=3)
    found = bootstrap_with_seeds(
        lambda weights, seeds: {"mean": weights @ values / weights.sum() + 0 * len(seeds)},
        patients,
        num_seeds=2,
        request=request,
    )
    expected = bootstrap_intervals(
        lambda weights: {"mean": weights @ values / weights.sum()}, patients, 100, seed=3
    )
    assert found == expected
