"""The branching vessels of the lungs, which give them their texture."""

import numpy as np

from medclip_jax.data.builders.synthetic_cxr.anatomy import Anatomy, Lung
from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Field, Points

_LEVELS = 6
_STEPS = 5
_TRUNKS = 9


def vessels(canvas: Canvas, anatomy: Anatomy) -> Field:
    """Attenuation of the vessels and hila of both lungs, 0 to 1, not yet cut to the lungs."""
    trees = [
        _tree(np.random.default_rng([anatomy.seed, 2, index]), lung)
        for index, lung in enumerate(anatomy.lungs.values())
    ]
    strokes = [
        (np.concatenate(branches), 0.013 * 0.66**level, 0.8**level)
        for level, branches in enumerate(zip(*trees, strict=True))
    ]
    hila = canvas.fill(*[_hilum(lung) for lung in anatomy.lungs.values()])
    return canvas.blur(canvas.stroke(*reversed(strokes)), 0.0015) + 0.5 * canvas.blur(hila, 0.012)


def _tree(rng: np.random.Generator, lung: Lung) -> list[np.ndarray]:
    """For each level the branches' curves, `[branches, steps, 2]`."""
    sign = -1.0 if lung.side == "right" else 1.0
    angle = np.linspace(-1.25, 1.35, _TRUNKS) + rng.normal(0, 0.08, _TRUNKS)
    start = np.repeat(lung.hilum[None], _TRUNKS, 0) + rng.normal(0, 0.01, (_TRUNKS, 2))
    length = rng.uniform(0.06, 0.09, _TRUNKS)
    levels = []
    for _ in range(_LEVELS):
        bend = rng.normal(0, 0.16, (len(angle), _STEPS)).cumsum(1)
        heading = angle[:, None] + bend
        step = np.stack([sign * np.cos(heading), np.sin(heading)], -1)
        curve = start[:, None] + (step * (length / _STEPS)[:, None, None]).cumsum(1)
        levels.append(np.concatenate([start[:, None], curve], 1))
        spread = rng.uniform(0.15, 0.55, len(angle))
        angle = np.concatenate([heading[:, -1] - spread, heading[:, -1] + 0.7 * spread])
        start = np.tile(curve[:, -1], (2, 1))
        length = np.tile(length, 2) * rng.uniform(0.62, 0.95, 2 * len(length))
    return levels


def _hilum(lung: Lung) -> Points:
    angle = np.linspace(0, 2 * np.pi, 24)
    return lung.hilum + np.stack([0.026 * np.cos(angle), 0.05 * np.sin(angle)], 1)
