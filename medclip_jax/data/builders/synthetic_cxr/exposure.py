"""From attenuation to grey values: exposure, contrast, unsharpness, noise and the side marker."""

import dataclasses

import cv2
import numpy as np

from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Field, Pose, sigmoid


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """How one image was taken.

    Attributes:
        view: "PA" (standing, away from the tube) or "AP" (portable).
        pose: the patient's position.
        centre: attenuation shown as middle grey.
        width: attenuation from middle grey to about three quarters of white; small is contrasty.
        gamma: exponent of the display curve.
        tilt: added attenuation from one side of the image to the other (heel effect), (x, y).
        unsharpness: Gaussian deviation of the blur in chest coordinates.
        noise: deviation of the noise, as a fraction of full white.
        marker: the side marker, "L", "R" or "".
        seed: seed of the noise and of the marker's place.
    """

    view: str
    pose: Pose
    centre: float
    width: float
    gamma: float
    tilt: tuple[float, float]
    unsharpness: float
    noise: float
    marker: str
    seed: int


def sample_acquisition(rng: np.random.Generator, view: str) -> Acquisition:
    """A random acquisition; AP images are less well centred, less sharp and noisier."""
    portable = view == "AP"
    spread = 1.0 if portable else 0.6
    pose = Pose(
        angle=rng.normal(0, 2.5 * spread),
        magnification=rng.uniform(0.86, 1.10),
        shift_x=rng.normal(0, 0.022 * spread),
        shift_y=rng.normal(0, 0.022 * spread),
    )
    return Acquisition(
        view=view,
        pose=pose,
        centre=rng.normal(0.86, 0.15),
        width=rng.uniform(0.30, 0.46),
        gamma=rng.uniform(0.8, 1.25),
        tilt=(rng.normal(0, 0.08), rng.normal(0, 0.08)),
        unsharpness=rng.uniform(0.0012, 0.0026) * (1.25 if portable else 1.0),
        noise=rng.uniform(0.006, 0.028) * (1.3 if portable else 1.0),
        marker=str(rng.choice(["L", "R", ""], p=[0.5, 0.25, 0.25])),
        seed=int(rng.integers(2**31)),
    )


def expose(canvas: Canvas, attenuation: Field, acquisition: Acquisition) -> np.ndarray:
    """The image of an attenuation, uint8 `[size, size]`; air is dark and bone bright."""
    tilt_x, tilt_y = acquisition.tilt
    total = attenuation * (1 + tilt_x * (canvas.x - 0.5) + tilt_y * (canvas.y - 0.5))
    total = canvas.blur(total, acquisition.unsharpness)
    grey = sigmoid((total - acquisition.centre) / acquisition.width)
    grey = grey**acquisition.gamma
    rng = np.random.default_rng([acquisition.seed, 1])
    noise = rng.standard_normal(grey.shape, np.float32) * acquisition.noise * canvas.size / 256
    image = np.clip(255 * (grey + noise), 0, 255).astype(np.uint8)
    _draw_marker(image, acquisition)
    return image


def _draw_marker(image: np.ndarray, acquisition: Acquisition) -> None:
    """Stamps the lead letter beside the shoulder of its side; it does not move with the patient."""
    if not acquisition.marker:
        return
    rng = np.random.default_rng([acquisition.seed, 2])
    size = len(image)
    x = rng.uniform(0.03, 0.10) + (0.83 if acquisition.marker == "L" else 0.0)
    origin = (round(x * size), round(rng.uniform(0.09, 0.14) * size))
    thickness = max(1, size // 128)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, acquisition.marker, origin, font, size / 512, 240, thickness)
