"""The bootstrap against a known distribution, and its resampling of patients, not rows."""

import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.evaluate.bootstrap import (
    IMPROVEMENTS,
    RANDOM,
    bootstrap_intervals,
    compare,
)


def weighted_mean(values):
    return lambda weights: {"mean": float(weights @ values / weights.sum())}


def coverage(*, rows_per_patient, by_patient):
    """How often the 95 % interval of a mean holds the true mean, over 200 draws of 60 patients."""
    generator, hits = np.random.default_rng(0), 0
    for trial in range(200):
        effects = generator.normal(size=60).repeat(rows_per_patient)
        values = effects + 0.1 * generator.normal(size=effects.size)
        patients = np.arange(60).repeat(rows_per_patient) if by_patient else np.arange(values.size)
        found = bootstrap_intervals(weighted_mean(values), patients.astype(str), 300, seed=trial)
        low, high = found.intervals["mean"]
        hits += low <= 0 <= high
    return hits / 200


def test_interval_covers_the_truth_as_often_as_it_says():
    assert 0.90 <= coverage(rows_per_patient=1, by_patient=True) <= 0.98


def test_patients_are_drawn_whole():
    assert 0.90 <= coverage(rows_per_patient=6, by_patient=True) <= 0.98
    # Rows of a patient are alike: drawing rows would claim far too much certainty.
    assert coverage(rows_per_patient=6, by_patient=False) < 0.75


def test_one_patient_has_no_interval():
    """Every resample is that patient: [x, x] would claim certainty."""
    found = bootstrap_intervals(weighted_mean(np.arange(4.0)), ["p"] * 4, 50)
    assert np.isnan(found.intervals["mean"]).all() and found.undefined == {}


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_figure_is_refused(value):
    with pytest.raises(UserError, match="not finite"):
        bootstrap_intervals(lambda weights: {"x": value}, ["p", "q"], 5)


def test_interval_is_the_normal_theory_one():
    values = np.random.default_rng(3).normal(size=400)
    low, high = bootstrap_intervals(
        weighted_mean(values), np.arange(400).astype(str), 4000
    ).intervals["mean"]
    standard_error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.1 * standard_error)
    assert high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.1 * standard_error)


def test_rows_of_a_patient_weigh_the_same_and_patients_add_up():
    patients = ["a", "b", "a", "c"]
    seen = []

    def metric(weights):
        seen.append(weights.copy())
        return {"x": 1.0}

    bootstrap_intervals(metric, patients, 50)
    for weights in seen:
        assert weights[0] == weights[2]
        assert weights[0] + weights[1] + weights[3] == 3
    assert len({tuple(weights) for weights in seen}) > 5


def test_seed_decides_the_resamples():
    metric = weighted_mean(np.arange(30.0))
    patients = np.arange(30).astype(str)
    first = bootstrap_intervals(metric, patients, 100, seed=1).intervals
    assert bootstrap_intervals(metric, patients, 100, seed=1).intervals == first
    assert bootstrap_intervals(metric, patients, 100, seed=2).intervals != first


def test_undefined_resamples_are_dropped_and_counted():
    # Undefined unless patient 0 is drawn: (2/3)^3 of the resamples of three patients are not.
    def metric(weights):
        return {"sometimes": weights[0] if weights[0] else np.nan, "never": np.nan, "always": 2.0}

    found = bootstrap_intervals(metric, ["a", "b", "c"], 3000)
    assert found.undefined["sometimes"] / 3000 == pytest.approx(8 / 27, abs=0.03)
    assert found.intervals["sometimes"][0] == 1.0
    assert found.undefined["never"] == 3000 and np.isnan(found.intervals["never"]).all()
    assert "always" not in found.undefined and found.intervals["always"] == (2.0, 2.0)


def test_improvement_is_paired():
    generator = np.random.default_rng(0)
    common = generator.normal(size=200) * 10
    trained, random = common + 1 + 0.01 * generator.normal(size=200), common
    patients = np.arange(200).astype(str)
    metrics, both = compare(
        weighted_mean(trained), {RANDOM: weighted_mean(random)}, patients, headline=["mean"]
    )
    assert metrics["mean"] == pytest.approx(trained.mean())
    assert metrics[RANDOM + "mean"] == pytest.approx(random.mean())
    assert metrics[IMPROVEMENTS[RANDOM] + "mean"] == pytest.approx((trained - random).mean())
    intervals = bootstrap_intervals(both, patients, 500).intervals
    low, high = intervals[IMPROVEMENTS[RANDOM] + "mean"]
    assert 0.99 < low < high < 1.01
    assert intervals["mean"][1] - intervals["mean"][0] > 1
