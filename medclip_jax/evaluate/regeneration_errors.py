"""How far regenerated pixels are from the true ones: L1, MSE, PSNR and SSIM of masked pixels only.

Pixels are grey from 0 to 1. What was visible counts for nothing but the surroundings that SSIM
looks at, and there it is always the true image.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from jaxtyping import Bool, Float

from medclip_jax.finite import require_finite

ERRORS = ("l1", "mse", "psnr", "ssim")
MAX_PSNR = 100.0  # dB; where black borders are regenerated exactly, it would be infinite
# Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE
# Transactions on Image Processing 13(4), 2004, section III.C.
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03


def masked_errors(
    views: Float[np.ndarray, "images size size"],
    regenerated: Float[np.ndarray, "images size size"],
    is_masked: Bool[np.ndarray, "images size size"],
) -> Float[np.ndarray, "images errors"]:
    """The `ERRORS` of each image over its masked pixels, of which it must have some.

    PSNR is that of the image's own MSE, with a peak of 1 and at most `MAX_PSNR`; SSIM is the mean
    of its map over the masked pixels.
    """
    require_finite(regenerated, "regenerated pixels")
    regenerated = np.where(is_masked, regenerated, views)
    difference = (regenerated - views).astype(np.float64)
    with ThreadPoolExecutor() as pool:  # OpenCV releases the interpreter's lock
        similarity = np.stack(list(pool.map(ssim_map, views, regenerated)))
    l1, mse, ssim = (
        np.mean(pixels, axis=(1, 2), where=is_masked)
        for pixels in (np.abs(difference), difference**2, similarity)
    )
    psnr = -10 * np.log10(np.maximum(mse, 10 ** (-MAX_PSNR / 10)))
    return np.stack([l1, mse, psnr, ssim], axis=1)


def ssim_map(
    first: Float[np.ndarray, "height width"], second: Float[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width"]:
    """Structural similarity at each pixel, in a Gaussian window of 11 x 11 pixels (sigma 1.5).

    Beyond its border an image is mirrored.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _K1**2) / (mean_x**2 + mean_y**2 + _K1**2)
    return luminance * (2 * covariance + _K2**2) / (variance_x + variance_y + _K2**2)


def _blur(image: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    size = (_WINDOW, _WINDOW)
    return cv2.GaussianBlur(image, size, sigmaX=_SIGMA, borderType=cv2.BORDER_REFLECT)
