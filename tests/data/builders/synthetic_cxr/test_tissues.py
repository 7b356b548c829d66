"""Ribs, vessels and soft tissues, each drawn alone."""

import dataclasses

import numpy as np
import pytest

from medclip_jax.data.builders.synthetic_cxr import soft_tissue
from medclip_jax.data.builders.synthetic_cxr.anatomy import sample_anatomy
from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Pose
from medclip_jax.data.builders.synthetic_cxr.skeleton import skeleton
from medclip_jax.data.builders.synthetic_cxr.vessels import vessels

_SIZE = 256
_CANVAS = Canvas(_SIZE, Pose())
_ANATOMY = dataclasses.replace(
    sample_anatomy(np.random.default_rng(1)), scoliosis=0.0, breast=0.2, base_y=0.8
)


def _pixel(x: float, y: float) -> tuple[int, int]:
    return round(y * _SIZE), round(x * _SIZE)


def test_ribs_cross_both_lungs() -> None:
    bones = skeleton(_CANVAS, _ANATOMY, scapulae_over_lungs=False)
    for side, lung in _ANATOMY.lungs.items():
        column = _pixel(float(lung.point(0.5, 0.5)[0]), 0)[1]
        profile = bones[_pixel(0, 0.2)[0] : _pixel(0, 0.68)[0], column]
        bright = profile > 0.5 * profile.max()
        assert 5 <= np.count_nonzero(np.diff(bright.astype(int)) == 1) <= 20, side


def test_bones_are_mirrored_in_a_straight_chest() -> None:
    bones = skeleton(_CANVAS, _ANATOMY, scapulae_over_lungs=False)
    left_of_middle, right_of_middle = bones[:, : _SIZE // 2], bones[:, _SIZE // 2 :][:, ::-1]
    assert np.corrcoef(left_of_middle.ravel(), right_of_middle.ravel())[0, 1] > 0.97


def test_scapulae_lie_over_the_lungs_in_ap_views_only() -> None:
    lungs = _CANVAS.fill(*[lung.outline for lung in _ANATOMY.lungs.values()])
    ap, pa = (skeleton(_CANVAS, _ANATOMY, scapulae_over_lungs=over) for over in (True, False))
    assert ((ap - pa) * lungs).sum() > 0.0005 * _SIZE**2


def test_vertebrae_alternate_with_discs() -> None:
    bones = skeleton(_CANVAS, _ANATOMY, scapulae_over_lungs=False)
    profile = bones[_pixel(0, 0.82)[0] :, _pixel(0.52, 0)[1]]
    assert profile.min() > 0.05
    assert np.ptp(profile) > 0.04


@pytest.mark.parametrize("side", ["right", "left"])
def test_vessels_thin_out_from_hilum_to_periphery(side: str) -> None:
    field = vessels(_CANVAS, _ANATOMY)
    lung = _ANATOMY.lungs[side]
    mask = _CANVAS.fill(lung.outline) > 0.5
    distance = np.sqrt(_CANVAS.squared_distance(lung.hilum))
    near, middle, far = (
        field[mask & (distance > low) & (distance < high)].mean()
        for low, high in ((0.0, 0.08), (0.08, 0.18), (0.18, 0.5))
    )
    assert near > 1.5 * middle > 1.5 * far > 0


def test_vessels_follow_the_patient_s_seed() -> None:
    field = vessels(_CANVAS, _ANATOMY)
    np.testing.assert_array_equal(field, vessels(_CANVAS, _ANATOMY))
    other = vessels(_CANVAS, dataclasses.replace(_ANATOMY, seed=_ANATOMY.seed + 1))
    assert np.abs(field - other).max() > 0.3


def test_body_leaves_air_beside_the_chest_and_above_the_shoulders() -> None:
    body = soft_tissue.body(_CANVAS, _ANATOMY)
    for outside in (_pixel(0.02, 0.7), _pixel(0.97, 0.7), _pixel(0.05, 0.02)):
        assert body[outside] < 0.05
    assert body[_pixel(0.5, 0.5)] == pytest.approx(_ANATOMY.tissue, rel=0.05)
    assert body[_pixel(0.5, 0.95)] > body[_pixel(0.5, 0.5)] + 0.3


def test_trachea_is_darker_than_the_mediastinum_below_it() -> None:
    mediastinum = soft_tissue.mediastinum(_CANVAS, _ANATOMY)
    assert mediastinum[_pixel(0.49, 0.15)] < -0.1
    assert mediastinum[_pixel(0.5, 0.55)] > 0.2


def test_a_larger_knob_bulges_to_the_left() -> None:
    small, large = (
        soft_tissue.mediastinum(_CANVAS, dataclasses.replace(_ANATOMY, aortic_knob=knob))
        for knob in (0.028, 0.055)
    )
    rows, columns = np.nonzero(large - small > 0.1)
    assert columns.mean() > 0.54 * _SIZE
    assert 0.2 < rows.mean() / _SIZE < 0.45


def test_breasts_are_two_and_over_the_lower_chest() -> None:
    shadow = soft_tissue.breasts(_CANVAS, _ANATOMY)
    assert 0.5 * _ANATOMY.breast < shadow.max() <= _ANATOMY.breast
    assert shadow[_pixel(0.5, 0.7)] < 0.3 * shadow.max()
    assert shadow[: _pixel(0, 0.45)[0]].max() < 0.05 * shadow.max()


def test_gas_bubble_is_below_the_left_dome() -> None:
    gas = soft_tissue.stomach_gas(_CANVAS, _ANATOMY)
    rows, columns = np.nonzero(gas > 0.5 * gas.max())
    assert columns.mean() > 0.5 * _SIZE
    x = columns.mean() / _SIZE
    assert rows.mean() / _SIZE > _ANATOMY.lungs["left"].dome_at(np.array([x]))[0]
