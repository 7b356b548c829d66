"""Radiographs as 8-bit grey NumPy arrays: decode, resize, pad to a square, encode.

Everything here runs on the host with OpenCV; augmentation runs on the accelerator.
"""

import contextlib
import io
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
from jaxtyping import UInt8
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from medclip_jax.data.dicom import decode_dicom
from medclip_jax.data.dicom_header import is_dicom
from medclip_jax.data.grey_levels import shown_range, stretch
from medclip_jax.data.pil_images import load_turned
from medclip_jax.data.png import is_damaged_png
from medclip_jax.data.quiet import quiet_opencv
from medclip_jax.data.tiff import white_is_zero
from medclip_jax.errors import UserError

_JPEG = b"\xff\xd8"
# Read by class and not by PIL.Image.open, which refuses very large images.
_HEADER_READERS = {_JPEG: JpegImageFile, b"\x89PNG": PngImageFile}
_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
}
_MIN_RANGE = 3  # grey levels from darkest to brightest; with fewer there is nothing to see
GrayImage = UInt8[np.ndarray, "height width"]
ImageSource = str | os.PathLike[str] | bytes | np.ndarray | PIL.Image.Image


def as_image_list(images: Iterable[ImageSource]) -> Sequence[Any]:
    """The images as something that can be counted and cut.

    Raises:
        UserError: they are a single image, which would be taken apart into letters or rows.
    """
    is_one = isinstance(images, str | os.PathLike | bytes | PIL.Image.Image) or (
        isinstance(images, np.ndarray)
        and (images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3)))
    )
    if is_one or not isinstance(images, Iterable):
        raise UserError("images must be a list of images; put a single one into a list: [image]")
    return images if isinstance(images, Sequence) else list(images)


def decode_gray(source: ImageSource, name: str = "image") -> GrayImage:
    """The image as 8-bit grey; a DICOM file as `decode_dicom` shows it.

    Colour is turned into luminance and the EXIF orientation is applied. Images of more than 8 bits
    (16-bit PNG, TIFF, floats) are stretched from their own smallest and largest value to 0 and 255,
    but for strays (`grey_levels.shown_range`): such files often use only 10 or 12 of the 16 bits,
    which a plain shift would turn black. NaN is black. An 8-bit image stays as it is.
    Of 16-bit colour Pillow keeps 8 bits: it is read from files, but not from a PIL image.

    Args:
        source: a path, the encoded bytes of an image file, a PIL image, or a uint8 array
            `[height, width]`, `[height, width, 1]` or `[height, width, 3]` (RGB).
        name: what to call an image that is no path in messages.

    Raises:
        UserError: the file is missing or is not a readable image, or the array is not uint8.
    """
    if isinstance(source, np.ndarray):
        return _gray_array(source, name)
    if isinstance(source, PIL.Image.Image):
        return _gray_pil(source, name)
    if isinstance(source, bytes):
        return _decode_bytes(source, name)
    if not isinstance(source, str | os.PathLike):
        raise UserError(
            f"{name}: an image must be a path, the bytes of a file, a PIL image or a NumPy array, "
            f"not {type(source).__name__}"
        )
    path = Path(source)
    return _decode_bytes(read_file(path), str(path))


def read_file(path: Path) -> bytes:
    """What the file holds.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read ({reason})") from error


def check_not_blank(image: GrayImage, name: str) -> None:
    """Refuses an image that is one shade of grey, give or take a level.

    Raises:
        UserError: it is.
    """
    darkest, brightest = int(image.min()), int(image.max())
    if brightest - darkest < _MIN_RANGE:
        raise UserError(f"{name}: all pixels are equal or nearly so; there is nothing to see")


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
    if is_dicom(encoded):
        return decode_dicom(encoded, name)
    image = _imdecode(encoded, cv2.IMREAD_ANYDEPTH, name)
    if image.dtype == np.uint8:
        return image
    return _stretched(image, inverted=image.itemsize > 1 and white_is_zero(encoded))


def _imdecode(encoded: bytes, flag: int, name: str) -> np.ndarray:
    image = None
    if encoded and not is_damaged_png(encoded):
        with quiet_opencv, contextlib.suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag)
    if image is None:
        raise UserError(f"{name}: not a readable image (empty, damaged or of an unknown format)")
    return image


def _gray_pil(image: PIL.Image.Image, name: str) -> GrayImage:
    inverted = white_is_zero(image)  # asked before anything is done to it
    try:
        turned = load_turned(image, name)
        if turned.mode[0] in "IF":
            return _stretched(np.asarray(turned), inverted)
        if turned.mode in ("L", "1"):
            return np.array(turned.convert("L"))
        return cv2.cvtColor(np.asarray(turned.convert("RGB")), cv2.COLOR_RGB2GRAY)
    except UserError:
        raise
    except Exception as error:  # Pillow raises whatever it meets in a damaged or closed file
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: not a readable image ({reason})") from error


def _gray_array(image: np.ndarray, name: str) -> GrayImage:
    if image.dtype != np.uint8:
        raise UserError(
            f"{name}: an image array must be uint8 from 0 to 255, not {image.dtype}: give the "
            "file's path, or scale the array"
        )
    if image.size and image.ndim == 2:
        return np.ascontiguousarray(image)
    if image.size and image.ndim == 3 and image.shape[2] == 1:
        return np.ascontiguousarray(image[:, :, 0])
    if image.size and image.ndim == 3 and image.shape[2] == 3:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    raise UserError(
        f"{name}: an image array must be [height, width], [height, width, 1] or "
        f"[height, width, 3], not {list(image.shape)}"
    )


def _stretched(image: np.ndarray, inverted: bool) -> GrayImage:
    gray = stretch(image, shown_range(image))
    return 255 - gray if inverted else gray
