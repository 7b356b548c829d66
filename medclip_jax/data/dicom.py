"""DICOM radiographs as 8-bit grey images, as a viewer would show them.

Only what is needed to show the pixels is read: no name, date or other header field ever leaves a
file. Standard: https://dicom.nema.org/medical/dicom/current/output/html/part03.html, C.7.6.3
(pixels), C.11.1 (modality), C.11.2 (values of interest).
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from medclip_jax.data.dicom_header import read_header
from medclip_jax.data.grey_levels import shown_range, stretch
from medclip_jax.data.quiet import quiet_pydicom
from medclip_jax.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

_LEAST_INSIDE = 0.05  # of the pixels must be inside a window; under any other, nothing is seen


def decode_dicom(encoded: bytes, name: str) -> UInt8[np.ndarray, "height width"]:
    """The image in a DICOM file, brighter where less radiation came through.

    The values pass the modality's rescaling and the first table or window of values of interest,
    and are stretched from their smallest and largest, but for strays (`shown_range`), to 0 and 255;
    MONOCHROME1 is inverted, and padding is black.

    Headers that contradict the pixels are met in practice. A window, or a table, that leaves less
    than a twentieth of the pixels between black and white is passed over; `read_header` says what
    else counts as not given. Where MONOCHROME2 says that large values are bright, and the sign of
    the intensity relationship that they are air, the chest decides: the mediastinum is brighter
    than the lungs.

    Args:
        encoded: the file.
        name: what to call it in messages.

    Raises:
        UserError: the file is damaged, holds no image or several, or is compressed in a way that no
            installed decoder knows.
    """
    try:
        with quiet_pydicom:
            return _shown(read_header(encoded, name))
    except UserError:
        raise
    except Exception as error:  # pydicom and its decoders raise whatever they meet
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: not a readable DICOM file ({reason})") from error


def _shown(header: "Dataset") -> UInt8[np.ndarray, "height width"]:
    pixels = _pixels(header)
    if pixels.ndim == 3:
        return _luminance(pixels)
    is_padding = _padding(header, pixels)
    values = _values_of_interest(header, pixels, ~is_padding)
    image = stretch(values, shown_range(values[~is_padding]))
    if _is_negative(header, image):
        image = 255 - image
    return np.where(is_padding, 0, image).astype(np.uint8)


def _pixels(header: "Dataset") -> Shaped[np.ndarray, "..."]:
    """The stored values, `[height, width]`, or RGB `[height, width, 3]`."""
    from pydicom.pixels import pixel_array
    from pydicom.pixels.processing import apply_color_lut

    if header.PhotometricInterpretation == "PALETTE COLOR":
        return apply_color_lut(pixel_array(header), header)
    spare = header.get("HighBit", 0) + 1 - header.BitsStored
    if spare <= 0 or header.file_meta.TransferSyntaxUID.is_encapsulated:
        return pixel_array(header)
    # The value is in the upper bits of a cell, though pydicom reads the lower ones; unless the
    # header is wrong, and the upper ones hold nothing.
    num_bits = header.BitsStored
    header.BitsStored += spare
    cells = pixel_array(header)
    header.BitsStored = num_bits
    as_lower_bits = cells << spare >> spare
    return cells if np.array_equal(cells, as_lower_bits) else cells >> spare


def _luminance(rgb: Shaped[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width"]:
    largest = 255.0 if rgb.dtype == np.uint8 else max(float(rgb.max()), 1.0)
    return cv2.cvtColor(np.round(rgb * (255.0 / largest)).astype(np.uint8), cv2.COLOR_RGB2GRAY)


def _padding(header: "Dataset", pixels: np.ndarray) -> Bool[np.ndarray, "height width"]:
    """Which pixels are padding: one stored value, or a range; none where it would be all."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(pixels.shape, bool)
    last = header.get("PixelPaddingRangeLimit", first)
    low, high = sorted(_as_stored(header, value) for value in (first, last))
    is_padding = (pixels >= low) & (pixels <= high)
    return is_padding & ~is_padding.all()


def _as_stored(header: "Dataset", value: int) -> int:
    """The value as a cell of a pixel would hold it, with a sign or without.

    What is said of signed pixels is often written as an unsigned number: 63536 for -2000.
    """
    num_values = 2**header.BitsAllocated
    smallest = -num_values // 2 if header.PixelRepresentation else 0
    return (value - smallest) % num_values + smallest


def _values_of_interest(
    header: "Dataset",
    pixels: Shaped[np.ndarray, "height width"],
    counted: Bool[np.ndarray, "height width"],
) -> Float[np.ndarray, "height width"]:
    """The stored values rescaled, and through the first table or window that shows something."""
    values = _rescaled(header, pixels)
    for chosen in _views(header, values):
        shown = chosen[counted]
        is_inside = (shown > shown.min()) & (shown < shown.max())
        if is_inside.mean() >= _LEAST_INSIDE:
            return chosen
    return values


def _rescaled(
    header: "Dataset", pixels: Shaped[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width"]:
    tables = header.get("ModalityLUTSequence")
    if tables:
        return _looked_up(tables[0], pixels.astype(np.float64))
    return pixels * header.RescaleSlope + header.RescaleIntercept


def _views(
    header: "Dataset", values: Float[np.ndarray, "height width"]
) -> Iterator[Float[np.ndarray, "height width"]]:
    """The values through each table of values of interest, then through each window."""
    from pydicom.pixels.processing import apply_windowing

    for table in header.get("VOILUTSequence") or ():
        yield _looked_up(table, values)
    for index in range(header["WindowCenter"].VM):
        yield apply_windowing(values, header, index)


def _looked_up(
    table: "Dataset", values: Float[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width"]:
    """The values through a lookup table (PS3.3 C.11.1.1), whose ends stand for all beyond them.

    pydicom's own function lets the places in a table with entries of 8 bits wrap around at 256.
    """
    first = table.LUTDescriptor[1]
    if first > np.iinfo(np.int16).max and values.min() < 0:
        first -= 2**16  # signed, but written as unsigned
    entries = np.atleast_1d(np.asarray(table.LUTData, np.float64))
    places = np.clip(np.round(values) - first, 0, len(entries) - 1).astype(int)
    return entries[places]


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
