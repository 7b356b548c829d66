"""The bones of the chest: ribs, clavicles, scapulae, humeral heads and the spine."""

import numpy as np

from medclip_jax.data.builders.synthetic_cxr.anatomy import Anatomy, Lung
from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Field, Points, sigmoid, spline

_NUM_RIBS = 10


def skeleton(canvas: Canvas, anatomy: Anatomy, *, scapulae_over_lungs: bool) -> Field:
    """Attenuation of all bones; in an AP view the scapulae lie over the lungs."""
    return (
        _ribs(canvas, anatomy)
        + _clavicles(canvas, anatomy)
        + _shoulders(canvas, anatomy, -0.035 if scapulae_over_lungs else 0.075)
        + _spine(canvas, anatomy)
    )


def _ribs(canvas: Canvas, anatomy: Anatomy) -> Field:
    posterior, anterior = [], []
    for lung in anatomy.lungs.values():
        for rib in range(_NUM_RIBS):
            y = anatomy.apex_y - 0.005 + rib * anatomy.rib_spacing
            back, front = _rib(anatomy, lung, y, rib)
            posterior.append(back)
            if 1 <= rib <= 6:
                anterior.append(front)
    behind = _cortical(canvas, posterior, 0.021, 0.55)
    before = _cortical(canvas, anterior, 0.025, 0.6)
    fade = np.clip((np.abs(canvas.x - 0.5) / anatomy.half_width - 0.30) / 0.45, 0, 1)
    below = sigmoid((canvas.y - anatomy.base_y + 0.03) / 0.03)
    return canvas.blur((0.19 * behind + 0.12 * before * fade) * (1 - 0.7 * below), 0.0025)


def _rib(anatomy: Anatomy, lung: Lung, y: float, rib: int) -> tuple[Points, Points]:
    sign = -1.0 if lung.side == "right" else 1.0
    drop = 0.035 + 0.007 * rib
    _, lateral = lung.borders_at(y + drop)
    reach = abs(float(lateral) - 0.5) + 0.006
    root = float(anatomy.midline(y))
    back = [(root + sign * 0.03, y), (0.5 + sign * 0.42 * reach, y - 0.012)]
    back += [(0.5 + sign * 0.80 * reach, y + 0.35 * drop), (0.5 + sign * reach, y + drop)]
    bottom = y + drop + 0.02
    front = [(0.5 + sign * reach, y + drop), (0.5 + sign * 0.93 * reach, bottom + 0.030)]
    front += [
        (0.5 + sign * 0.65 * reach, bottom + 0.085),
        (0.5 + sign * 0.32 * reach, bottom + 0.10),
    ]
    return spline(back, 20), spline(front, 20)


def _cortical(canvas: Canvas, curves: list[Points], width: float, marrow: float) -> Field:
    """Bones as they project: bright cortical edges and a fainter middle."""
    return canvas.stroke((curves, width, 1.0), (curves, 0.62 * width, marrow))


def _clavicles(canvas: Canvas, anatomy: Anatomy) -> Field:
    y = anatomy.apex_y
    right = [(0.465, y + 0.065), (0.40, y + 0.035), (0.31, y + 0.03), (0.22, y - 0.005)]
    right += [(0.13, y - 0.02)]
    curve = spline(right, 24)
    return 0.22 * canvas.blur(_cortical(canvas, [curve, _mirror(curve)], 0.028, 0.7), 0.0025)


def _shoulders(canvas: Canvas, anatomy: Anatomy, offset: float) -> Field:
    """Humeral heads, and scapulae that stand `offset` lateral of the lungs."""
    x, y = 0.5 - anatomy.half_width * 0.86 - offset, anatomy.apex_y
    blade = spline([(x + 0.03, y + 0.03), (x + 0.035, y + 0.14), (x - 0.015, y + 0.29)], 12)
    outer = spline([(x - 0.03, y + 0.24), (x - 0.055, y + 0.10), (x - 0.09, y + 0.03)], 12)
    outline = np.concatenate([blade, outer])
    angle = np.linspace(0, 2 * np.pi, 24)
    head = np.stack([0.045 + 0.05 * np.cos(angle), y + 0.055 + 0.055 * np.sin(angle)], 1)
    filled = canvas.fill(outline, _mirror(outline))
    edges = canvas.stroke(([blade, _mirror(blade), outer, _mirror(outer)], 0.008, 1.0))
    heads = canvas.fill(head, _mirror(head))
    return canvas.blur(0.06 * filled + 0.10 * edges + 0.14 * heads, 0.004)


def _spine(canvas: Canvas, anatomy: Anatomy) -> Field:
    """Vertebral bodies, with the discs between them and a spinous process on each."""
    offset = canvas.x - anatomy.midline(canvas.y)
    phase = np.cos(2 * np.pi * canvas.y / 0.052)
    bodies = sigmoid((0.034 + 0.004 * phase - np.abs(offset)) / 0.005)
    process = np.exp(-((offset / 0.007) ** 2)) * np.clip(phase, 0, 1)
    return bodies * (0.14 + 0.035 * np.clip(phase + 0.5, -1, 1)) + 0.06 * process


def _mirror(points: Points) -> Points:
    return points * [-1, 1] + [1, 0]
