"""Fine-tuning: its parts against references, its recipe on a tiny model, and that it learns."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from medclip_jax.config import base_config
from medclip_jax.data.augment import Augmentation
from medclip_jax.data.datasets import open_split
from medclip_jax.data.images import decode_gray, encode_jpeg, fit_square
from medclip_jax.data.studies import Study
from medclip_jax.data.tokenizer import load_tokenizer, train_wordpiece
from medclip_jax.errors import UserError
from medclip_jax.evaluate import finetune_training, image_squares
from medclip_jax.evaluate.encode import read_table
from medclip_jax.evaluate.finetune import FineTuning, evaluate
from medclip_jax.evaluate.finetune_training import (
    ClassifierHead,
    FinetuneSettings,
    FinetuneTrainer,
    Progress,
    inputs_used,
    masked_cross_entropy,
    shuffled_batches,
)
from medclip_jax.evaluate.image_squares import ImageSquares
from medclip_jax.evaluate.label_subsets import LabelSubset
from medclip_jax.evaluate.labelled_splits import LabelledSplits
from medclip_jax.evaluate.request import Request
from medclip_jax.inference import Encoder
from medclip_jax.models.factory import build_model

SIZE = 32
QUICK = FinetuneSettings(
    batch_size=32,
    learning_rate=3e-3,
    head_learning_rate=1e-2,
    head_steps=5,
    max_epochs=6,
    min_epoch_steps=10,
)


def test_cross_entropy_is_torchs_over_the_known_labels():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(9, 4)).astype(np.float32)
    labels = (generator.random((9, 4)) < 0.5).astype(np.float32)
    labels[generator.random((9, 4)) < 0.4] = np.nan
    known = ~np.isnan(labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits[known]), torch.tensor(labels[known])
    )
    found, gradient = jax.value_and_grad(masked_cross_entropy)(jnp.array(logits), labels)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert np.isfinite(gradient).all() and (np.asarray(gradient)[~known] == 0).all()
    assert float(masked_cross_entropy(jnp.array(logits), labels * np.nan)) == 0


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (3, 8), (5, 5)])
def test_every_pass_has_every_image_once(num_images, batch_size):
    batches = shuffled_batches(num_images, batch_size, seed=1)
    drawn = np.concatenate([next(batches) for _ in range(3 * num_images)])
    for number in range(3):
        one_pass = drawn[number * num_images : (number + 1) * num_images]
        np.testing.assert_array_equal(np.sort(one_pass), np.arange(num_images))
    again = shuffled_batches(num_images, batch_size, seed=1)
    np.testing.assert_array_equal(next(again), drawn[:batch_size])


def test_the_rate_falls_after_three_epochs_and_training_ends_after_ten():
    progress = Progress(FinetuneSettings())
    assert progress.update(0.5) and progress.update(0.6)
    scales = []
    for _ in range(10):
        assert not progress.is_over
        assert not progress.update(0.6)
        scales.append(progress.plateau_scale)
    assert scales == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]
    assert progress.is_over
    assert progress.update(0.7) and not progress.is_over and progress.plateau_scale == 0.125


def test_the_head_alone_is_trained_for_200_steps_but_a_tenth_at_most():
    settings = FinetuneSettings()
    assert settings.num_epoch_steps(2800) == math.ceil(2800 / 64)
    assert settings.num_head_steps(2800) == 132  # a tenth of 30 x 44
    assert settings.num_head_steps(28_000) == 200
    assert (settings.num_epoch_steps(10), settings.num_head_steps(10)) == (20, 60)
    with pytest.raises(UserError, match="'linear'.*plateau and cosine"):
        FinetuneSettings(schedule="linear")


def test_inputs_used_are_those_the_output_depends_on():
    @jax.jit
    def nested(x, y):
        return jnp.sin(x) + y

    def function(inputs):
        shifted = nested(inputs["a"], inputs["c"]) * 2
        unused = jnp.exp(inputs["b"]) + shifted  # noqa: F841
        return shifted + 0 * inputs["e"]

    names = dict.fromkeys("ecbda", jnp.ones(2))
    assert inputs_used(function, names) == {"a", "c", "e"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    train_wordpiece(("Left effusion.", "Right effusion."), 100, directory)
    config = base_config().unlock()
    config.image_encoder.update(name="resnet18", width=4)
    config.text_encoder.update(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_length=12
    )
    config.projection.size = 8
    config.data.image_size = config.augmentation.crop_size = SIZE
    return Encoder(config, load_tokenizer(directory), {}).randomly_initialized(seed=4)


@pytest.fixture(scope="module")
def trainer(encoder):
    model = build_model(encoder.config, encoder.tokenizer.vocab_size)
    augmentation = Augmentation.from_config(encoder.config.augmentation)
    return FinetuneTrainer(model, augmentation, 2, QUICK)


@pytest.fixture(scope="module")
def toy_splits(toy_data):
    return {
        split: open_split("manifest/toy", split, toy_data)
        for split in ("train", "validation", "test")
    }


@pytest.fixture(scope="module")
def toy_train(toy_splits):
    table = read_table(toy_splits["train"])
    return ImageSquares(toy_splits["train"], table, SIZE), table.labels


def fit(trainer, encoder, toy_train, scores, settings=QUICK, images=64):
    """Trains with made-up validation scores; returns the best state and the history."""
    squares, labels = toy_train
    trainer.settings = settings
    states = []

    def validate(state):
        states.append(state)
        return scores[len(states) - 1]

    rows = np.arange(images)
    best, history = trainer.fit(encoder.variables, squares, rows, labels[rows], validate, seed=0)
    return best, history, states


def moved(before, after):
    return {name for name in before if np.abs(np.asarray(before[name] - after[name])).max() > 0}


@pytest.mark.slow
def test_at_first_the_head_moves_alone_then_the_encoder_but_never_the_rest(
    trainer, encoder, toy_train
):
    settings = dataclasses.replace(QUICK, max_epochs=1)
    _, history, (after_head, after_epoch) = fit(trainer, encoder, toy_train, [0.5, 0.6], settings)
    assert [line["steps"] for line in history] == [1, 10]
    start = trainer.initial_state(encoder.variables, seed=0)
    encoder_names, frozen_names = set(start.params["encoder"]), set(start.frozen)
    assert all(name.startswith("image_encoder/") for name in encoder_names)
    assert {"image_projection/hidden/kernel", "log_temperature"} <= frozen_names
    assert not any(name.startswith("image_encoder/") for name in frozen_names)

    assert not moved(start.params["encoder"], after_head.params["encoder"])
    assert moved(start.params["head"]["output"], after_head.params["head"]["output"])
    assert moved(start.params["encoder"], after_epoch.params["encoder"]) == encoder_names
    assert not moved(start.frozen, after_epoch.frozen)
    jax.tree.map(np.testing.assert_array_equal, after_head.batch_stats, start.batch_stats)
    statistics = [jax.tree.leaves(state.batch_stats) for state in (start, after_epoch)]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(*statistics, strict=True))
    assert int(after_epoch.step) == 11


def test_training_stops_early_and_keeps_the_best_epoch(trainer, encoder, toy_train):
    settings = dataclasses.replace(
        QUICK, min_epoch_steps=1, stopping_patience=3, plateau_patience=2, max_epochs=20
    )
    scores = [0.5, 0.7, 0.6, 0.8, 0.7, 0.75, 0.8, 0.9]
    best, history, states = fit(trainer, encoder, toy_train, scores, settings)
    assert len(states) == 7  # the 0.8 again is no better than the first
    assert best is states[3]
    rates = [line["rate"] / QUICK.learning_rate for line in history[1:]]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.5])
    assert [line["validation"] for line in history] == scores[:7]


def test_the_request_names_epochs_rate_and_schedule() -> None:
    asked = Request("d", max_epochs=5, learning_rate=0.01, schedule="cosine", batch_size=8)
    settings = FinetuneSettings.from_request(asked)
    assert settings.batch_size == 8
    assert (settings.max_epochs, settings.learning_rate, settings.schedule) == (5, 0.01, "cosine")


def test_a_run_that_diverges_is_one_line(trainer, encoder, toy_train):
    settings = dataclasses.replace(QUICK, learning_rate=1e30, max_epochs=3)
    with pytest.raises(UserError, match="diverged in epoch [12]: give a lower --learning-rate"):
        fit(trainer, encoder, toy_train, [0.5] * 5, settings)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_score_is_made_of_logits_that_are_not_finite(value, trainer, encoder, toy_train):
    state = trainer.initial_state(encoder.variables, 0)
    head = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), state.params["head"])
    state = state.replace(params=state.params | {"head": head})
    with pytest.raises(UserError, match="logits overflow"):
        trainer.predict(state, toy_train[0], np.arange(3))


def test_cosine_falls_to_zero(trainer, encoder, toy_train):
    settings = dataclasses.replace(QUICK, schedule="cosine", min_epoch_steps=1, max_epochs=4)
    _, history, _ = fit(trainer, encoder, toy_train, [0.5] * 5, settings)
    rates = [line["rate"] / QUICK.learning_rate for line in history[1:]]
    assert rates == pytest.approx([(1 + math.cos(math.pi * x / 4)) / 2 for x in range(4)])


def test_one_program_serves_every_number_of_images_and_all_weights(
    trainer, encoder, toy_train, monkeypatch
):
    settings = dataclasses.replace(QUICK, max_epochs=1, min_epoch_steps=1)
    state, _, _ = fit(trainer, encoder, toy_train, [0.5, 0.6], settings)
    trainer.predict(state, toy_train[0], np.arange(40))

    def traced_again(*args):
        raise AssertionError("compiled again")

    monkeypatch.setattr(finetune_training, "augment", traced_again)
    monkeypatch.setattr(finetune_training, "prepare", traced_again)
    other = encoder.randomly_initialized(seed=9)
    state, _, _ = fit(trainer, other, toy_train, [0.5, 0.6], settings, images=5)
    assert trainer.predict(state, toy_train[0], np.arange(3)).shape == (3, 2)


def test_a_studys_score_is_the_mean_probability_of_its_images(encoder, studies_of, opened):
    """Without a step the classifier is the encoder's features with the head as it starts."""
    generator = np.random.default_rng(0)
    splits = {}
    for name in ("train", "validation", "test"):
        studies = [
            Study(
                study_id=f"{name}{number}",
                patient_id=f"{name}{number}",
                images=[
                    encode_jpeg(generator.integers(256, size=(40, 30), dtype=np.uint8))
                    for _ in range(1 + number % 3)
                ],
                views=(),
                report="",
                labels=np.array([number % 2, number % 4 > 1], np.float32),
            )
            for number in range(7)
        ]
        splits[name] = studies_of(studies, ("A", "B"))
    data = LabelledSplits.open(opened(splits), Request("d"))
    tuning = FineTuning(data, dataclasses.replace(QUICK, max_epochs=0))
    run = tuning.run(encoder, LabelSubset("100%", 3, data.fitted))
    head = ClassifierHead(2, 0.2).init(jax.random.key(3), jnp.zeros((1, 32)), train=False)
    kernel = np.asarray(head["params"]["output"]["kernel"])
    expected = [
        (1 / (1 + np.exp(-encoder.image_features(study.images) @ kernel))).mean(axis=0)
        for study in splits["test"].studies
    ]
    np.testing.assert_allclose(run.scores, expected, atol=1e-5)
    assert [line["steps"] for line in run.history] == [0]


@pytest.fixture(scope="module")
def result(encoder, toy_splits, tmp_path_factory):
    request = Request(
        "manifest/toy",
        "finetune",
        fractions=(0.25, 1.0),
        num_seeds=2,
        num_resamples=20,
        output=tmp_path_factory.mktemp("evaluations"),
    )
    return evaluate(encoder, toy_splits.__getitem__, request, QUICK), request


def test_it_learns_which_side_is_bright(result):
    result, _ = result
    assert result.arrays["label_names"].tolist() == ["left", "right"]
    assert result.metrics["macro_auroc"] > 0.9
    assert result.metrics["random_initialization/macro_auroc"] > 0.9  # so is this one here
    losses = [line["loss"] for line in result.protocol["epochs"]]
    assert losses[-1] < 0.7 * losses[0]
    assert result.num_examples == 16
    assert result.protocol["settings"]["learning_rate"] == 3e-3
    assert result.protocol["validated_on"] == "validation"


def test_budgets_are_reported_and_listed(result):
    result, request = result
    scores = result.arrays["budget_scores"]
    assert scores.shape == (2, 2, 16, 2)
    np.testing.assert_array_equal(scores[1, 0], result.arrays["scores"])
    assert (scores[1, 1] != scores[1, 0]).any()  # another seed, another head and order
    runs = result.protocol["label_budgets"]["macro_auroc"]
    assert result.metrics["macro_auroc@25%"] == pytest.approx(runs[0].mean())
    assert result.metrics["macro_auroc_sd@100%"] == pytest.approx(runs[1].std(ddof=1))
    assert "random_initialization/macro_auroc@25%" in result.confidence_intervals
    files = (request.output / "finetune-manifest_toy-test" / "subsets").iterdir()
    assert sorted(path.name for path in files) == [
        f"{percent}-percent-seed-{seed}.csv" for percent in (100, 25) for seed in (0, 1)
    ]


def test_validation_of_one_class_and_training_on_train_are_errors(
    encoder, toy_splits, studies_of, opened
):
    one_class = [
        dataclasses.replace(study, labels=np.zeros(2, np.float32))
        for study in toy_splits["validation"]
    ]
    splits = toy_splits | {"validation": studies_of(one_class, ("left", "right"))}
    with pytest.raises(UserError, match="validate on have one class only of left, right"):
        evaluate(encoder, opened(splits), Request("d"), QUICK)
    with pytest.raises(UserError, match="trained on train"):
        evaluate(encoder, opened(toy_splits), Request("d", split="train"), QUICK)


def test_a_batch_beyond_the_training_images_is_refused(encoder, toy_splits, opened):
    settings = dataclasses.replace(QUICK, batch_size=10**8)
    with pytest.raises(UserError, match="--batch-size 100000000 is more than the"):
        evaluate(encoder, opened(toy_splits), Request("d"), settings)


@pytest.mark.parametrize("max_bytes", [0, 2**20])
def test_squares_are_the_padded_images_decoded_once_if_they_fit(toy_splits, max_bytes, monkeypatch):
    studies, decoded = toy_splits["test"], []
    table = read_table(studies)

    def counted(image):
        decoded.append(image)
        return decode_gray(image)

    monkeypatch.setattr(image_squares, "decode_gray", counted)
    squares = ImageSquares(studies, table, 24, max_bytes)
    images = np.array([5, 2, 5, 0])
    expected = [fit_square(decode_gray(studies[int(i)].images[0]), 24) for i in images]
    for _ in range(2):
        np.testing.assert_array_equal(squares.read(images), expected)
    assert len(decoded) == (3 if max_bytes else 8)
