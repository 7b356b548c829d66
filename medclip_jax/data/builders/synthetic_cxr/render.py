"""Renders one frontal image of a chest with its findings, and each finding's boxes."""

import dataclasses

import numpy as np

from medclip_jax.data.builders.synthetic_cxr import soft_tissue
from medclip_jax.data.builders.synthetic_cxr.anatomy import Anatomy
from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Field
from medclip_jax.data.builders.synthetic_cxr.devices import draw_device
from medclip_jax.data.builders.synthetic_cxr.exposure import Acquisition, expose
from medclip_jax.data.builders.synthetic_cxr.findings import (
    CARDIOMEGALY,
    DRAW,
    SUPPORT_DEVICES,
    Finding,
    Layers,
    heart_ratio,
)
from medclip_jax.data.builders.synthetic_cxr.skeleton import skeleton
from medclip_jax.data.builders.synthetic_cxr.vessels import vessels

_HEART = 0.31
_HEART_MAGNIFICATION = {"PA": 1.0, "AP": 1.04}
_BOX_MARGIN = 0.008


@dataclasses.dataclass(frozen=True)
class Marked:
    """A finding's place on an image: (ymin, xmin, ymax, xmax) as fractions of the side."""

    finding: Finding
    box: tuple[float, float, float, float]


def render(
    anatomy: Anatomy, acquisition: Acquisition, findings: tuple[Finding, ...], size: int
) -> tuple[np.ndarray, list[Marked]]:
    """Takes one image.

    Args:
        anatomy: the patient.
        acquisition: how the image is taken.
        findings: what the patient has.
        size: side in pixels.

    Returns:
        The image, uint8 `[size, size]`, and the boxes of all findings; a finding in both lungs has
        two. With the same arguments the image is the same, and a finding left out changes nothing
        outside its boxes.
    """
    canvas = Canvas(size, acquisition.pose)
    lungs = {side: canvas.fill(lung.outline) for side, lung in anatomy.lungs.items()}
    ratio = heart_ratio(anatomy, findings) * _HEART_MAGNIFICATION[acquisition.view]
    heart = soft_tissue.heart_shadow(canvas, anatomy.heart(ratio))
    empty = np.zeros((size, size), np.float32)
    layers = Layers(lungs, empty + 1, empty + 1, empty)
    marked = [
        Marked(finding, box)
        for finding in findings
        for region in _draw(canvas, anatomy, finding, layers, heart)
        if (box := _bounding_box(region)) is not None
    ]
    attenuation = _attenuation(canvas, anatomy, acquisition, layers, heart)
    return expose(canvas, attenuation, acquisition), marked


def _draw(
    canvas: Canvas, anatomy: Anatomy, finding: Finding, layers: Layers, heart: Field
) -> list[Field]:
    if finding.label == CARDIOMEGALY:
        return [heart]
    if finding.label == SUPPORT_DEVICES:
        return draw_device(canvas, anatomy, finding, layers)
    return DRAW[finding.label](canvas, anatomy, finding, layers)


def _attenuation(
    canvas: Canvas, anatomy: Anatomy, acquisition: Acquisition, layers: Layers, heart: Field
) -> Field:
    """What the beam meets on its way to each pixel."""
    lungs = layers.lungs["right"] + layers.lungs["left"]
    depth = lungs * (0.55 + 0.45 * np.tanh(canvas.depth(lungs) / 0.06)) * (1 - 0.55 * heart)
    depth = canvas.blur(depth, 0.0035)
    mottle = canvas.noise(anatomy.seed, 30) + canvas.noise(anatomy.seed + 1, 9)
    texture = anatomy.vascularity * vessels(canvas, anatomy) * layers.vessel_visibility
    texture += anatomy.mottle * mottle
    total = (
        soft_tissue.body(canvas, anatomy)
        + soft_tissue.mediastinum(canvas, anatomy)
        + _HEART * heart
    )
    total += skeleton(canvas, anatomy, scapulae_over_lungs=acquisition.view == "AP")
    total += depth * (texture - anatomy.air * np.sqrt(anatomy.tissue) * layers.aeration)
    if anatomy.breast:
        total += soft_tissue.breasts(canvas, anatomy)
    return total - soft_tissue.stomach_gas(canvas, anatomy) + layers.overlay


def _bounding_box(region: Field) -> tuple[float, float, float, float] | None:
    """The box around all that is visibly changed, or None if nothing of it is on the image."""
    changed = region > 0.04
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    if not len(rows):
        return None
    size = len(region)
    low = np.array([rows[0], columns[0]]) / size - _BOX_MARGIN
    high = np.array([rows[-1] + 1, columns[-1] + 1]) / size + _BOX_MARGIN
    ymin, xmin = np.clip(low, 0, 1)
    ymax, xmax = np.clip(high, 0, 1)
    return float(ymin), float(xmin), float(ymax), float(xmax)
