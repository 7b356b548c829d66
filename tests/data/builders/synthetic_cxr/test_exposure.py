"""The display curve, its randomness and the marker."""

import dataclasses

import numpy as np
import pytest

from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Pose
from medclip_jax.data.builders.synthetic_cxr.exposure import (
    Acquisition,
    expose,
    sample_acquisition,
)

_PLAIN = Acquisition(
    view="PA",
    pose=Pose(),
    centre=0.8,
    width=0.4,
    gamma=1.0,
    tilt=(0.0, 0.0),
    unsharpness=0.001,
    noise=0.0,
    marker="",
    seed=0,
)


def _expose(level: float, acquisition: Acquisition = _PLAIN, size: int = 64) -> np.ndarray:
    field = np.full((size, size), level, np.float32)
    return expose(Canvas(size, acquisition.pose), field, acquisition)


@pytest.mark.parametrize("level", [0.0, 0.5, 0.8, 1.4])
def test_grey_is_the_logistic_of_attenuation(level: float) -> None:
    expected = 255 / (1 + np.exp((0.8 - level) / 0.4))
    assert abs(_expose(level).astype(float) - expected).max() <= 1


def test_more_attenuation_is_brighter() -> None:
    grey = [_expose(level).mean() for level in np.linspace(0, 2, 9)]
    assert grey == sorted(grey) and grey[-1] > grey[0] + 150


def test_gamma_above_one_darkens_and_a_higher_centre_darkens() -> None:
    plain = _expose(0.8).mean()
    assert _expose(0.8, dataclasses.replace(_PLAIN, gamma=1.3)).mean() < plain - 5
    assert _expose(0.8, dataclasses.replace(_PLAIN, centre=1.0)).mean() < plain - 20


def test_tilt_brightens_one_side() -> None:
    image = _expose(1.0, dataclasses.replace(_PLAIN, tilt=(0.2, 0.0))).astype(float)
    assert image[:, -8:].mean() > image[:, :8].mean() + 10
    assert abs(image[-8:].mean() - image[:8].mean()) < 1


@pytest.mark.parametrize("size", [128, 256])
def test_noise_has_its_deviation_at_256_pixels_and_follows_its_seed(size: int) -> None:
    noisy = dataclasses.replace(_PLAIN, noise=0.04)
    image = _expose(0.8, noisy, size).astype(float)
    assert image.std() == pytest.approx(255 * 0.04 * size / 256, rel=0.05)
    np.testing.assert_array_equal(image, _expose(0.8, noisy, size))
    assert not np.array_equal(image, _expose(0.8, dataclasses.replace(noisy, seed=1), size))


@pytest.mark.parametrize("marker", ["L", "R"])
def test_marker_is_bright_and_beside_the_shoulder_of_its_side(marker: str) -> None:
    marked = _expose(0.2, dataclasses.replace(_PLAIN, marker=marker), 256)
    rows, columns = np.nonzero(marked > _expose(0.2, size=256) + 40)
    assert len(rows) > 20
    assert (columns.mean() > 128) == (marker == "L")
    assert rows.max() < 0.2 * 256


def test_random_acquisitions_vary_and_ap_is_the_worse_view() -> None:
    rng = np.random.default_rng(0)
    by_view = {view: [sample_acquisition(rng, view) for _ in range(300)] for view in ("PA", "AP")}
    for view, acquisitions in by_view.items():
        assert {a.view for a in acquisitions} == {view}
        assert {a.marker for a in acquisitions} == {"L", "R", ""}
        assert np.std([a.centre for a in acquisitions]) > 0.1
        assert np.ptp([a.pose.magnification for a in acquisitions]) > 0.2
    for measure in ("noise", "unsharpness"):
        means = {v: np.mean([getattr(a, measure) for a in by_view[v]]) for v in by_view}
        assert means["AP"] > means["PA"]
    angles = {v: np.std([a.pose.angle for a in by_view[v]]) for v in by_view}
    assert angles["AP"] > 1.2 * angles["PA"]
