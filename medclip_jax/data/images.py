"""Radiographs as 8-bit grey NumPy arrays: decode, resize, pad to a square, encode.

Everything here runs on the host with OpenCV; augmentation runs on the accelerator.
"""

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from jaxtyping import UInt8

from medclip_jax.data import dicom
from medclip_jax.errors import UserError

GrayImage = UInt8[np.ndarray, "height width"]
ImageSource = str | Path | bytes | np.ndarray | PIL.Image.Image


def decode_gray(source: ImageSource) -> GrayImage:
    """The image as 8-bit grey; a DICOM file as `dicom.decode_dicom` shows it.

    Colour is turned into luminance and a JPEG's EXIF orientation is applied. Images of more than 8
    bits (16-bit PNG, TIFF) are stretched from their own smallest and largest value to 0 and 255:
    such files often use only 10 or 12 of the 16 bits, which a plain shift would turn black.

    Args:
        source: a path, the encoded bytes of an image file, a PIL image, or a uint8 array
            `[height, width]`, `[height, width, 1]` or `[height, width, 3]` (RGB).

    Raises:
        UserError: the file is missing or is not a readable image, or the array is not uint8.
    """
    if isinstance(source, np.ndarray):
        return _gray_array(source)
    if isinstance(source, PIL.Image.Image):
        return _to_8_bit(np.asarray(source if source.mode.startswith("I") else source.convert("L")))
    if isinstance(source, bytes):
        return _decode_bytes(source, "encoded image")
    path = Path(source)
    try:
        return _decode_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def fit_square(image: GrayImage, size: int) -> UInt8[np.ndarray, "{size} {size}"]:
    """The image scaled so that its longer side is `size`, centred on a black square canvas."""
    canvas = np.zeros((size, size), np.uint8)
    fit_into(canvas, image)
    return canvas


def fit_into(canvas: GrayImage, image: GrayImage) -> None:
    """Writes what `fit_square` returns into `canvas`, a square of zeros."""
    size = canvas.shape[0]
    image = _resize(image, size / max(image.shape))
    height, width = image.shape
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = image


def resize_short_side(image: GrayImage, size: int) -> GrayImage:
    """The image with its shorter side scaled down to `size`; a smaller image stays as it is."""
    return _resize(image, min(1.0, size / min(image.shape)))


def encode_jpeg(image: GrayImage, quality: int = 95) -> bytes:
    """The image as a baseline grey JPEG file."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _resize(image: GrayImage, scale: float) -> GrayImage:
    height, width = (max(1, round(side * scale)) for side in image.shape)
    if (height, width) == image.shape:
        return image
    # Bilinear weights see two pixels a side: below half size they skip pixels, and fine structures
    # alias. Above it they do as well as averages over areas, in a tenth of the time.
    interpolation = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)


def _decode_bytes(encoded: bytes, name: str) -> GrayImage:
    if dicom.is_dicom(encoded):
        return dicom.decode_dicom(encoded, name)
    buffer = np.frombuffer(encoded, np.uint8)
    try:
        image = cv2.imdecode(buffer, cv2.IMREAD_ANYDEPTH) if encoded else None
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"{name}: not a readable image (empty, damaged or of an unknown format)")
    return _to_8_bit(image)


def _gray_array(image: np.ndarray) -> GrayImage:
    if image.dtype != np.uint8:
        raise UserError(f"an image array must be uint8 from 0 to 255, not {image.dtype}")
    if image.size and image.ndim == 2:
        return image
    if image.size and image.ndim == 3 and image.shape[2] == 1:
        return image[:, :, 0]
    if image.size and image.ndim == 3 and image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    raise UserError(
        f"an image array must be [height, width], [height, width, 1] or [height, width, 3], "
        f"not {list(image.shape)}"
    )


def _to_8_bit(image: np.ndarray) -> GrayImage:
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    scaled = (image.astype(np.float32) - low) * (255.0 / max(high - low, 1e-9))
    return np.round(scaled).astype(np.uint8)
