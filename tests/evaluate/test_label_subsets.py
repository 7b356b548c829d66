"""Label subsets: nested, of whole patients, stratified, of the size asked for, and written down."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medclip_jax.errors import UserError
from medclip_jax.evaluate.encode import StudyTable
from medclip_jax.evaluate.label_subsets import (
    budget_name,
    draw_subsets,
    patient_order,
    write_index_lists,
)


def make_table(labels, patients):
    number = len(labels)
    return StudyTable(
        rows=np.arange(number),
        study_ids=[f"s{row}" for row in range(number)],
        patient_ids=[f"p{patient}" for patient in patients],
        texts=[""] * number,
        labels=np.asarray(labels, np.float32),
        image_study=np.arange(number),
        image_number=np.zeros(number, int),
    )


@st.composite
def labelled_studies(draw):
    number = draw(st.integers(1, 40))
    shape = (number, draw(st.integers(1, 4)))
    labels = draw(arrays.arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0, np.nan])))
    patients = draw(st.lists(st.integers(0, 15), min_size=number, max_size=number))
    available = draw(arrays.arrays(bool, number))
    available[draw(st.integers(0, number - 1))] = True
    return make_table(labels, patients), available


@settings(max_examples=150, deadline=None)
@given(labelled_studies(), st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.integers(0, 9))
def test_subsets_are_nested_and_of_whole_patients(studies, budgets, seed):
    table, available = studies
    patients = np.asarray(table.patient_ids)
    largest = np.unique(patients[available], return_counts=True)[1].max()
    smaller = np.zeros(len(available), bool)
    subsets = draw_subsets(table, available, [*budgets, 1.0], [seed])
    for budget, subset in zip(sorted({*budgets, 1.0}), subsets, strict=True):
        assert not (subset.studies & ~available).any() and subset.studies.any()
        assert (subset.studies | ~smaller).all()
        for patient in set(patients[subset.studies]):
            of_patient = available & (patients == patient)
            np.testing.assert_array_equal(subset.studies[of_patient], True)
        # No number of whole patients of this order is nearer than half of the largest patient,
        # but one patient is the least.
        error = abs(subset.num_studies - max(1, round(budget * available.sum())))
        assert error <= largest / 2 or len(set(patients[subset.studies])) == 1
        smaller = subset.studies
    np.testing.assert_array_equal(smaller, available)


@settings(max_examples=50, deadline=None)
@given(labelled_studies(), st.integers(0, 9))
def test_an_order_has_every_patient_once_and_depends_on_the_seed_alone(studies, seed):
    table, _ = studies
    _, patients = np.unique(table.patient_ids, return_inverse=True)
    order = patient_order(patients, table.labels, seed)
    assert sorted(order) == list(range(patients.max() + 1))
    np.testing.assert_array_equal(order, patient_order(patients, table.labels, seed))


@pytest.fixture(scope="module")
def large():
    """2,000 studies of 1,200 patients, with labels of 0.2 to 40 per cent that go together."""
    generator = np.random.default_rng(0)
    severity = generator.normal(size=(1200, 1))
    patients = np.sort(generator.integers(1200, size=2000))
    logits = severity[patients] + generator.normal(size=(2000, 4))
    thresholds = np.quantile(logits, [0.6, 0.8, 0.95, 0.998])
    labels = (logits > thresholds).astype(np.float32)
    labels[generator.random(labels.shape) < 0.1] = np.nan
    return make_table(labels, patients)


@pytest.mark.parametrize("budget", [0.02, 0.1, 0.5])
def test_prevalence_is_kept_better_than_by_chance(large, budget):
    def misfit(labels):
        return np.abs(np.nanmean(labels, axis=0) - np.nanmean(large.labels, axis=0))[:3].max()

    everything = np.ones(2000, bool)
    drawn = draw_subsets(large, everything, [budget], range(5))
    generator = np.random.default_rng(1)
    by_chance = [
        misfit(large.labels[generator.permutation(2000)[: round(2000 * budget)]]) for _ in range(50)
    ]
    worst = max(misfit(large.labels[subset.studies]) for subset in drawn)
    assert worst < np.median(by_chance)
    assert worst < (0.05 if budget < 0.1 else 0.01)


def test_every_class_is_there_as_soon_as_the_budget_allows(large):
    for subset in draw_subsets(large, np.ones(2000, bool), [6], range(5)):
        labels = large.labels[subset.studies]
        assert (labels == 1).any(axis=0).all() and (labels == 0).any(axis=0).all()
    # Of labels that exclude one another, three studies show the six classes, and no two do.
    labels = np.zeros((60, 3))
    labels[[10, 11, 30, 31, 50, 51], [0, 0, 1, 1, 2, 2]] = 1
    table = make_table(labels, range(60))
    for subset in draw_subsets(table, np.ones(60, bool), [3], range(5)):
        np.testing.assert_array_equal(labels[subset.studies].sum(axis=0), 1)


def test_seeds_draw_different_subsets_that_are_the_same_again(large):
    everything = np.ones(2000, bool)
    one, two = draw_subsets(large, everything, [0.1], [0, 1])
    assert (one.studies != two.studies).sum() > 200
    again = draw_subsets(large, everything, [0.1, 0.5], [0])[0]
    assert again == one
    np.testing.assert_array_equal(again.studies, one.studies)


def test_shares_and_counts_are_sorted_by_size(large):
    subsets = draw_subsets(large, np.arange(2000) < 1000, [1.0, 30, 0.1, 2], [0])
    assert [subset.budget for subset in subsets] == ["2", "30", "10%", "100%"]
    sizes = [subset.num_studies for subset in subsets]
    assert sizes[-1] == 1000 and sizes == pytest.approx([2, 30, 100, 1000], abs=2)
    assert budget_name(0.005) == "0.5%"


@pytest.mark.parametrize("budget", [0.0, -1.0, 2001.0])
def test_impossible_budgets_are_errors(large, budget):
    with pytest.raises(UserError, match="up to the 2000 training studies"):
        draw_subsets(large, np.ones(2000, bool), [budget], [0])


def test_lists_name_studies_and_patients(large, tmp_path):
    subsets = draw_subsets(large, np.ones(2000, bool), [0.01, 40], [3, 4])
    write_index_lists(tmp_path / "lists", subsets, large)
    names = ["1-percent-seed-3.csv", "1-percent-seed-4.csv", "40-seed-3.csv", "40-seed-4.csv"]
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == names
    with (tmp_path / "lists" / "1-percent-seed-3.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = np.flatnonzero(subsets[0].studies)
    assert [row["study_id"] for row in rows] == [f"s{row}" for row in expected]
    assert [row["patient_id"] for row in rows] == [large.patient_ids[row] for row in expected]
