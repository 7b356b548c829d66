"""The linear probe against scikit-learn done plainly, and its rules about splits and patients."""

import csv
import dataclasses
from itertools import compress

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from support.vector_images import vectors_of
from threadpoolctl import threadpool_limits

from medclip_jax.errors import UserError
from medclip_jax.evaluate.encode import read_table
from medclip_jax.evaluate.labelled_splits import check_disjoint, held_out_studies
from medclip_jax.evaluate.linear_probe import evaluate
from medclip_jax.evaluate.logistic_regression import INVERSE_PENALTIES, fit_probes
from medclip_jax.evaluate.request import Request

SIZE = 12


@pytest.fixture
def features():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(150, SIZE)) * np.geomspace(0.1, 30, SIZE) + 5
    direction = generator.normal(size=SIZE) / np.geomspace(0.1, 30, SIZE)
    logits = (features - 5) @ direction + generator.normal(size=150)
    return features, logits > 0


@pytest.mark.parametrize("inverse_penalty", [1e-3, 1.0])
def test_fit_is_the_minimum_of_the_loss(features, inverse_penalty):
    features, targets = features
    standardized = StandardScaler().fit_transform(features)
    signs = np.where(targets, 1.0, -1.0)

    def loss(parameters):
        margins = signs * (standardized @ parameters[:-1] + parameters[-1])
        return np.logaddexp(0, -margins).sum() + parameters[:-1] @ parameters[:-1] / (
            2 * inverse_penalty
        )

    expected = minimize(loss, np.zeros(SIZE + 1), method="BFGS", options={"gtol": 1e-8}).x
    probe = fit_probes(features, targets, [inverse_penalty])[0]
    assert probe.converged
    expected_logits = standardized @ expected[:-1] + expected[-1]
    np.testing.assert_allclose(probe(features), 1 / (1 + np.exp(-expected_logits)), atol=2e-5)


def test_warm_start_along_the_path_finds_the_same_minima(features):
    for probe in fit_probes(*features):
        alone = fit_probes(*features, [probe.inverse_penalty])[0]
        np.testing.assert_allclose(probe(features[0]), alone(features[0]), atol=1e-3)


def test_constant_features_are_harmless(features):
    features, targets = features
    padded = np.concatenate([features, np.full((150, 3), 7.3)], axis=1)
    for plain, extra in zip(
        fit_probes(features, targets), fit_probes(padded, targets), strict=True
    ):
        np.testing.assert_allclose(plain(features), extra(padded), atol=1e-3)


def test_separable_classes_are_separated(features):
    features, _ = features
    targets = features[:, 0] > np.median(features[:, 0])
    probe = fit_probes(features, targets)[-1]
    assert probe.converged and roc_auc_score(targets, probe(features)) > 0.999


def make_split(study, studies_of, name, num_studies, seed, labels=2):
    """Studies of one to three images whose mean vector decides the labels, with some unknown."""
    generator = np.random.default_rng(seed)
    studies = []
    for number in range(num_studies):
        center = generator.normal(size=SIZE)
        images = center + 0.5 * generator.normal(size=(1 + number % 3, SIZE))
        values = (center[:labels] + 0.3 * generator.normal(size=labels) > 0).astype(np.float32)
        values[generator.random(labels) < 0.1] = np.nan
        patient = f"{name}-{number // 2}"
        studies.append(study(f"{name}{number}", images, patient=patient, labels=values))
    return studies_of(studies, ("Edema", "Mass"))


@pytest.fixture
def splits(study, studies_of):
    return {
        name: make_split(study, studies_of, name, size, seed)
        for seed, (name, size) in enumerate({"train": 90, "validation": 60, "test": 70}.items())
    }


@pytest.fixture
def encoder(encoder_of):
    return encoder_of({}, np.eye(SIZE, dtype=np.float32))


@threadpool_limits.wrap(limits=1)
def plain_probe(splits, column, chosen):
    """The same probe written with scikit-learn's own tools."""
    rows = {name: read_table(studies) for name, studies in splits.items()}
    images = {
        name: vectors_of([i for s in studies.studies for i in s.images])
        for name, studies in splits.items()
    }
    labels = rows["train"].labels[rows["train"].image_study, column]
    known = ~np.isnan(labels)
    scaler = StandardScaler().fit(images["train"][known])
    model = LogisticRegression(C=chosen, tol=1e-8, max_iter=10_000)
    model.fit(scaler.transform(images["train"][known]), labels[known])
    scores = model.predict_proba(scaler.transform(images["test"]))[:, 1]
    table = rows["test"]
    means = [scores[table.image_study == i].mean() for i in range(len(table.study_ids))]
    known = ~np.isnan(table.labels[:, column])
    return roc_auc_score(table.labels[known, column], np.array(means)[known])


def test_probe_is_scikit_learns(splits, encoder, opened):
    result = evaluate(encoder, opened(splits), Request("d", num_resamples=50))
    for column, name in enumerate(("Edema", "Mass")):
        chosen = result.protocol["chosen"][name]
        assert chosen["inverse_penalty"] in INVERSE_PENALTIES and chosen["converged"]
        expected = plain_probe(splits, column, chosen["inverse_penalty"])
        assert result.metrics[f"auroc/{name}"] == pytest.approx(expected, abs=2e-3)
        low, high = result.confidence_intervals[f"auroc/{name}"]
        assert low <= result.metrics[f"auroc/{name}"] <= high
    assert result.metrics["macro_auroc"] > 0.85
    assert result.num_examples == 70 and result.num_patients == 35
    assert result.protocol["penalty_chosen_on"] == "validation"
    assert "random_initialization/macro_auroc" in result.confidence_intervals


def test_penalty_is_the_best_on_validation(splits, encoder, opened):
    result = evaluate(encoder, opened(splits), Request("d", num_resamples=2))
    swapped = splits | {"test": splits["validation"], "validation": splits["test"]}
    by_penalty = [plain_probe(swapped, 0, penalty) for penalty in INVERSE_PENALTIES]
    chosen = result.protocol["chosen"]["Edema"]
    assert chosen["validation_auroc"] == pytest.approx(max(by_penalty), abs=2e-3)


def test_without_validation_a_fifth_of_the_training_patients_chooses(splits, encoder, opened):
    del splits["validation"]
    result = evaluate(encoder, opened(splits), Request("d", num_resamples=2))
    assert result.protocol["penalty_chosen_on"] == "a random fifth of the training patients"
    chosen = result.protocol["chosen"]["Edema"]
    # The final fit is on all of train, so it is the plain probe of the chosen penalty.
    expected = plain_probe(splits, 0, chosen["inverse_penalty"])
    assert result.metrics["auroc/Edema"] == pytest.approx(expected, abs=2e-3)
    train = splits["train"]
    held_out = held_out_studies([study.patient_id for study in train.studies], seed=0)
    parts = {
        "train": dataclasses.replace(train, studies=list(compress(train.studies, ~held_out))),
        "test": dataclasses.replace(train, studies=list(compress(train.studies, held_out))),
    }
    areas = [plain_probe(parts, 0, penalty) for penalty in INVERSE_PENALTIES]
    assert chosen["inverse_penalty"] == INVERSE_PENALTIES[int(np.argmax(areas))]
    assert chosen["validation_auroc"] == pytest.approx(max(areas), abs=1e-6)


def test_reporting_on_validation_does_not_choose_on_it(splits, encoder, opened):
    result = evaluate(encoder, opened(splits), Request("d", split="validation", num_resamples=2))
    assert result.num_examples == 60
    assert result.protocol["penalty_chosen_on"] == "a random fifth of the training patients"


def test_held_out_studies_are_a_fifth_of_the_patients_and_whole():
    patients = [f"p{i // 3}" for i in range(300)]
    held_out = held_out_studies(patients, seed=0)
    assert held_out.sum() == 60
    assert all(len(set(held_out[i : i + 3])) == 1 for i in range(0, 300, 3))
    assert not np.array_equal(held_out, held_out_studies(patients, seed=1))


def test_labels_can_be_restricted(splits, encoder, opened):
    result = evaluate(encoder, opened(splits), Request("d", labels=("Mass",), num_resamples=2))
    assert result.arrays["label_names"].tolist() == ["Mass"]
    assert result.arrays["scores"].shape == (70, 1)
    np.testing.assert_array_equal(
        result.arrays["labels"][:, 0], [s.labels[1] for s in splits["test"].studies]
    )


def test_a_label_of_one_class_in_training_is_left_out(splits, encoder, opened):
    for study in splits["train"].studies:
        study.labels[1] = 0
    result = evaluate(encoder, opened(splits), Request("d", num_resamples=2))
    assert result.protocol["labels_left_out"] == ["Mass"]
    assert "auroc/Mass" not in result.metrics
    with pytest.raises(UserError, match="one class only of Mass"):
        evaluate(encoder, opened(splits), Request("d", labels=("Mass",)))


def test_a_label_that_validation_cannot_score_takes_the_others_penalty(splits, encoder, opened):
    for study in splits["validation"].studies:
        study.labels[1] = 0
    result = evaluate(encoder, opened(splits), Request("d", num_resamples=2))
    chosen = result.protocol["chosen"]
    assert chosen["Mass"]["inverse_penalty"] == chosen["Edema"]["inverse_penalty"]
    assert np.isnan(chosen["Mass"]["validation_auroc"])
    with pytest.raises(UserError, match="to validate on have one class only of Mass"):
        evaluate(encoder, opened(splits), Request("d", labels=("Mass",)))


def test_a_patient_in_two_splits_is_named(splits, encoder, opened, study):
    splits["test"].studies.append(study("x", [np.ones(SIZE)], patient="train-3", labels=[1, 0]))
    with pytest.raises(UserError, match="'train-3' is in both train and test"):
        evaluate(encoder, opened(splits), Request("d"))
    check_disjoint(
        {"train": read_table(splits["train"]), "other": read_table(splits["validation"])}
    )


def test_missing_and_training_splits_are_errors(splits, encoder, opened):
    with pytest.raises(UserError, match="trained on train"):
        evaluate(encoder, opened(splits), Request("d", split="train"))
    del splits["test"]
    with pytest.raises(UserError, match="no split 'test'"):
        evaluate(encoder, opened(splits), Request("d"))


@pytest.fixture
def budget_request(tmp_path):
    return Request(
        "my/set",
        "linear-probe",
        fractions=(0.2, 1.0, 9),
        num_seeds=2,
        num_resamples=40,
        seed=5,
        output=tmp_path,
    )


def listed(folder, name):
    with (folder / "linear-probe-my_set-test" / "subsets" / f"{name}.csv").open() as file:
        return {row["study_id"] for row in csv.DictReader(file)}


def test_a_budgets_figure_is_that_of_a_training_set_of_its_studies(
    splits, encoder, opened, budget_request, tmp_path
):
    result = evaluate(encoder, opened(splits), budget_request)
    train, areas, random_areas = splits["train"], [], []
    for seed in (5, 6):
        names = listed(tmp_path, f"20-percent-seed-{seed}")
        assert len(names) == 18
        kept = [study for study in train.studies if study.study_id in names]
        alone = splits | {"train": dataclasses.replace(train, studies=kept)}
        metrics = evaluate(encoder, opened(alone), Request("d", num_resamples=1, seed=5)).metrics
        areas.append(metrics["macro_auroc"])
        random_areas.append(metrics["random_initialization/macro_auroc"])
    metrics = result.metrics
    assert metrics["macro_auroc@20%"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert metrics["macro_auroc_sd@20%"] == pytest.approx(np.std(areas, ddof=1), abs=1e-6)
    random = metrics["random_initialization/macro_auroc@20%"]
    assert random == pytest.approx(np.mean(random_areas), abs=1e-6)
    name = "improvement_over_random_initialization/macro_auroc@20%"
    assert metrics[name] == pytest.approx(metrics["macro_auroc@20%"] - random)
    low, high = result.confidence_intervals["macro_auroc@20%"]
    assert low < metrics["macro_auroc@20%"] < high
    runs = result.protocol["label_budgets"]
    assert runs["budgets"] == ["9", "20%", "100%"] and runs["seeds"] == [5, 6]
    assert runs["studies"].shape == (3, 2) and runs["studies"][2, 0] == 90
    assert result.arrays["budget_scores"].shape == (3, 2, 70, 2)


def test_budgets_change_nothing_else_and_end_in_the_full_figures(
    splits, encoder, opened, budget_request
):
    result = evaluate(encoder, opened(splits), budget_request)
    plain = evaluate(encoder, opened(splits), dataclasses.replace(budget_request, fractions=()))
    for name, value in plain.metrics.items():
        assert result.metrics[name] == value
        assert result.confidence_intervals.get(name) == plain.confidence_intervals.get(name)
    assert result.metrics["macro_auroc@100%"] == pytest.approx(plain.metrics["macro_auroc"])
    assert result.metrics["macro_auroc_sd@100%"] == pytest.approx(0)
    # With all labels only the patients vary: the intervals are of the same width but for chance.
    full, macro = (
        np.diff(result.confidence_intervals[name]) for name in ("macro_auroc@100%", "macro_auroc")
    )
    assert full == pytest.approx(macro)


def test_published_weights_are_a_baseline_of_their_own(splits, encoder, opened, budget_request):
    budget_request = dataclasses.replace(budget_request, fractions=(0.2,))
    given = dataclasses.replace(encoder, given=encoder.randomly_initialized(99).matrix)
    result = evaluate(given, opened(splits), budget_request)
    alone = evaluate(encoder.randomly_initialized(99), opened(splits), budget_request)
    for name in ("macro_auroc", "macro_auroc@20%", "macro_auroc_sd@20%"):
        assert result.metrics["given_initialization/" + name] == alone.metrics[name]
    gain = result.metrics["macro_auroc"] - alone.metrics["macro_auroc"]
    name = "improvement_over_given_initialization/macro_auroc"
    assert result.metrics[name] == pytest.approx(gain)
    assert name in result.confidence_intervals
    assert result.protocol["chosen_given_initialization"] == alone.protocol["chosen"]
    np.testing.assert_array_equal(result.arrays["given_scores"], alone.arrays["scores"])
    plain = evaluate(encoder, opened(splits), budget_request)
    kept = {name: value for name, value in result.metrics.items() if "given" not in name}
    assert kept == plain.metrics


def test_features_are_computed_once(splits, encoder, opened, budget_request, monkeypatch):
    calls = []
    compute = type(encoder).image_features

    def counted(self, images):
        calls.append(len(images))
        return compute(self, images)

    monkeypatch.setattr(type(encoder), "image_features", counted)
    evaluate(encoder, opened(splits), budget_request)
    num_images = sum(len(study.images) for part in splits.values() for study in part.studies)
    assert sum(calls) == 2 * num_images


def test_a_label_of_one_class_in_a_subset_knows_nothing(splits, encoder, opened, tmp_path):
    """One patient (two studies) cannot show both classes of a label that goes by patient."""
    for number, study in enumerate(splits["train"].studies):
        study.labels[1] = number // 2 % 2
    request = Request("d", fractions=(1.5,), num_seeds=2, num_resamples=2, output=tmp_path)
    scores = evaluate(encoder, opened(splits), request).arrays["budget_scores"]
    np.testing.assert_array_equal(scores[0, :, :, 1], 0.5)


def test_without_validation_budgets_spare_the_held_out_patients(
    splits, encoder, opened, budget_request, tmp_path
):
    del splits["validation"]
    result = evaluate(encoder, opened(splits), budget_request)
    patients = [study.patient_id for study in splits["train"].studies]
    held_out = held_out_studies(patients, seed=5)
    train_ids = [study.study_id for study in splits["train"].studies]
    assert listed(tmp_path, "100-percent-seed-5") == set(compress(train_ids, ~held_out))
    assert result.protocol["label_budgets"]["drawn_from_studies"] == (~held_out).sum()
    assert result.protocol["label_budgets"]["chosen_on"].startswith("a random fifth")


def test_impossible_budgets_are_errors(splits, encoder, opened, budget_request):
    with pytest.raises(UserError, match="up to the 90 training studies"):
        evaluate(encoder, opened(splits), dataclasses.replace(budget_request, fractions=(91,)))
    with pytest.raises(UserError, match="one seed or more"):
        evaluate(encoder, opened(splits), dataclasses.replace(budget_request, num_seeds=0))
