"""A patient's measures and outlines against what anatomy books say."""

import dataclasses

import numpy as np
import pytest

from medclip_jax.data.builders.synthetic_cxr.anatomy import (
    CARINA_Y,
    MILLIMETRES,
    Anatomy,
    sample_anatomy,
)

_ANATOMIES = [sample_anatomy(np.random.default_rng(seed)) for seed in range(200)]


def _area(polygon: np.ndarray) -> float:
    """The shoelace formula."""
    x, y = polygon.T
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def test_sizes_are_those_of_adults() -> None:
    for anatomy in _ANATOMIES:
        assert 240 < 2 * anatomy.half_width / MILLIMETRES < 320
        assert 220 < (anatomy.base_y - anatomy.apex_y) / MILLIMETRES < 300
        assert 0.40 < anatomy.heart_ratio < 0.5


def test_lungs_reach_from_apex_to_costophrenic_angle_within_the_chest() -> None:
    for anatomy in _ANATOMIES:
        for side, lung in anatomy.lungs.items():
            assert lung.outline[:, 1].min() == pytest.approx(anatomy.apex_y, abs=0.01)
            assert lung.outline[:, 1].max() == pytest.approx(anatomy.base_y, abs=0.01)
            lateral = np.abs(lung.outline[:, 0] - 0.5).max()
            assert lateral == pytest.approx(anatomy.half_width, rel=0.02)
            assert (lung.outline[:, 0].mean() < 0.5) == (side == "right")


def test_the_two_lungs_are_mirrored_but_for_the_diaphragm() -> None:
    for anatomy in _ANATOMIES[:20]:
        right, left = anatomy.lungs["right"], anatomy.lungs["left"]
        np.testing.assert_allclose(right.lateral * [-1, 1] + [1, 0], left.lateral, atol=1e-9)
        assert _area(left.outline) > _area(right.outline)


@pytest.mark.parametrize("side", ["right", "left"])
def test_points_of_the_lung_lie_in_it_and_in_order(side: str) -> None:
    for anatomy in _ANATOMIES[:50]:
        lung = anatomy.lungs[side]
        for u in (0.1, 0.5, 0.9):
            heights = [lung.point(u, v)[1] for v in (0.1, 0.4, 0.7, 0.95)]
            assert heights == sorted(heights)
        for v in (0.15, 0.5, 0.9):
            distances = [abs(lung.point(u, v)[0] - 0.5) for u in (0.05, 0.5, 0.95)]
            assert distances == sorted(distances)
            medial, lateral = lung.borders_at(float(lung.point(0.5, v)[1]))
            low, high = sorted((float(medial), float(lateral)))
            assert low < lung.point(0.5, v)[0] < high


def test_left_hilum_stands_higher_and_both_below_the_carina() -> None:
    for anatomy in _ANATOMIES:
        right, left = (anatomy.lungs[side].hilum for side in ("right", "left"))
        assert CARINA_Y < left[1] < right[1]
        assert right[0] < 0.5 < left[0]


@pytest.mark.parametrize("ratio", [0.42, 0.5, 0.66])
def test_heart_has_the_cardiothoracic_ratio(ratio: float) -> None:
    for anatomy in _ANATOMIES[:50]:
        outline = anatomy.heart(ratio)
        width = np.ptp(outline[:, 0]) / (2 * anatomy.half_width)
        assert width == pytest.approx(ratio, rel=0.03)
        assert outline[:, 1].max() < anatomy.base_y + 0.03


def test_a_larger_heart_covers_the_smaller_one() -> None:
    for anatomy in _ANATOMIES[:20]:
        small, large = anatomy.heart(0.44), anatomy.heart(0.58)
        assert large[:, 0].min() < small[:, 0].min() and large[:, 0].max() > small[:, 0].max()
        assert large[:, 1].min() <= small[:, 1].min() + 1e-9
        assert _area(large) > 1.15 * _area(small)


def _with(**changes: float) -> Anatomy:
    return dataclasses.replace(_ANATOMIES[0], **changes)


def test_variants_are_told_from_the_measures() -> None:
    assert _with(base_y=0.70).low_volumes and not _with(base_y=0.80).low_volumes
    assert _with(aortic_knob=0.05).tortuous_aorta and not _with(aortic_knob=0.03).tortuous_aorta
    assert _with(scoliosis=-0.04).has_scoliosis and not _with(scoliosis=0.005).has_scoliosis


def test_variants_have_a_gap_between_normal_and_not() -> None:
    for measure, limit, gap in (("aortic_knob", 0.042, 0.004), ("scoliosis", 0.02, 0.008)):
        values = np.abs([getattr(anatomy, measure) for anatomy in _ANATOMIES])
        assert not ((values > limit - gap) & (values < limit + gap)).any()
        assert 0.05 < (values > limit).mean() < 0.3


def test_spine_of_scoliosis_is_convex_to_its_side() -> None:
    assert _with(scoliosis=0.04).midline(0.45) > 0.53
    assert _with(scoliosis=-0.04).midline(0.45) < 0.47
    assert _with(scoliosis=0.0).midline(0.45) == 0.5


def test_trachea_ends_at_the_carina_near_the_midline() -> None:
    for anatomy in _ANATOMIES:
        assert anatomy.trachea[-1, 1] == pytest.approx(CARINA_Y)
        assert np.abs(anatomy.trachea[:, 0] - 0.5).max() < 0.05
        assert (np.diff(anatomy.trachea[:, 1]) > 0).all()
