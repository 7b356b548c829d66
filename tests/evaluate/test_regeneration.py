"""The regeneration task with models that err by a known amount, or lack a part."""

import dataclasses

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from support.vector_images import vectors_of

from medclip_jax.errors import UserError
from medclip_jax.evaluate import encode
from medclip_jax.evaluate.regenerated_pixels import PatchMasks
from medclip_jax.evaluate.regeneration import evaluate
from medclip_jax.evaluate.regeneration_baselines import visible_mean
from medclip_jax.evaluate.request import Request

SIZE, GRID = 32, (8, 8)
OFFSETS = {"with": 0.1, "without": 0.2, "random": 0.4}


@dataclasses.dataclass
class OffsetEncoder:
    """Regenerates the true pixels plus an offset that depends on what it sees."""

    offsets: dict = dataclasses.field(default_factory=lambda: OFFSETS)
    sees_text: bool = True
    patch_grid: tuple = GRID
    config: ConfigDict = dataclasses.field(
        default_factory=lambda: ConfigDict(
            {"data": {"sections": ("findings",)}, "text_encoder": {"max_length": 16}}
        )
    )
    calls: list = dataclasses.field(default_factory=list)

    def view(self, images):
        return vectors_of(images).reshape(-1, SIZE, SIZE)

    def regenerate(self, images, patch_masks, texts):
        if texts and not self.sees_text:
            raise UserError("this run sees no text")
        self.calls.append((patch_masks, texts))
        blocks = patch_masks.reshape(-1, *GRID).repeat(4, axis=1).repeat(4, axis=2)
        offset = self.offsets["with" if texts else "without"]
        return self.view(images) + np.float32(offset) * blocks

    def fill_masks(self, token_ids, token_mask, is_masked, images):
        raise UserError("this run trained no masked language modelling")

    @property
    def tokenizer(self):
        return self

    def encode_batch(self, texts, max_length):
        return np.zeros((len(texts), max_length), np.int32), np.ones((len(texts), max_length), bool)

    def randomly_initialized(self, seed=0):
        offset = self.offsets["random"]
        return dataclasses.replace(self, offsets={"with": offset, "without": offset}, calls=[])


def make_images(count):
    """Smooth images between 0.2 and 0.5, so that no offset leads out of the range."""
    generator = np.random.default_rng(0)
    noise = generator.random((count, SIZE, SIZE)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 3) for image in noise])
    low, high = smooth.min(), smooth.max()
    return 0.2 + 0.3 * (smooth - low) / (high - low)


@pytest.fixture
def studies(study, studies_of):
    """Four studies of three patients; the first has two images, the third no text."""
    images = make_images(5)
    report = "FINDINGS: Effusion {}.\n\nIMPRESSION: Other."
    return studies_of(
        [
            study(0, images[:2], report=report.format(0)),
            study(1, images[2:3], report=report.format(1)),
            study(2, images[3:4], patient="p1"),
            study(3, images[4:], report=report.format(3)),
        ]
    )


def run(encoder, studies, tmp_path, **options):
    given = {"scales": (1, 2), "ratios": (0.25, 0.5), "num_resamples": 20, **options}
    request = Request("set/a", task="regeneration", output=tmp_path, **given)
    return evaluate(encoder, lambda split: studies, request), request


def test_known_errors(studies, tmp_path):
    result, request = run(OffsetEncoder(), studies, tmp_path)
    metrics = result.metrics
    for method, offset in (("with_report", 0.1), ("without_report", 0.2)):
        for suffix in ("", "/scale_1/ratio_0.25", "/scale_2/ratio_0.5"):
            assert metrics[f"l1/{method}{suffix}"] == pytest.approx(offset, rel=1e-5)
            assert metrics[f"mse/{method}{suffix}"] == pytest.approx(offset**2, rel=1e-5)
            psnr = -20 * np.log10(offset)
            assert metrics[f"psnr/{method}{suffix}"] == pytest.approx(psnr, rel=1e-5)
    assert 0 < metrics["ssim/without_report"] < metrics["ssim/with_report"] < 1
    random = {name for name in metrics if name.startswith("random_initialization/mse")}
    assert len(random) == 2 * 5  # the baselines need no other initialisation
    assert metrics["random_initialization/mse/with_report"] == pytest.approx(0.16, rel=1e-5)
    assert (result.num_examples, result.num_patients) == (4, 3)
    assert result.protocol["left_out"] == {"words": "this run trained no masked language modelling"}
    assert set(result.confidence_intervals) == set(metrics)


def test_reduction_against_the_visible_mean(studies, tmp_path):
    result, request = run(OffsetEncoder(), studies, tmp_path)
    masks = PatchMasks.draw(GRID, 5, request)
    views = OffsetEncoder().view([image for study in studies.studies for image in study.images])
    errors = []
    for mask in masks.masks:
        is_masked = mask.reshape(-1, *GRID).repeat(4, axis=1).repeat(4, axis=2)
        difference = visible_mean(views, is_masked) - views
        errors.append([np.mean(d[m] ** 2) for d, m in zip(difference, is_masked, strict=True)])
    baseline = np.mean(errors)
    assert result.metrics["mse/visible_mean"] == pytest.approx(baseline, rel=1e-5)
    assert result.metrics["error_reduction_vs_visible_mean"] == pytest.approx(
        1 - 0.01 / baseline, rel=1e-5
    )
    assert result.metrics["error_reduction_vs_inpainting"] == pytest.approx(
        1 - 0.01 / result.metrics["mse/inpainting"], rel=1e-5
    )
    low, high = result.confidence_intervals["error_reduction_vs_visible_mean"]
    assert low < result.metrics["error_reduction_vs_visible_mean"] < high
    improvement = "improvement_over_random_initialization/error_reduction_vs_visible_mean"
    assert result.metrics[improvement] == pytest.approx(0.15 / baseline, rel=1e-5)


def test_masks_are_reproducible_and_as_asked(tmp_path):
    request = Request("d", scales=(1, 4), ratios=(0.25, 0.75), seed=3)
    masks = PatchMasks.draw(GRID, 6, request)
    assert masks.names() == [
        f"scale_{scale}/ratio_{ratio}" for scale in (1, 4) for ratio in (0.25, 0.75)
    ]
    np.testing.assert_array_equal(masks.masks.sum(axis=2), [[16] * 6, [48] * 6] * 2)
    again = PatchMasks.draw(GRID, 6, request)
    other = PatchMasks.draw(GRID, 6, dataclasses.replace(request, seed=4))
    assert np.array_equal(masks.masks, again.masks)
    assert not np.array_equal(masks.masks, other.masks)
    pixels = masks.pixels(np.arange(64)[None] == 9, SIZE)  # second row, second column
    assert np.argwhere(pixels[0]).min(axis=0).tolist() == [4, 4]
    assert np.argwhere(pixels[0]).max(axis=0).tolist() == [7, 7]


def test_all_methods_get_the_same_masks_and_each_image_its_own_report(
    studies, tmp_path, monkeypatch
):
    monkeypatch.setattr(encode, "_STUDIES_AT_ONCE", 2)
    encoder = OffsetEncoder()
    blocks, _ = run(encoder, studies, tmp_path)
    measured = [call for call in encoder.calls[2:] if len(call[0]) in (2, 3)]
    assert [texts for _, texts in measured[:2]] == [
        ["Effusion 0.", "Effusion 0.", "Effusion 1."],
        None,
    ]
    assert measured[8][1] == ["", "Effusion 3."]  # the second block, after four conditions
    np.testing.assert_array_equal(measured[0][0], measured[1][0])
    monkeypatch.undo()
    whole, _ = run(OffsetEncoder(), studies, tmp_path)
    assert whole.metrics == pytest.approx(blocks.metrics)


def test_the_picture(studies, tmp_path):
    result, request = run(OffsetEncoder(), studies, tmp_path)
    path = tmp_path / "regeneration-set_a-test" / "regenerated.png"
    assert result.protocol["picture"] == path
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert picture.shape[0] > 600 and picture.shape[1] > 1000  # four rows of six images
    assert picture.std() > 30


def test_a_model_without_text_regenerates_without_the_report(studies, tmp_path):
    result, _ = run(OffsetEncoder(sees_text=False), studies, tmp_path)
    assert "mse/with_report" not in result.metrics
    baseline = result.metrics["mse/visible_mean"]
    expected = 1 - 0.04 / baseline
    assert result.metrics["error_reduction_vs_visible_mean"] == pytest.approx(expected, rel=1e-5)
    assert result.protocol["left_out"]["report"] == "this run sees no text"


def test_a_set_without_text(study, studies_of, tmp_path):
    studies = studies_of([study(0, make_images(1))])
    result, _ = run(OffsetEncoder(), studies, tmp_path)
    assert "mse/without_report" in result.metrics and "mse/with_report" not in result.metrics
    assert result.protocol["left_out"]["words"] == "no study of the split has a text"


def test_a_model_that_can_do_neither(studies, tmp_path):
    class Neither(OffsetEncoder):
        def regenerate(self, images, patch_masks, texts):
            raise UserError("this run trained no masked vision")

    with pytest.raises(UserError, match="no masked vision; .*no masked language"):
        run(Neither(), studies, tmp_path)


def test_scales_and_ratios_must_fit(studies, tmp_path):
    with pytest.raises(UserError, match="do not fit"):
        run(OffsetEncoder(), studies, tmp_path, scales=(9,))
    with pytest.raises(UserError, match="masks some of them"):
        run(OffsetEncoder(), studies, tmp_path, ratios=(1.0,))
