"""What fills masked pixels without having learned anything: their mean, or inpainting.

Both see exactly what the model sees, the visible pixels of one image.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from jaxtyping import Bool, Float

INPAINTING_RADIUS = 3.0  # pixels around a point that its value is made of; OpenCV's own example


def visible_mean(
    views: Float[np.ndarray, "images size size"], is_masked: Bool[np.ndarray, "images size size"]
) -> Float[np.ndarray, "images size size"]:
    """The views with the mean of an image's visible pixels where `is_masked` is true."""
    means = views.mean(axis=(1, 2), where=~is_masked, keepdims=True)
    return np.where(is_masked, means, views)


def inpainting(
    views: Float[np.ndarray, "images size size"], is_masked: Bool[np.ndarray, "images size size"]
) -> Float[np.ndarray, "images size size"]:
    """The views with the masked pixels inpainted by OpenCV, from images of 8 bits.

    The method is Telea's fast marching (Journal of Graphics Tools 9(1), 2004), with a radius of
    `INPAINTING_RADIUS`.
    """

    def inpaint(
        view: Float[np.ndarray, "size size"], mask: Bool[np.ndarray, "size size"]
    ) -> np.ndarray:
        pixels = np.round(view * 255).clip(0, 255).astype(np.uint8)
        return cv2.inpaint(pixels, mask.astype(np.uint8), INPAINTING_RADIUS, cv2.INPAINT_TELEA)

    with ThreadPoolExecutor() as pool:  # OpenCV releases the interpreter's lock
        filled = np.stack(list(pool.map(inpaint, views, is_masked)))
    return np.where(is_masked, filled.astype(np.float32) / 255, views)
