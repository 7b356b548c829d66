"""Support devices: endotracheal tube, central venous line, pacemaker and nasogastric tube."""

import numpy as np

from medclip_jax.data.builders.synthetic_cxr.anatomy import (
    CARINA_Y,
    MILLIMETRES,
    Anatomy,
)
from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Field, Points, spline
from medclip_jax.data.builders.synthetic_cxr.findings import Finding, Layers

ENDOTRACHEAL_TUBE = "endotracheal tube"
CENTRAL_LINE = "central line"
PACEMAKER = "pacemaker"
NASOGASTRIC_TUBE = "nasogastric tube"
DEVICE_KINDS = (ENDOTRACHEAL_TUBE, CENTRAL_LINE, PACEMAKER, NASOGASTRIC_TUBE)


def draw_device(canvas: Canvas, anatomy: Anatomy, finding: Finding, layers: Layers) -> list[Field]:
    """Lays the device over the chest."""
    rng = np.random.default_rng(finding.seed)
    shadow = _DRAW[finding.kind](canvas, anatomy, finding, rng)
    layers.overlay += shadow
    return [shadow]


def _endotracheal_tube(
    canvas: Canvas, anatomy: Anatomy, finding: Finding, rng: np.random.Generator
) -> Field:
    """The tube's two walls, ending `size_mm` above the carina."""
    axis = anatomy.trachea
    tip = CARINA_Y - finding.size_mm * MILLIMETRES
    heights = np.linspace(-0.1, tip, 16)
    centre = np.stack([np.interp(heights, axis[:, 1], axis[:, 0]), heights], 1)
    walls = [centre + [-0.009, 0], centre + [0.009, 0]]
    return 0.5 * canvas.stroke((walls, 0.006, 1.0)) + 0.12 * canvas.stroke(([centre], 0.02, 1.0))


def _central_line(
    canvas: Canvas, anatomy: Anatomy, finding: Finding, rng: np.random.Generator
) -> Field:
    """From the subclavian vein of its side to the superior vena cava."""
    tip = (0.455 + rng.uniform(-0.006, 0.006), CARINA_Y + rng.uniform(0.02, 0.09))
    y = anatomy.apex_y
    if finding.side == "right":
        path = [(0.10, y + 0.20), (0.24, y + 0.06), (0.36, y + 0.05), (0.44, y + 0.09)]
    else:
        path = [(0.90, y + 0.20), (0.76, y + 0.06), (0.64, y + 0.05), (0.55, y + 0.075)]
        path += [(0.475, y + 0.11)]
    curve = spline([*path, (0.458, CARINA_Y - 0.03), tip], 40)
    return rng.uniform(0.4, 0.6) * canvas.stroke(([curve], 0.0075, 1.0))


def _pacemaker(
    canvas: Canvas, anatomy: Anatomy, finding: Finding, rng: np.random.Generator
) -> Field:
    """The generator below the clavicle of its side, and a lead to the right ventricle."""
    outward = -1.0 if finding.side == "right" else 1.0
    box = np.array(
        [0.5 + outward * rng.uniform(0.24, 0.28), anatomy.apex_y + rng.uniform(0.13, 0.17)]
    )
    angle = np.linspace(0, 2 * np.pi, 40)
    corner = np.stack([np.cos(angle), np.sin(angle)], 1)
    rounded = box + [0.042, 0.036] * np.sign(corner) * np.abs(corner) ** 0.5
    top = box + [0, -0.036]
    bottom = anatomy.base_y - 0.3 * anatomy.dome_height
    lead = [tuple(top), (0.5 + outward * 0.16, anatomy.apex_y + 0.055)]
    lead += [(0.5 + outward * 0.05, anatomy.apex_y + 0.085), (0.46, CARINA_Y)]
    lead += [(0.45, bottom - 0.13), (0.49, bottom - 0.035), (0.5 + 0.14, bottom - 0.04)]
    generator = canvas.fill(rounded)
    return 0.95 * generator + 0.55 * canvas.stroke(([spline(lead, 60)], 0.0065, 1.0)) * (
        1 - generator
    )


def _nasogastric_tube(
    canvas: Canvas, anatomy: Anatomy, finding: Finding, rng: np.random.Generator
) -> Field:
    """Down the oesophagus and to the left into the stomach."""
    end = anatomy.base_y + 0.02
    path: list[tuple[float, float]] = [(0.505, -0.1), (0.505, 0.2), (0.495, 0.4), (0.505, 0.6)]
    path += [(0.53, end - 0.06), (0.57, end), (0.62 + rng.uniform(0, 0.04), end + 0.045)]
    curve: Points = spline(path, 48)
    return rng.uniform(0.4, 0.6) * canvas.stroke(([curve], 0.0075, 1.0))


_DRAW = {
    ENDOTRACHEAL_TUBE: _endotracheal_tube,
    CENTRAL_LINE: _central_line,
    PACEMAKER: _pacemaker,
    NASOGASTRIC_TUBE: _nasogastric_tube,
}
