"""DICOM radiographs as 8-bit grey images, as a viewer would show them.

Only what is needed to show the pixels is read: no name, date or other header field ever leaves a
file. Standard: https://dicom.nema.org/medical/dicom/current/output/html/part03.html, C.7.6.3
(pixels), C.11.1 (modality), C.11.2 (values of interest).
"""

import io
import logging
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from medclip_jax.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

# Everything that `decode_dicom` looks at.
_KEYWORDS = (
    "SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns "
    "BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue "
    "PixelPaddingRangeLimit PixelIntensityRelationshipSign RescaleSlope RescaleIntercept "
    "RescaleType ModalityLUTSequence WindowCenter WindowWidth VOILUTFunction VOILUTSequence "
    "RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor "
    "BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData "
    "GreenPaletteColorLookupTableData BluePaletteColorLookupTableData PixelData"
).split()


def is_dicom(encoded: bytes) -> bool:
    """Whether a file begins as DICOM files do: 128 bytes of anything, then "DICM"."""
    return encoded[128:132] == b"DICM"


def decode_dicom(encoded: bytes, name: str) -> UInt8[np.ndarray, "height width"]:
    """The image in a DICOM file, brighter where less radiation came through.

    The values pass the modality's rescaling and the first window or table of values of interest,
    and are stretched from their smallest and largest to 0 and 255; MONOCHROME1 is inverted, and
    padding is black.

    Headers that contradict the pixels are met in practice. A window that makes all pixels equal is
    left out. Where MONOCHROME2 says that large values are bright, and the sign of the intensity
    relationship that they are air, the chest decides: the mediastinum is brighter than the lungs.

    Args:
        encoded: the file.
        name: what to call it in messages.

    Raises:
        UserError: the file is damaged, holds no image or several, or is compressed in a way that no
            installed decoder knows.
    """
    import pydicom

    # What it would print about a damaged file comes back in one line of ours.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about fields that we do not use
            header = pydicom.dcmread(io.BytesIO(encoded), specific_tags=list(_KEYWORDS))
            _check_single_image(header, name)
            return _shown(header)
    except UserError:
        raise
    except Exception as error:  # pydicom and its decoders raise whatever they meet
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: not a readable DICOM file ({reason})") from error


def _check_single_image(header: "Dataset", name: str) -> None:
    needed = ("PixelData", "Rows", "Columns", "PhotometricInterpretation")
    missing = ", ".join(keyword for keyword in needed if keyword not in header)
    if missing:
        raise UserError(f"{name}: a DICOM file without an image (no {missing})")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise UserError(f"{name}: {header.NumberOfFrames} frames; only single images can be read")


def _shown(header: "Dataset") -> UInt8[np.ndarray, "height width"]:
    pixels = _pixels(header)
    if pixels.ndim == 3:
        return _luminance(pixels)
    is_padding = _padding(header, pixels)
    values = _values_of_interest(header, pixels, ~is_padding)
    shown = values[~is_padding]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 0.0)
    scaled = np.clip((values - low) * (255.0 / max(high - low, 1e-9)), 0, 255)
    image = np.round(scaled).astype(np.uint8)
    if _is_negative(header, image):
        image = 255 - image
    return np.where(is_padding, 0, image).astype(np.uint8)


def _pixels(header: "Dataset") -> Shaped[np.ndarray, "..."]:
    """The stored values, `[height, width]`, or RGB `[height, width, 3]`."""
    from pydicom.pixels import pixel_array
    from pydicom.pixels.processing import apply_color_lut

    pixels = pixel_array(header)
    is_palette = header.PhotometricInterpretation == "PALETTE COLOR"
    return apply_color_lut(pixels, header) if is_palette else pixels


def _luminance(rgb: Shaped[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width"]:
    largest = 255.0 if rgb.dtype == np.uint8 else max(float(rgb.max()), 1.0)
    return cv2.cvtColor(np.round(rgb * (255.0 / largest)).astype(np.uint8), cv2.COLOR_RGB2GRAY)


def _padding(header: "Dataset", pixels: np.ndarray) -> Bool[np.ndarray, "height width"]:
    """Which pixels are padding: one stored value, or a range of them."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(pixels.shape, bool)
    last = header.get("PixelPaddingRangeLimit", first)
    low, high = sorted((int(first), int(last)))
    return (pixels >= low) & (pixels <= high)


def _values_of_interest(
    header: "Dataset",
    pixels: Shaped[np.ndarray, "height width"],
    counted: Bool[np.ndarray, "height width"],
) -> Float[np.ndarray, "height width"]:
    """The stored values rescaled, and through the window or table unless that leaves one value."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    values = apply_modality_lut(pixels, header)
    if _has_table(header) or _has_window(header):
        chosen = np.asarray(apply_voi_lut(values, header), np.float64)
        if counted.any() and np.ptp(chosen[counted]) > 0:
            return chosen
    return np.asarray(values, np.float64)


def _is_negative(header: "Dataset", image: UInt8[np.ndarray, "height width"]) -> bool:
    """Whether air is bright in the image."""
    if header.PhotometricInterpretation == "MONOCHROME1":
        return True
    if header.get("PixelIntensityRelationshipSign") != 1:
        return False
    mediastinum = _mean(image, (0.4, 0.9), (0.45, 0.55))
    lungs = _mean(image, (0.3, 0.6), (0.2, 0.38)) + _mean(image, (0.3, 0.6), (0.62, 0.8))
    return mediastinum < lungs / 2


def _mean(image: np.ndarray, rows: tuple[float, float], columns: tuple[float, float]) -> float:
    """The mean of a part of the image, given in fractions of its sides."""
    (top, bottom), (left, right) = (
        (int(side * first), math.ceil(side * last))
        for side, (first, last) in zip(image.shape, (rows, columns), strict=True)
    )
    return float(image[top:bottom, left:right].mean())


def _has_table(header: "Dataset") -> bool:
    # A table maps whole numbers, which rescaling by a fraction does not give.
    whole = float(header.get("RescaleSlope") or 1).is_integer()
    return bool(header.get("VOILUTSequence")) and whole


def _has_window(header: "Dataset") -> bool:
    return (
        _first(header.get("WindowCenter")) is not None
        and (_first(header.get("WindowWidth")) or 0) >= 1
    )


def _first(value: Any) -> float | None:
    """The first of several values, or the only one; None if there is none."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return float(values[0]) if values and values[0] not in (None, "") else None
