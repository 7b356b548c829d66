"""Drawing in chest coordinates: the canvas maps them to pixels and holds the coordinate grids.

Chest coordinates are (x, y) with (0, 0) the upper left and (1, 1) the lower right corner of an
image taken without rotation, shift or magnification; x = 0.5 is the midline. As on every frontal
radiograph, the patient's right is on the image's left.
"""

import dataclasses
import functools
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float

Field = Float[np.ndarray, "size size"]
Points = Float[np.ndarray, "points 2"]
Curves = Sequence[Points] | Float[np.ndarray, "curves points 2"]

_SUPERSAMPLING = 2
_FRACTION_BITS = 4


@dataclasses.dataclass(frozen=True)
class Pose:
    """The patient's position: angle in degrees, shifts in fractions of the image's side."""

    angle: float = 0.0
    magnification: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0


@functools.lru_cache(maxsize=64)
def _spline_basis(num_controls: int, num_samples: int) -> np.ndarray:
    """The Catmull-Rom basis `[num_samples, num_controls]` of an open curve."""
    position = np.linspace(0, num_controls - 1, num_samples)
    segment = np.minimum(position.astype(int), num_controls - 2)
    t = position - segment
    weights = 0.5 * np.stack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], 1
    )
    basis = np.zeros((num_samples, num_controls))
    for offset in range(4):
        control = np.clip(segment + offset - 1, 0, num_controls - 1)
        np.add.at(basis, (np.arange(num_samples), control), weights[:, offset])
    return basis


def spline(controls: Sequence[tuple[float, float]] | Points, num_samples: int = 24) -> Points:
    """A smooth open curve through the control points, `[num_samples, 2]`."""
    points = np.asarray(controls, np.float64)
    return _spline_basis(len(points), num_samples) @ points


def sigmoid(field: Field) -> Field:
    """The logistic function, a smooth step from 0 to 1."""
    return 0.5 * (1 + np.tanh(0.5 * field))


class Canvas:
    """A square image in a pose: draws shapes given in chest coordinates.

    Attributes:
        size: side in pixels.
        x: chest coordinate x of each pixel's centre, float32 `[size, size]`.
        y: chest coordinate y of each pixel's centre, float32 `[size, size]`.
    """

    def __init__(self, size: int, pose: Pose) -> None:
        self.size = size
        self.scale = size * pose.magnification
        angle = np.deg2rad(pose.angle)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self._matrix = pose.magnification * rotation
        self._offset = 0.5 + np.array([pose.shift_x, pose.shift_y]) - self._matrix @ [0.5, 0.5]
        inverse = np.linalg.inv(self._matrix)
        centres = (np.arange(size) + 0.5) / size
        column, row = centres - self._offset[0], (centres - self._offset[1])[:, None]
        self.x = (inverse[0, 0] * column + inverse[0, 1] * row).astype(np.float32)
        self.y = (inverse[1, 0] * column + inverse[1, 1] * row).astype(np.float32)

    def fractions(self, points: Points) -> Points:
        """Chest coordinates as fractions (x, y) of this image's side."""
        return points @ self._matrix.T + self._offset

    def fill(self, *polygons: Points) -> Field:
        """The polygons' coverage, 0 to 1."""
        raster = self._raster()
        for polygon in polygons:
            cv2.fillPoly(raster, [self._fixed(polygon)], 255, cv2.LINE_AA, _FRACTION_BITS)
        return self._coverage(raster)

    def stroke(self, *strokes: tuple[Curves, float, float]) -> Field:
        """Lines given as (curves, width, strength); a later stroke covers an earlier one.

        The curves of one stroke have equally many points. A line thinner than the raster's pixel
        is drawn as faint as it is thin.
        """
        raster = self._raster()
        for curves, width, strength in strokes:
            thickness = width * self.scale * _SUPERSAMPLING
            value = 255 * strength * min(1.0, thickness)
            fixed = list(self._fixed(np.asarray(curves)))
            pixels = max(1, round(thickness))
            cv2.polylines(raster, fixed, False, value, pixels, cv2.LINE_AA, _FRACTION_BITS)
        return self._coverage(raster)

    def blur(self, field: Field, sigma: float) -> Field:
        """Gaussian blur with `sigma` in chest coordinates."""
        return cv2.GaussianBlur(field, (0, 0), sigma * self.scale)

    def squared_distance(self, centre: Points, *, stretch_y: float = 1.0) -> Field:
        """Each pixel's squared distance to the point, with y shrunk by `stretch_y`."""
        x, y = float(centre[0]), float(centre[1])
        return (self.x - x) ** 2 + ((self.y - y) / stretch_y) ** 2

    def depth(self, mask: Field) -> Field:
        """Each pixel's distance to the mask's edge, in chest coordinates; 0 outside."""
        inside = (mask > 0.5).astype(np.uint8)
        return cv2.distanceTransform(inside, cv2.DIST_L2, 5) / self.scale

    def noise(self, seed: int, cells: int) -> Field:
        """Smooth noise fixed to the chest: `cells` grid cells a side, mean 0, deviation about 1."""
        grid = np.random.default_rng(seed).standard_normal((cells + 3, cells + 3), np.float32)
        return cv2.remap(
            grid, self.x * cells + 1, self.y * cells + 1, cv2.INTER_CUBIC, None, cv2.BORDER_REFLECT
        )

    def _raster(self) -> np.ndarray:
        side = self.size * _SUPERSAMPLING
        return np.zeros((side, side), np.uint8)

    def _fixed(self, points: Points) -> np.ndarray:
        scale = self.size * _SUPERSAMPLING
        pixels = self.fractions(points) * scale - 0.5
        return np.round(pixels * (1 << _FRACTION_BITS)).astype(np.int32)

    def _coverage(self, raster: np.ndarray) -> Field:
        shrunk = cv2.resize(raster, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return shrunk.astype(np.float32) / 255
