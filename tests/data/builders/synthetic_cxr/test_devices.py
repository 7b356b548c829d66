"""Where the devices run and end."""

import numpy as np
import pytest

from medclip_jax.data.builders.synthetic_cxr.anatomy import (
    CARINA_Y,
    MILLIMETRES,
    Anatomy,
    sample_anatomy,
)
from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Pose
from medclip_jax.data.builders.synthetic_cxr.devices import (
    CENTRAL_LINE,
    DEVICE_KINDS,
    ENDOTRACHEAL_TUBE,
    NASOGASTRIC_TUBE,
    PACEMAKER,
    draw_device,
)
from medclip_jax.data.builders.synthetic_cxr.findings import SUPPORT_DEVICES, Finding, Layers

_SIZE = 256


def _shadow(kind: str, *, side: str = "left", seed: int = 0, tip_mm: int = 40) -> np.ndarray:
    empty = np.zeros((_SIZE, _SIZE), np.float32)
    layers = Layers({}, empty + 1, empty + 1, empty)
    finding = Finding(SUPPORT_DEVICES, 2, side=side, kind=kind, size_mm=tip_mm, seed=seed)
    (shadow,) = draw_device(Canvas(_SIZE, Pose()), _anatomy(), finding, layers)
    np.testing.assert_array_equal(layers.overlay, shadow)
    assert (layers.aeration == 1).all() and (layers.vessel_visibility == 1).all()
    return shadow


def _anatomy() -> Anatomy:
    return sample_anatomy(np.random.default_rng(2))


def _extent(shadow: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(shadow > 0.15)
    return (
        rows.min() / _SIZE,
        columns.min() / _SIZE,
        (rows.max() + 1) / _SIZE,
        (columns.max() + 1) / _SIZE,
    )


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_devices_are_brighter_than_bone(kind: str) -> None:
    shadow = _shadow(kind)
    assert shadow.max() > 0.35
    assert 0.0005 < (shadow > 0.15).mean() < 0.03


@pytest.mark.parametrize("tip_mm", [20, 40, 59])
def test_endotracheal_tube_ends_above_the_carina_as_reported(tip_mm: int) -> None:
    ymin, xmin, ymax, xmax = _extent(_shadow(ENDOTRACHEAL_TUBE, tip_mm=tip_mm))
    assert (CARINA_Y - ymax) / MILLIMETRES == pytest.approx(tip_mm, abs=5)
    assert ymin == 0 and xmax - xmin < 0.06
    assert 0.45 < xmin < xmax < 0.55


@pytest.mark.parametrize("side", ["right", "left"])
def test_central_line_comes_from_its_side_and_ends_right_of_the_midline(side: str) -> None:
    shadow = _shadow(CENTRAL_LINE, side=side)
    ymin, xmin, ymax, xmax = _extent(shadow)
    assert (xmin < 0.2 and xmax < 0.5) if side == "right" else (xmax > 0.8)
    tip = np.flatnonzero(shadow[round(ymax * _SIZE) - 2] > 0.15).mean() / _SIZE
    assert 0.43 < tip < 0.48
    assert CARINA_Y < ymax < CARINA_Y + 0.12


@pytest.mark.parametrize("side", ["right", "left"])
def test_pacemaker_lies_below_the_clavicle_of_its_side(side: str) -> None:
    shadow = _shadow(PACEMAKER, side=side)
    rows, columns = np.nonzero(shadow > 0.8)
    assert (columns.mean() / _SIZE < 0.35) == (side == "right")
    assert 0.2 < rows.mean() / _SIZE < 0.4
    _, _, lead_end, _ = _extent(shadow)
    assert lead_end > 0.65


def test_nasogastric_tube_ends_left_below_the_diaphragm() -> None:
    anatomy = _anatomy()
    shadow = _shadow(NASOGASTRIC_TUBE)
    ymin, _, ymax, xmax = _extent(shadow)
    assert ymin == 0 and ymax > anatomy.base_y
    assert 0.58 < xmax < 0.72


def test_the_seed_moves_a_device() -> None:
    first, second = (_shadow(PACEMAKER, seed=seed) for seed in (0, 1))
    assert np.abs(first - second).max() > 0.3
