"""Errors of masked pixels against NumPy, and the baselines on images whose answers are known."""

import numpy as np
import pytest

from medclip_jax.evaluate.regeneration_baselines import inpainting, visible_mean
from medclip_jax.evaluate.regeneration_errors import MAX_PSNR, masked_errors, ssim_map


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    views = generator.random((3, 24, 20)).astype(np.float32)
    made = np.clip(views + generator.normal(scale=0.2, size=views.shape), 0, 1).astype(np.float32)
    return views, made, generator.random(views.shape) < 0.4


def reference_ssim(x, y):
    """Wang et al.'s formula window by window, on images mirrored beyond their border."""
    offsets = np.arange(-5, 6)
    gauss = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(gauss, gauss) / np.outer(gauss, gauss).sum()
    x, y = (np.pad(image.astype(np.float64), 5, mode="symmetric") for image in (x, y))
    result = np.zeros((x.shape[0] - 10, x.shape[1] - 10))
    for row, column in np.ndindex(result.shape):
        a, b = (image[row : row + 11, column : column + 11] for image in (x, y))
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        variance_a = (window * (a - mean_a) ** 2).sum()
        variance_b = (window * (b - mean_b) ** 2).sum()
        covariance = (window * (a - mean_a) * (b - mean_b)).sum()
        result[row, column] = (
            (2 * mean_a * mean_b + 0.01**2)
            * (2 * covariance + 0.03**2)
            / ((mean_a**2 + mean_b**2 + 0.01**2) * (variance_a + variance_b + 0.03**2))
        )
    return result


def test_ssim_is_that_of_the_formula(images):
    views, made, _ = images
    np.testing.assert_allclose(
        ssim_map(views[0], made[0]), reference_ssim(views[0], made[0]), atol=1e-9
    )
    np.testing.assert_allclose(ssim_map(views[0], views[0]), 1)


def test_errors_are_of_masked_pixels_only(images):
    views, made, is_masked = images
    errors = masked_errors(views, made, is_masked)
    for view, image, mask, found in zip(views, made, is_masked, errors, strict=True):
        difference = (image - view)[mask].astype(np.float64)
        mse = np.mean(difference**2)
        composed = np.where(mask, image, view)
        expected = [np.abs(difference).mean(), mse, 10 * np.log10(1 / mse)]
        np.testing.assert_allclose(found[:3], expected, rtol=1e-6)
        assert found[3] == pytest.approx(reference_ssim(view, composed)[mask].mean())
    spoiled = np.where(is_masked, made, 1 - made)  # what was visible counts for nothing
    np.testing.assert_array_equal(masked_errors(views, spoiled, is_masked), errors)


def test_a_perfect_image_has_a_finite_psnr(images):
    views, _, is_masked = images
    errors = masked_errors(views, views, is_masked)
    np.testing.assert_allclose(errors, [[0, 0, MAX_PSNR, 1]] * 3)


def test_visible_mean(images):
    views, _, is_masked = images
    filled = visible_mean(views, is_masked)
    for view, mask, found in zip(views, is_masked, filled, strict=True):
        np.testing.assert_array_equal(found[~mask], view[~mask])
        np.testing.assert_allclose(found[mask], view[~mask].mean(), rtol=1e-6)


def test_inpainting_continues_what_is_around():
    ramp = np.linspace(0.1, 0.9, 40, dtype=np.float32)[None].repeat(40, axis=0)
    views, is_masked = np.stack([ramp, np.full_like(ramp, 0.3)]), np.zeros((2, 40, 40), bool)
    is_masked[:, 12:28, 12:28] = True
    hidden = np.where(is_masked, 0.0, views).astype(np.float32)  # it cannot have seen the answer
    filled = inpainting(hidden, is_masked)
    np.testing.assert_array_equal(filled[~is_masked], views[~is_masked])
    # Each pixel is rounded to 8 bits and continued from, so that a few levels add up.
    assert np.abs(filled[1] - 0.3).max() < 4 / 255
    assert filled[1].mean() == pytest.approx(0.3, abs=1 / 255)
    error, baseline = (
        np.abs(image[0] - ramp)[is_masked[0]].mean()
        for image in (filled, visible_mean(hidden, is_masked))
    )
    assert error < baseline / 2
