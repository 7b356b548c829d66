"""A patient's chest: its measures and the outlines of heart and lungs that follow from them.

Lengths are in chest coordinates (see `canvas`); one unit is about 400 mm.
"""

import dataclasses
import functools

import numpy as np

from medclip_jax.data.builders.synthetic_cxr.canvas import Field, Points, spline

SIDES = ("right", "left")
MILLIMETRES = 1 / 400
CARINA_Y = 0.36


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """The measures of one patient's chest.

    Attributes:
        half_width: from the midline to the inner chest wall where the chest is widest.
        apex_y: height of the lung apices.
        base_y: height of the costophrenic angles; small when the lungs are poorly inflated.
        dome_height: rise of the diaphragm above the costophrenic angle.
        heart_ratio: the cardiothoracic ratio.
        aortic_knob: radius of the aortic arch's shadow.
        scoliosis: sideways deviation of the spine.
        tissue: attenuation of the chest wall.
        breast: attenuation of the breast shadows.
        rib_spacing: distance between neighbouring ribs.
        air: what the air in the lung takes from the chest wall's attenuation.
        vascularity: attenuation of the lung's vessels.
        mottle: attenuation of the lung's fine texture.
        seed: seed of what has no measure: vessels, mottle, bowel gas.
    """

    half_width: float
    apex_y: float
    base_y: float
    dome_height: float
    heart_ratio: float
    aortic_knob: float
    scoliosis: float
    tissue: float
    breast: float
    rib_spacing: float
    air: float
    vascularity: float
    mottle: float
    seed: int

    @property
    def low_volumes(self) -> bool:
        """Whether the lungs are poorly inflated."""
        return self.base_y < 0.74

    @property
    def tortuous_aorta(self) -> bool:
        """Whether the aortic knob is prominent."""
        return self.aortic_knob > 0.042

    @property
    def has_scoliosis(self) -> bool:
        """Whether the spine is visibly curved."""
        return abs(self.scoliosis) > 0.02

    def midline(self, y: Field | float) -> Field | float:
        """The spine's x at the height `y`."""
        return 0.5 + self.scoliosis * np.sin(np.pi * (y - 0.05) / 0.75)

    @property
    def trachea(self) -> Points:
        """The trachea's axis from the neck to the carina."""
        heights = np.linspace(-0.1, CARINA_Y, 16)
        bend = -0.012 - 0.3 * (self.aortic_knob - 0.03) - 0.3 * self.scoliosis
        return np.stack([0.5 + bend * np.clip((heights - 0.1) / 0.2, 0, 1), heights], 1)

    @functools.cached_property
    def lungs(self) -> dict[str, "Lung"]:
        """The outline of each lung, by side."""
        return {side: Lung.of(self, side) for side in SIDES}

    def heart(self, ratio: float) -> Points:
        """The heart's outline when its width is `ratio` of the chest's."""
        width = 2 * self.half_width * ratio
        right, left = 0.34 * width, 0.66 * width
        bottom = self.base_y - 0.3 * self.dome_height
        top = min(0.36, bottom - 0.75 * width)
        height = bottom - top
        controls = [
            (0.5 - 0.35 * right, top),
            (0.5 - 0.72 * right, top + 0.30 * height),
            (0.5 - 1.00 * right, top + 0.62 * height),
            (0.5 - 0.80 * right, top + 0.90 * height),
            (0.5 - 0.20 * right, bottom + 0.01),
            (0.5 + 0.55 * left, bottom + 0.02),
            (0.5 + 0.93 * left, bottom - 0.02),
            (0.5 + 1.00 * left, bottom - 0.16 * height),
            (0.5 + 0.80 * left, top + 0.48 * height),
            (0.5 + 0.48 * left, top + 0.20 * height),
            (0.5 + 0.30 * left, top),
        ]
        return spline(controls, 80)


@dataclasses.dataclass(frozen=True)
class Lung:
    """One lung's outline: its three borders and the whole polygon, all in chest coordinates."""

    side: str
    outline: Points
    lateral: Points
    dome: Points
    medial: Points

    @classmethod
    def of(cls, anatomy: Anatomy, side: str) -> "Lung":
        """The lung of this side; the right dome stands higher than the left."""
        sign = -1.0 if side == "right" else 1.0
        span, width = anatomy.base_y - anatomy.apex_y, anatomy.half_width
        rise = anatomy.dome_height * (1.0 if side == "right" else 0.78)
        base, top = anatomy.base_y, anatomy.apex_y

        def curve(points: list[tuple[float, float]], num_samples: int) -> Points:
            return spline([(0.5 + sign * width * u, y) for u, y in points], num_samples)

        lateral = [(0.24, top + 0.05 * span), (0.36, top), (0.54, top + 0.045 * span)]
        lateral += [(0.73, top + 0.16 * span), (0.87, top + 0.36 * span)]
        lateral += [(0.96, top + 0.65 * span), (1.0, top + 0.90 * span), (0.99, base)]
        dome = [(0.99, base), (0.90, base - 0.55 * rise), (0.74, base - 0.92 * rise)]
        dome += [(0.55, base - rise), (0.36, base - 0.82 * rise), (0.20, base - 0.45 * rise)]
        medial = [(0.20, base - 0.45 * rise), (0.17, top + 0.7 * span), (0.19, top + 0.5 * span)]
        medial += [(0.17, top + 0.3 * span), (0.17, top + 0.15 * span), (0.24, top + 0.05 * span)]
        borders = curve(lateral, 48), curve(dome, 32), curve(medial, 32)
        return cls(side, np.concatenate(borders), *borders)

    @property
    def cavity(self) -> Points:
        """The half of the chest above the costophrenic angle, as if the diaphragm were flat."""
        return np.concatenate([self.lateral, self.medial])

    @property
    def hilum(self) -> Points:
        """Where bronchus and vessels enter; the left hilum stands higher."""
        top, bottom = self.lateral[:, 1].min(), self.lateral[-1, 1]
        y = top + (0.50 if self.side == "right" else 0.46) * (bottom - top)
        medial, lateral = self.borders_at(y)
        return np.array([medial + 0.06 * (lateral - medial), y])

    def borders_at(self, y: Field | float) -> tuple[np.ndarray, np.ndarray]:
        """The medial and the lateral border's x at the height `y`."""
        lateral = self.lateral[np.argmin(self.lateral[:, 1]) :]
        medial = self.medial[::-1]
        return (
            np.interp(y, medial[:, 1], medial[:, 0]),
            np.interp(y, lateral[:, 1], lateral[:, 0]),
        )

    def dome_at(self, x: Field) -> Field:
        """The diaphragm's height y below each `x`."""
        order = np.argsort(self.dome[:, 0])
        return np.interp(x, self.dome[order, 0], self.dome[order, 1])

    def point(self, u: float, v: float) -> Points:
        """The point a fraction `u` from the medial to the lateral border, `v` from apex to dome."""
        top, middle = self.lateral[:, 1].min(), self.lateral[-1, 1]
        medial, lateral = self.borders_at(top + v * (middle - top))
        x = medial + u * (lateral - medial)
        return np.array([x, top + v * (float(self.dome_at(x)) - top)])


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """A random patient."""
    return Anatomy(
        half_width=rng.uniform(0.325, 0.375),
        apex_y=rng.uniform(0.13, 0.165),
        base_y=rng.uniform(0.78, 0.84),
        dome_height=rng.uniform(0.085, 0.12),
        heart_ratio=rng.uniform(0.41, 0.48),
        aortic_knob=rng.uniform(0.047, 0.056) if rng.random() < 0.2 else rng.uniform(0.026, 0.036),
        scoliosis=float(rng.choice([-1, 1]))
        * (rng.uniform(0.03, 0.05) if rng.random() < 0.12 else rng.uniform(0, 0.008)),
        tissue=rng.uniform(0.9, 1.3),
        breast=rng.uniform(0.08, 0.22) if rng.random() < 0.45 else 0.0,
        rib_spacing=rng.uniform(0.062, 0.070),
        air=rng.uniform(0.68, 0.90),
        vascularity=rng.uniform(0.13, 0.28),
        mottle=rng.uniform(0.008, 0.030),
        seed=int(rng.integers(2**31)),
    )
