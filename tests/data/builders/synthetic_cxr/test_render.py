"""What can be measured on the pictures: tissues, findings against their absence, boxes."""

import dataclasses

import numpy as np
import pytest

from medclip_jax.data.builders.synthetic_cxr.anatomy import Anatomy, sample_anatomy
from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Pose
from medclip_jax.data.builders.synthetic_cxr.devices import DEVICE_KINDS
from medclip_jax.data.builders.synthetic_cxr.exposure import Acquisition, sample_acquisition
from medclip_jax.data.builders.synthetic_cxr.findings import (
    ATELECTASIS,
    CARDIOMEGALY,
    CONSOLIDATION,
    EDEMA,
    LUNG_LESION,
    PLEURAL_EFFUSION,
    PNEUMOTHORAX,
    SUPPORT_DEVICES,
    ZONES,
    Finding,
    heart_ratio,
)
from medclip_jax.data.builders.synthetic_cxr.patients import sample_visits
from medclip_jax.data.builders.synthetic_cxr.render import render

_SIZE = 128
_NEUTRAL = Acquisition(
    view="PA",
    pose=Pose(),
    centre=0.86,
    width=0.4,
    gamma=1.0,
    tilt=(0.0, 0.0),
    unsharpness=0.0015,
    noise=0.0,
    marker="",
    seed=0,
)
_VISIBLE = 8  # grey levels


def _anatomy(seed: int) -> Anatomy:
    return sample_anatomy(np.random.default_rng(seed))


def _change(
    finding: Finding, *, seed: int = 0, acquisition: Acquisition = _NEUTRAL, size: int = _SIZE
) -> np.ndarray:
    """Grey levels that the finding adds to the patient's image, signed."""
    anatomy = _anatomy(seed)
    with_it, _ = render(anatomy, acquisition, (finding,), size)
    without, _ = render(anatomy, acquisition, (), size)
    return with_it.astype(int) - without


def _centroid(weights: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(weights.shape)
    total = weights.sum()
    return (rows * weights).sum() / total, (columns * weights).sum() / total


def _grey_at(image: np.ndarray, canvas: Canvas, point: tuple[float, float]) -> float:
    x, y = canvas.fractions(np.array([point]))[0] * len(image)
    patch = image[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3]
    return float(np.median(patch))


@pytest.mark.parametrize("seed", range(12))
def test_air_is_dark_and_bone_is_bright(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anatomy = sample_anatomy(rng)
    acquisition = sample_acquisition(rng, "AP" if seed % 2 else "PA")
    image, _ = render(anatomy, acquisition, (), _SIZE)
    canvas = Canvas(_SIZE, acquisition.pose)
    lungs = [
        _grey_at(image, canvas, tuple(lung.point(0.75, v)))
        for lung in anatomy.lungs.values()
        for v in (0.3, 0.5, 0.7)
    ]
    spine = _grey_at(image, canvas, (float(anatomy.midline(0.6)), 0.6))
    abdomen = _grey_at(image, canvas, (0.35, anatomy.base_y + 0.04))
    heart = _grey_at(image, canvas, (0.56, anatomy.base_y - 0.18))
    assert max(lungs) < min(heart, abdomen, spine) - 10
    assert heart <= spine


def test_left_apex_of_the_heart_is_on_the_right_of_the_image() -> None:
    outline = _anatomy(0).heart(0.45)
    assert outline[:, 0].max() - 0.5 > 1.5 * (0.5 - outline[:, 0].min())


def test_right_diaphragm_stands_higher() -> None:
    lungs = _anatomy(0).lungs
    assert lungs["right"].dome[:, 1].min() < lungs["left"].dome[:, 1].min()
    assert lungs["right"].outline[:, 0].max() < 0.5 < lungs["left"].outline[:, 0].min()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("severity", [1, 2, 3])
def test_heart_is_wider_than_half_the_chest_with_cardiomegaly_only(
    seed: int, severity: int
) -> None:
    anatomy = _anatomy(seed)
    ratios = []
    for findings in ((), (Finding(CARDIOMEGALY, severity, seed=seed),)):
        outline = anatomy.heart(heart_ratio(anatomy, findings))
        chest = [lung.outline[:, 0] for lung in anatomy.lungs.values()]
        ratios.append(np.ptp(outline[:, 0]) / np.ptp(np.concatenate(chest)))
    assert ratios[0] < 0.5 < ratios[1]


def _cases() -> list[Finding]:
    unilateral = [
        Finding(label, 2, side=side, zone=zone, size_mm=20, seed=5)
        for label, zones in (
            (LUNG_LESION, ZONES),
            (CONSOLIDATION, ZONES),
            (ATELECTASIS, ZONES),
            (PNEUMOTHORAX, ("",)),
            (PLEURAL_EFFUSION, ("",)),
        )
        for side in ("right", "left")
        for zone in zones
    ]
    devices = [Finding(SUPPORT_DEVICES, 2, "left", kind=k, size_mm=40) for k in DEVICE_KINDS]
    return [*unilateral, *devices, Finding(CARDIOMEGALY, 1), Finding(EDEMA, 1, "bilateral")]


@pytest.mark.parametrize("finding", _cases(), ids=lambda f: f"{f.label}-{f.side}-{f.zone}{f.kind}")
def test_a_finding_can_be_seen_and_lies_on_its_side_and_in_its_zone(finding: Finding) -> None:
    change = np.abs(_change(finding, seed=3))
    assert (change >= _VISIBLE).sum() >= 20
    row, column = _centroid(change)
    if finding.side in ("right", "left") and finding.label != SUPPORT_DEVICES:
        assert (column < 0.46 * _SIZE) if finding.side == "right" else (column > 0.54 * _SIZE)
    if finding.zone:
        anatomy = _anatomy(3)
        thirds = (row / _SIZE - anatomy.apex_y) / (anatomy.base_y - anatomy.apex_y)
        low, high = {"upper": (0.1, 0.42), "mid": (0.3, 0.62), "lower": (0.5, 0.98)}[finding.zone]
        assert low < thirds < high


@pytest.mark.parametrize("side", ["right", "left", "bilateral"])
def test_effusion_whitens_the_base_and_rises_with_severity(side: str) -> None:
    changes = [_change(Finding(PLEURAL_EFFUSION, severity, side)) for severity in (1, 2, 3)]
    assert all(change.sum() > 0 and change.min() > -_VISIBLE for change in changes)
    tops = [np.flatnonzero((change > 25).any(1))[0] for change in changes]
    assert tops[0] > tops[1] + 4 > tops[2] + 8
    # The meniscus: the fluid reaches highest at the chest wall.
    anatomy, visible = _anatomy(0), changes[1] > 25
    for lung in (anatomy.lungs[s] for s in Finding("", 2, side).sides):
        middle, wall = (
            np.flatnonzero(visible[:, round(lung.point(u, 0.8)[0] * _SIZE)])[0] for u in (0.4, 0.92)
        )
        assert wall < middle


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_pneumothorax_is_a_dark_rim_without_vessels(severity: int) -> None:
    anatomy = dataclasses.replace(_anatomy(1), mottle=0.0, vascularity=0.28)
    findings = (Finding(PNEUMOTHORAX, severity, "left"),)
    images = {
        (ill, vascular): render(
            anatomy if vascular else dataclasses.replace(anatomy, vascularity=0.0),
            _NEUTRAL,
            findings if ill else (),
            256,
        )[0].astype(int)
        for ill in (False, True)
        for vascular in (False, True)
    }
    rim = images[True, False] < images[False, False] - 4
    lung = Canvas(256, Pose()).fill(anatomy.lungs["left"].outline) > 0.5
    assert (0.06, 0.15, 0.3)[severity - 1] < (rim & lung).sum() / lung.sum() < 0.8
    assert (rim & ~lung).sum() < 0.05 * rim.sum()
    vessels_well = np.abs(images[False, True] - images[False, False])[rim].mean()
    vessels_ill = np.abs(images[True, True] - images[True, False])[rim].mean()
    assert vessels_well > 1.5
    assert vessels_ill < 0.1 * vessels_well


@pytest.mark.parametrize("size_mm", [10, 20, 30])
def test_nodule_has_its_diameter(size_mm: int) -> None:
    finding = Finding(LUNG_LESION, 2, "right", "mid", size_mm=size_mm, seed=2)
    change = _change(finding, size=512)
    diameter = 2 * np.sqrt((change > change.max() / 2).sum() / np.pi) / 512 * 400
    assert diameter == pytest.approx(size_mm, rel=0.12, abs=1.0)


def test_edema_is_on_both_sides_and_densest_near_the_hila() -> None:
    change = _change(Finding(EDEMA, 3, "bilateral"))
    half = _SIZE // 2
    right, left = change[:, :half], change[:, half:]
    assert min(right.sum(), left.sum()) > 0.5 * max(right.sum(), left.sum()) > 0
    for side, part, origin in (("right", right, 0), ("left", left, half)):
        row, column = _centroid(np.clip(part, 0, None))
        hilum = _anatomy(0).lungs[side].hilum * _SIZE
        assert np.hypot(row - hilum[1], column + origin - hilum[0]) < 0.12 * _SIZE


def test_atelectasis_at_the_base_raises_the_diaphragm_of_its_side() -> None:
    anatomy = _anatomy(0)
    for severity in (1, 3):
        change = _change(Finding(ATELECTASIS, severity, "right", "lower"))
        x, dome = anatomy.lungs["right"].dome[len(anatomy.lungs["right"].dome) // 2]
        above = round((dome - 0.01) * _SIZE)
        assert change[above, round(x * _SIZE)] > 20


@pytest.mark.parametrize("patient", range(0, 60))
def test_boxes_hold_all_that_a_finding_changes(patient: int) -> None:
    for visit in sample_visits(7, patient):
        acquisition = dataclasses.replace(visit.acquisitions[0], noise=0.0)
        whole, marked = render(visit.anatomy, acquisition, visit.findings, _SIZE)
        for finding in visit.findings:
            others = tuple(f for f in visit.findings if f is not finding)
            without, _ = render(visit.anatomy, acquisition, others, _SIZE)
            change = np.abs(whole.astype(int) - without) >= _VISIBLE
            inside = np.zeros_like(change)
            for box in (m.box for m in marked if m.finding is finding):
                ymin, xmin, ymax, xmax = box
                assert 0 <= ymin < ymax <= 1 and 0 <= xmin < xmax <= 1
                rows = slice(int(ymin * _SIZE), int(np.ceil(ymax * _SIZE)))
                inside[rows, int(xmin * _SIZE) : int(np.ceil(xmax * _SIZE))] = True
            outside = np.argwhere(change & ~inside)
            assert not len(outside), (finding, outside)


def test_boxes_are_tight() -> None:
    anatomy = _anatomy(0)
    finding = Finding(LUNG_LESION, 2, "left", "mid", size_mm=20)
    _, marked = render(anatomy, _NEUTRAL, (finding,), 256)
    (ymin, xmin, ymax, xmax) = marked[0].box
    assert 20 / 400 < ymax - ymin < 20 / 400 + 0.035
    assert 20 / 400 < xmax - xmin < 20 / 400 + 0.035


def test_a_finding_in_both_lungs_has_two_boxes() -> None:
    _, marked = render(_anatomy(0), _NEUTRAL, (Finding(EDEMA, 2, "bilateral"),), _SIZE)
    right, left = sorted(m.box for m in sorted(marked, key=lambda m: m.box[1]))
    assert len(marked) == 2
    assert min(right[3], left[3]) < 0.5 < max(right[1], left[1])


def test_the_same_arguments_give_the_same_image_and_another_exposure_another_one() -> None:
    rng = np.random.default_rng(5)
    anatomy, acquisition = sample_anatomy(rng), sample_acquisition(rng, "AP")
    first, _ = render(anatomy, acquisition, (), _SIZE)
    again, _ = render(anatomy, acquisition, (), _SIZE)
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8 and first.shape == (_SIZE, _SIZE)
    other, _ = render(anatomy, sample_acquisition(rng, "AP"), (), _SIZE)
    assert np.abs(first.astype(int) - other).mean() > 3


def test_brightness_alone_does_not_tell_the_ill_from_the_well() -> None:
    visits = [visit for patient in range(150) for visit in sample_visits(11, patient)]
    brightness = np.array(
        [render(v.anatomy, v.acquisitions[0], v.findings, 64)[0].mean() for v in visits]
    )
    ill = np.array([bool(visit.findings) for visit in visits])
    pairs = np.sign(brightness[ill][:, None] - brightness[~ill])
    assert abs(pairs.mean()) / 2 < 0.15  # AUROC between 0.35 and 0.65
