"""The soft tissues and gas of the chest as they attenuate the beam."""

import numpy as np

from medclip_jax.data.builders.synthetic_cxr.anatomy import Anatomy
from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Field, Points, sigmoid, spline

_ABDOMEN = 0.35


def body(canvas: Canvas, anatomy: Anatomy) -> Field:
    """Attenuation of the chest wall, shoulders, neck and abdomen, without bones and lungs."""
    chest = anatomy.half_width + 0.055 + 0.03 * anatomy.tissue
    half = [(0.62, -0.3), (0.62, -0.02), (0.67, 0.06), (0.82, 0.09), (0.97, 0.13)]
    half += [(1.06, 0.24), (1.04, 0.36), (0.5 + chest + 0.03, 0.47), (0.5 + chest, 0.62)]
    half += [(0.5 + chest - 0.01, 0.85), (0.5 + chest, 1.3)]
    right_half = spline(half, 60)
    outline = np.concatenate([right_half, right_half[::-1] * [-1, 1] + [1, 0]])
    mask = canvas.fill(outline)
    thickness = 1 - np.exp(-canvas.depth(mask) / 0.045)
    outlined = canvas.blur(mask * thickness, 0.006)
    return outlined * (anatomy.tissue + _ABDOMEN - missing_abdomen(canvas, anatomy))


def missing_abdomen(canvas: Canvas, anatomy: Anatomy) -> Field:
    """How much less than the abdomen the chest wall attenuates, at each height."""
    return _ABDOMEN * sigmoid((anatomy.base_y - 0.05 - canvas.y) / 0.04)


def breasts(canvas: Canvas, anatomy: Anatomy) -> Field:
    """The two breast shadows."""
    outlines = []
    for sign in (-1, 1):
        centre = (0.5 + sign * 0.60 * anatomy.half_width, anatomy.base_y - 0.10)
        angle = np.linspace(0, 2 * np.pi, 40)
        outlines.append(
            np.stack([centre[0] + 0.15 * np.cos(angle), centre[1] + 0.16 * np.sin(angle)], 1)
        )
    mask = canvas.fill(*outlines)
    return anatomy.breast * canvas.blur(
        mask * np.clip((canvas.y - anatomy.base_y + 0.30) / 0.3, 0, 1), 0.02
    )


def mediastinum(canvas: Canvas, anatomy: Anatomy) -> Field:
    """The great vessels with the aortic knob, less the air of the trachea and main bronchi."""
    knob = anatomy.aortic_knob
    column = spline([(0.445, 0.10), (0.45, 0.25), (0.44, 0.38), (0.43, 0.55), (0.45, 0.80)], 24)
    left = spline([(0.55, 0.80), (0.57, 0.55), (0.575, 0.42), (0.55, 0.30), (0.55, 0.10)], 24)
    aorta = spline([(0.52, 0.30), (0.56, 0.40), (0.56, 0.60), (0.53, 0.85)], 24)
    angle = np.linspace(0, 2 * np.pi, 32)
    arch = np.stack([0.552 + knob * np.cos(angle), 0.29 + 1.15 * knob * np.sin(angle)], 1)
    shadow = 0.26 * canvas.fill(np.concatenate([column, left])) + 0.18 * canvas.fill(arch)
    shadow += 0.10 * canvas.stroke(([aorta], 0.055 + knob / 2, 1.0))
    fade = sigmoid((canvas.y - 0.17) / 0.03)
    return canvas.blur(shadow * fade, 0.006) - 0.22 * _airway(canvas, anatomy)


def _airway(canvas: Canvas, anatomy: Anatomy) -> Field:
    axis = anatomy.trachea
    carina = axis[-1]
    right = spline([carina, carina + [-0.03, 0.04], carina + [-0.07, 0.10]], 8)
    left = spline([carina, carina + [0.045, 0.045], carina + [0.10, 0.075]], 8)
    return canvas.blur(canvas.stroke(([right, left], 0.022, 0.6), ([axis], 0.04, 1.0)), 0.005)


def heart_shadow(canvas: Canvas, outline: Points) -> Field:
    """The heart's thickness, 0 to 1."""
    mask = canvas.fill(outline)
    return canvas.blur(mask * (0.72 + 0.28 * np.tanh(canvas.depth(mask) / 0.06)), 0.005)


def stomach_gas(canvas: Canvas, anatomy: Anatomy) -> Field:
    """The gas bubble below the left dome, 0 to 1."""
    rng = np.random.default_rng([anatomy.seed, 1])
    dome = anatomy.base_y - 0.78 * anatomy.dome_height
    centre = np.array(
        [0.5 + rng.uniform(0.30, 0.6) * anatomy.half_width, dome + rng.uniform(0.065, 0.09)]
    )
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = rng.uniform(0.03, 0.055) * (1 + 0.15 * np.sin(2 * angle + rng.uniform(0, 6)))
    outline = centre + np.stack([1.5 * radius * np.cos(angle), 0.7 * radius * np.sin(angle)], 1)
    return rng.uniform(0.15, 0.4) * canvas.blur(canvas.fill(outline), 0.008)
