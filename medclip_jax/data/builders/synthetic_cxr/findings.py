"""The findings: what they are, and how each changes the chest it is found in.

A finding takes air out of the lung (`Layers.aeration`), hides or spares vessels, or lays something
over the chest (`Layers.overlay`). Every drawing function returns the regions that it changed, one
for each place, from which the boxes are taken.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from medclip_jax.data.builders.synthetic_cxr.anatomy import (
    MILLIMETRES,
    SIDES,
    Anatomy,
    Lung,
)
from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Field, Points, sigmoid, spline
from medclip_jax.data.builders.synthetic_cxr.soft_tissue import missing_abdomen

NO_FINDING = "No Finding"
CARDIOMEGALY = "Cardiomegaly"
LUNG_LESION = "Lung Lesion"
EDEMA = "Edema"
CONSOLIDATION = "Consolidation"
ATELECTASIS = "Atelectasis"
PNEUMOTHORAX = "Pneumothorax"
PLEURAL_EFFUSION = "Pleural Effusion"
SUPPORT_DEVICES = "Support Devices"

LABEL_NAMES = (
    NO_FINDING,
    CARDIOMEGALY,
    LUNG_LESION,
    EDEMA,
    CONSOLIDATION,
    ATELECTASIS,
    PNEUMOTHORAX,
    PLEURAL_EFFUSION,
    SUPPORT_DEVICES,
)
ZONES = ("upper", "mid", "lower")
_ZONE_HEIGHTS = {"upper": (0.22, 0.34), "mid": (0.45, 0.58), "lower": (0.68, 0.84)}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One finding of a study.

    Attributes:
        label: its name, one of `LABEL_NAMES`.
        severity: 1 mild or small, 2 moderate, 3 severe or large.
        side: "right", "left", "bilateral", or "" where a side makes no sense.
        zone: "upper", "mid", "lower", or "".
        kind: the device, for a support device.
        size_mm: a nodule's diameter, or the distance of an endotracheal tube's tip to the carina.
        seed: fixes the exact place and form, which stay the same from study to study.
    """

    label: str
    severity: int
    side: str = ""
    zone: str = ""
    kind: str = ""
    size_mm: int = 0
    seed: int = 0

    @property
    def sides(self) -> tuple[str, ...]:
        """The lungs that it concerns."""
        return SIDES if self.side == "bilateral" else (self.side,)


@dataclasses.dataclass
class Layers:
    """What a finding may change on one image.

    Attributes:
        lungs: each lung's coverage, 0 to 1, by side (not to be changed).
        aeration: the share of the normal air.
        vessel_visibility: how well the vessels can be seen.
        overlay: attenuation in front of or behind the chest.
    """

    lungs: dict[str, Field]
    aeration: Field
    vessel_visibility: Field
    overlay: Field


def heart_ratio(anatomy: Anatomy, findings: tuple[Finding, ...]) -> float:
    """The cardiothoracic ratio, above 0.5 with cardiomegaly."""
    for finding in findings:
        if finding.label == CARDIOMEGALY:
            jitter = np.random.default_rng(finding.seed).uniform(0.0, 0.02)
            return (0.53, 0.58, 0.64)[finding.severity - 1] + jitter
    return anatomy.heart_ratio


def draw_effusion(
    canvas: Canvas, anatomy: Anatomy, finding: Finding, layers: Layers
) -> list[Field]:
    """Fluid with a meniscus that climbs the chest wall and blunts the costophrenic angle."""
    rng = np.random.default_rng(finding.seed)
    regions = []
    for side in finding.sides:
        lung = anatomy.lungs[side]
        height = (0.085, 0.18, 0.31)[finding.severity - 1] * rng.uniform(0.9, 1.15)
        level = anatomy.base_y - height
        _, wall = lung.borders_at(level)
        x = np.linspace(0.5, float(wall) + np.sign(wall - 0.5) * 0.06, 32)
        climb = np.exp(-np.abs(x - wall) / (0.22 * anatomy.half_width))
        surface = np.stack([x, level - (0.045 + 0.12 * height) * climb], 1)
        corners = np.array([[surface[-1, 0], 1.2], [0.5, 1.2]])
        fluid = canvas.fill(np.concatenate([surface, corners]))
        fluid = canvas.blur(fluid, 0.008) * canvas.fill(lung.cavity)
        layers.aeration *= 1 - fluid
        layers.vessel_visibility *= 1 - fluid
        layers.overlay += 0.5 * missing_abdomen(canvas, anatomy) * fluid
        regions.append(fluid)
    return regions


def draw_pneumothorax(
    canvas: Canvas, anatomy: Anatomy, finding: Finding, layers: Layers
) -> list[Field]:
    """A dark rim without vessels outside a thin pleural line; the lung behind it has shrunk."""
    rng = np.random.default_rng(finding.seed)
    lung, mask = anatomy.lungs[finding.side], layers.lungs[finding.side]
    across = (0.86, 0.72, 0.54)[finding.severity - 1] + rng.uniform(-0.03, 0.03)
    down = (0.83, 0.76, 0.66)[finding.severity - 1] + rng.uniform(-0.03, 0.03)
    anchor = np.array([lung.hilum[0], anatomy.base_y - 0.5 * anatomy.dome_height])
    shrunk = anchor + (lung.outline - anchor) * [across, down]
    edge = shrunk[: len(lung.lateral)]
    collapsed = canvas.fill(shrunk)
    free = canvas.blur((1 - collapsed) * mask, 0.002)
    layers.aeration *= 1 + 0.25 * free
    if finding.severity > 1:
        layers.aeration *= 1 - 0.14 * (finding.severity - 1) * collapsed * mask
    layers.vessel_visibility *= 1 - free
    line = canvas.stroke(([edge], 0.006, 1.0)) * mask
    layers.overlay += 0.20 * line
    return [mask if finding.severity > 1 else np.maximum(free, line)]


def draw_consolidation(
    canvas: Canvas, anatomy: Anatomy, finding: Finding, layers: Layers
) -> list[Field]:
    """A fluffy opacity in which the vessels vanish."""
    rng = np.random.default_rng(finding.seed)
    lung, mask = anatomy.lungs[finding.side], layers.lungs[finding.side]
    centre = _place(rng, lung, finding.zone)
    radius = (0.078, 0.105, 0.135)[finding.severity - 1]
    density = np.zeros_like(mask)
    for _ in range(5):
        offset = centre + rng.normal(0, 0.45 * radius, 2)
        density += 0.45 * np.exp(-canvas.squared_distance(offset) / (0.75 * radius) ** 2)
    texture = canvas.noise(finding.seed, 22) + 0.6 * canvas.noise(finding.seed + 1, 48)
    opacity = sigmoid((density + 0.2 * texture * (density > 0.05) - 0.62) / 0.14)
    opacity = mask * np.maximum(opacity - 0.02, 0)
    layers.aeration *= 1 - (0.74, 0.82, 0.90)[finding.severity - 1] * opacity
    layers.vessel_visibility *= 1 - 0.9 * opacity
    return [opacity]


def draw_edema(canvas: Canvas, anatomy: Anatomy, finding: Finding, layers: Layers) -> list[Field]:
    """Bat-wing haze around both hila, with thick and blurred vessels."""
    radius = (0.125, 0.150, 0.175)[finding.severity - 1]
    strength = (0.34, 0.52, 0.70)[finding.severity - 1]
    texture = 1 + 0.15 * canvas.noise(finding.seed, 40) + 0.15 * canvas.noise(finding.seed + 1, 16)
    regions = []
    for side in finding.sides:
        lung = anatomy.lungs[side]
        outward = -1.0 if side == "right" else 1.0
        centre = lung.hilum + np.array([outward * 0.055, 0.03])
        distance = canvas.squared_distance(centre, stretch_y=1.35) / radius**2
        haze = np.exp(-distance * np.sqrt(distance)) * layers.lungs[side]
        layers.aeration *= 1 - np.clip(strength * haze * texture, 0, 0.95)
        layers.vessel_visibility *= 1 + 0.2 * haze
        regions.append(haze)
    return regions


def draw_atelectasis(
    canvas: Canvas, anatomy: Anatomy, finding: Finding, layers: Layers
) -> list[Field]:
    """Plates across the zone; at the base the diaphragm is drawn up with the lost volume."""
    rng = np.random.default_rng(finding.seed)
    regions = []
    for side in finding.sides:
        lung, mask = anatomy.lungs[side], layers.lungs[side]
        plates = [_plate(rng, lung, finding) for _ in range(finding.severity)]
        width = 0.013 + 0.003 * finding.severity
        band = canvas.blur(canvas.stroke((plates, width, 1.0)), 0.003) * mask
        layers.overlay += (0.36 + 0.05 * finding.severity) * band
        region = band
        if finding.zone == "lower":
            raised = _raised_diaphragm(canvas, lung, 0.018 * finding.severity + 0.008)
            raised *= canvas.fill(lung.cavity)
            layers.aeration *= 1 - raised
            layers.overlay += 0.5 * missing_abdomen(canvas, anatomy) * raised
            region = np.maximum(band, raised)
        regions.append(region)
    return regions


def draw_nodule(canvas: Canvas, anatomy: Anatomy, finding: Finding, layers: Layers) -> list[Field]:
    """A round, well-defined opacity of `size_mm`."""
    rng = np.random.default_rng(finding.seed)
    lung, mask = anatomy.lungs[finding.side], layers.lungs[finding.side]
    centre = _place(rng, lung, finding.zone)
    radius = 0.5 * finding.size_mm * MILLIMETRES
    inside = 1.15 - canvas.squared_distance(centre) / radius**2
    ball = np.sqrt(np.clip(inside, 0, 1)) * mask
    layers.overlay += rng.uniform(0.60, 0.80) * ball
    return [ball]


def _place(rng: np.random.Generator, lung: Lung, zone: str) -> Points:
    """A point in the zone, clear of the mediastinum and the chest wall."""
    outward = rng.uniform(0.45, 0.72) if zone == "lower" else rng.uniform(0.38, 0.70)
    return lung.point(outward, rng.uniform(*_ZONE_HEIGHTS[zone]))


def _plate(rng: np.random.Generator, lung: Lung, finding: Finding) -> Points:
    outward = -1.0 if lung.side == "right" else 1.0
    low, high = _ZONE_HEIGHTS[finding.zone]
    # At the base the plates stay clear of the raised diaphragm.
    centre = lung.point(rng.uniform(0.45, 0.60), rng.uniform(low - 0.04, high - 0.06))
    half_length = rng.uniform(0.060, 0.080) + 0.008 * finding.severity
    slope = rng.uniform(-0.35, 0.25)
    along = np.linspace(-1, 1, 4)
    sag = rng.uniform(-0.010, 0.010) * (1 - along**2)
    x = centre[0] + outward * half_length * along
    return spline(np.stack([x, centre[1] + slope * half_length * along + sag], 1), 12)


def _raised_diaphragm(canvas: Canvas, lung: Lung, rise: float) -> Field:
    """The part of the lung that a dome raised by `rise` takes up."""
    height = rise * np.sin(np.linspace(0.25, 3.1, len(lung.dome))) ** 0.7
    arch = lung.dome - np.stack([np.zeros_like(height), height], 1)
    return canvas.blur(canvas.fill(np.concatenate([arch, lung.dome[::-1] + [0, 0.03]])), 0.002)


DRAW: dict[str, Callable[[Canvas, Anatomy, Finding, Layers], list[Field]]] = {
    LUNG_LESION: draw_nodule,
    EDEMA: draw_edema,
    CONSOLIDATION: draw_consolidation,
    ATELECTASIS: draw_atelectasis,
    PNEUMOTHORAX: draw_pneumothorax,
    PLEURAL_EFFUSION: draw_effusion,
}
