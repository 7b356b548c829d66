"""Raw pixels as a control: known answers on images whose labels a thumbnail shows, or does not."""

import dataclasses

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from medclip_jax.evaluate import label_efficiency, linear_probe
from medclip_jax.evaluate.labelled_splits import LabelledSplits
from medclip_jax.evaluate.raw_pixels import RawPixels
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.table import result_rows

LABELS = ("Bright", "Striped", "Coin")


@dataclasses.dataclass
class BlindEncoder:
    """Features that know the bytes of a file, and nothing of the picture."""

    seed: int = 0

    def image_features(self, images):
        seeds = [[self.seed, *image[-16:]] for image in images]
        return np.stack([np.random.default_rng(seed).normal(size=6) for seed in seeds])

    def randomly_initialized(self, seed=0):
        return BlindEncoder(seed + 1)

    def as_given(self, seed=0):
        return None


def picture(generator, bright, striped):
    """32 x 32 pixels; stripes of two pixels, which a thumbnail of 8 pixels a side averages away."""
    stripes = np.where(np.arange(32) // 2 % 2, 12.0, -12.0) * (1 if striped else -1)
    level = 110 + 25 * bright + generator.normal(scale=12)
    pixels = level + stripes + generator.normal(scale=6, size=(32, 32))
    return cv2.imencode(".png", pixels.astype(np.uint8))[1].tobytes()


@pytest.fixture
def splits(study, studies_of):
    generator = np.random.default_rng(0)

    def split(name, size):
        studies = []
        for number in range(size):
            labels = generator.integers(2, size=3)
            images = [picture(generator, *labels[:2]) for _ in range(1 + number % 2)]
            empty = study(f"{name}{number}", [], labels=labels)
            studies.append(dataclasses.replace(empty, images=images, views=["PA"] * len(images)))
        return studies_of(studies, LABELS)

    return {"train": split("a", 120), "validation": split("b", 50), "test": split("c", 60)}


def plain_probe(splits, side, column, inverse_penalty):
    """The same by OpenCV and scikit-learn alone."""
    parts = []
    for name in ("train", "test"):
        images, labels, owners = [], [], []
        for number, study in enumerate(splits[name].studies):
            for image in study.images:
                pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
                small = cv2.resize(
                    pixels.astype(np.float64), (side, side), interpolation=cv2.INTER_AREA
                )
                images.append(small.ravel())
                labels.append(study.labels[column])
                owners.append(number)
        parts.append((np.stack(images), np.array(labels), np.array(owners)))
    (train, train_labels, _), (test, _, owners) = parts
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=inverse_penalty, tol=1e-8, max_iter=10_000)
    model.fit(scaler.transform(train), train_labels)
    scores = model.predict_proba(scaler.transform(test))[:, 1]
    means = [scores[owners == i].mean() for i in range(len(splits["test"].studies))]
    return roc_auc_score([study.labels[column] for study in splits["test"].studies], means)


def test_a_shortcut_shows_beside_an_encoder_that_learnt_nothing(splits, opened):
    result = linear_probe.evaluate(BlindEncoder(), opened(splits), Request("d", num_resamples=40))
    metrics, intervals = result.metrics, result.confidence_intervals
    assert metrics["raw_pixels/auroc/Bright"] > 0.85 and metrics["auroc/Bright"] < 0.7
    assert metrics["raw_pixels/8x8/auroc/Bright"] > 0.85
    assert metrics["raw_pixels/16x16/auroc/Striped"] > 0.99
    assert metrics["raw_pixels/8x8/auroc/Striped"] < 0.75
    assert metrics["raw_pixels/auroc/Coin"] < 0.7
    # 16 pixels a side are better on validation, and so are those that count.
    assert metrics["raw_pixels/macro_auroc"] == metrics["raw_pixels/16x16/macro_auroc"]
    gain = metrics["macro_auroc"] - metrics["raw_pixels/macro_auroc"]
    name = "improvement_over_raw_pixels/macro_auroc"
    assert metrics[name] == pytest.approx(gain) and intervals[name][1] < 0
    low, high = intervals["raw_pixels/macro_auroc"]
    assert low <= metrics["raw_pixels/macro_auroc"] <= high
    row = next(row for row in result_rows(result) if row[0] == "auroc/Bright")
    assert row[4] == f"{metrics['raw_pixels/auroc/Bright']:.3f}"
    assert not any(row[0].startswith("raw_pixels") for row in result_rows(result))
    assert result.arrays["pixels_scores"].shape == (60, 3)


@pytest.mark.parametrize("side", [8, 16])
def test_the_probe_is_scikit_learns_on_opencvs_thumbnails(splits, opened, side):
    result = linear_probe.evaluate(BlindEncoder(), opened(splits), Request("d", num_resamples=2))
    chosen = result.protocol[f"chosen_raw_pixels_{side}x{side}"]
    for column, name in enumerate(LABELS[:2]):  # the third has no order to agree on
        expected = plain_probe(splits, side, column, chosen[name]["inverse_penalty"])
        found = result.metrics[f"raw_pixels/{side}x{side}/auroc/{name}"]
        assert found == pytest.approx(expected, abs=2e-3)


def test_thumbnails_are_means_over_areas_of_the_padded_square(splits, opened):
    data = LabelledSplits.open(opened(splits), Request("d"))
    pixels = RawPixels.compute(data)
    (image, *_), *_ = (study.images for study in splits["test"].studies)
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE) / 255
    for side, features in pixels.by_side.items():
        means = decoded.reshape(side, 32 // side, side, 32 // side).mean(axis=(1, 3))
        np.testing.assert_allclose(features.rows["test"].features[0], means.ravel(), atol=1 / 255)


def test_budgets_and_curves_have_them(splits, opened, tmp_path):
    request = Request(
        "d", labels=("Bright",), fractions=(0.25,), num_seeds=2, num_resamples=5, output=tmp_path
    )
    probe = linear_probe.evaluate(BlindEncoder(), opened(splits), request)
    request = dataclasses.replace(request, task="label-efficiency")
    curve = label_efficiency.evaluate(BlindEncoder(), opened(splits), request)
    for prefix in ("raw_pixels/", "improvement_over_raw_pixels/"):
        name = f"{prefix}macro_auroc@25%"
        assert name in probe.confidence_intervals
        assert curve.metrics[f"{name}@linear"] == pytest.approx(probe.metrics[name])
    assert probe.metrics["raw_pixels/macro_auroc@25%"] > 0.7
    assert "raw pixels" in curve.protocol["curves"]["linear"]
