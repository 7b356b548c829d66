"""Radiographs as 8-bit grey NumPy arrays: decode, resize, pad to a square, encode.

Everything here runs on the host with OpenCV; augmentation runs on the accelerator.
"""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from jaxtyping import UInt8
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from medclip_jax.data import dicom
from medclip_jax.errors import UserError

_JPEG = b"\xff\xd8"
# Read by class and not by PIL.Image.open, which refuses very large images.
_HEADER_READERS = {_JPEG: JpegImageFile, b"\x89PNG": PngImageFile}
_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
}
GrayImage = UInt8[np.ndarray, "height width"]
ImageSource = str | Path | bytes | np.ndarray | PIL.Image.Image


def decode_gray(source: ImageSource, name: str = "encoded image") -> GrayImage:
    """The image as 8-bit grey; a DICOM file as `dicom.decode_dicom` shows it.

    Colour is turned into luminance and a JPEG's EXIF orientation is applied. Images of more than 8
    bits (16-bit PNG, TIFF) are stretched from their own smallest and largest value to 0 and 255:
    such files often use only 10 or 12 of the 16 bits, which a plain shift would turn black.

    Args:
        source: a path, the encoded bytes of an image file, a PIL image, or a uint8 array
            `[height, width]`, `[height, width, 1]` or `[height, width, 3]` (RGB).
        name: what to call encoded bytes in messages.

    Raises:
        UserError: the file is missing or is not a readable image, or the array is not uint8.
    """
    if isinstance(source, np.ndarray):
        return _gray_array(source)
    if isinstance(source, PIL.Image.Image):
        return _to_8_bit(np.asarray(source if source.mode.startswith("I") else source.convert("L")))
    if isinstance(source, bytes):
        return _decode_bytes(source, name)
    path = Path(source)
    try:
        return _decode_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def stored_size(encoded: bytes) -> tuple[int, int] | None:
    """(height, width) by the header of a JPEG or PNG file; None for others and for damaged ones."""
    for magic, reader in _HEADER_READERS.items():
        if encoded.startswith(magic):
            try:
                with reader(io.BytesIO(encoded)) as image:
                    return image.height, image.width
            except (OSError, SyntaxError, ValueError, struct.error):  # as Pillow says "damaged"
                return None
    return None


def decode_to_short_side(
    encoded: bytes, size: int, name: str = "encoded image"
) -> tuple[GrayImage, tuple[int, int]]:
    """The image with its shorter side scaled down to `size`, and the (height, width) that it had.

    As `decode_gray` and `resize_short_side` give it, by a shorter way where that is possible: a
    JPEG of more than four times the size is decoded at 1/2, 1/4 or 1/8, which averages over squares
    of pixels as area interpolation does. The result is within two grey levels.

    Raises:
        UserError: as `decode_gray`.
    """
    stored = stored_size(encoded) if encoded.startswith(_JPEG) else None
    for divisor, flag in _REDUCED.items():
        if stored and min(stored) >= 2 * divisor * size:
            image = _imdecode(encoded, flag, name)
            if (image.shape[0] > image.shape[1]) != (stored[0] > stored[1]):  # turned by EXIF
                stored = stored[::-1]
            return _resize_to(image, _scaled(stored, size / min(stored)), cv2.INTER_AREA), stored
    image = decode_gray(encoded, name)
    return resize_short_side(image, size), image.shape


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
    """The image with its shorter side scaled down to `size`; a smaller image stays as it is.

    Pixels are averages over areas.
    """
    return _resize_to(
        image, _scaled(image.shape, min(1.0, size / min(image.shape))), cv2.INTER_AREA
    )


def encode_jpeg(image: GrayImage, quality: int = 95) -> bytes:
    """The image as a baseline grey JPEG file."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _scaled(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    height, width = (max(1, round(side * scale)) for side in shape)
    return height, width


def _resize(image: GrayImage, scale: float) -> GrayImage:
    # Bilinear weights see two pixels a side: below half size they skip pixels, and fine structures
    # alias. Above it they do as well as averages over areas, in a tenth of the time.
    interpolation = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    return _resize_to(image, _scaled(image.shape, scale), interpolation)


def _resize_to(image: GrayImage, shape: tuple[int, int], interpolation: int) -> GrayImage:
    if shape == image.shape:
        return image
    return cv2.resize(image, shape[::-1], interpolation=interpolation)


def _decode_bytes(encoded: bytes, name: str) -> GrayImage:
    if dicom.is_dicom(encoded):
        return dicom.decode_dicom(encoded, name)
    return _to_8_bit(_imdecode(encoded, cv2.IMREAD_ANYDEPTH, name))


def _imdecode(encoded: bytes, flag: int, name: str) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag) if encoded else None
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"{name}: not a readable image (empty, damaged or of an unknown format)")
    return image


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
