"""The fields of a DICOM file that say how its pixels are shown, with what is malformed mended."""

import io
import math
import re
from typing import TYPE_CHECKING

from medclip_jax.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

# Everything that is read of a file; no name, date or other field ever leaves it.
_KEYWORDS = (
    "SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns "
    "BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue "
    "PixelPaddingRangeLimit PixelIntensityRelationshipSign RescaleSlope RescaleIntercept "
    "RescaleType ModalityLUTSequence WindowCenter WindowWidth VOILUTFunction VOILUTSequence "
    "RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor "
    "BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData "
    "GreenPaletteColorLookupTableData BluePaletteColorLookupTableData PixelData"
).split()
_DECIMALS = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
# The first element of a file without the preamble: of its meta information or of the data set.
_FIRST_ELEMENT = re.compile(
    rb"\x02\0[\0-\x03]\0(UL|OB|UI)|\x08\0[\0\x05\x08\x12\x13\x16\x18]\0(UL|CS|UI|DA|TM|..\0\0)",
    re.DOTALL,
)


def is_dicom(encoded: bytes) -> bool:
    """Whether a file begins as DICOM files do: 128 bytes of anything and "DICM", or without them.

    Files without were written before the standard had them, or cut out of a stream.
    """
    return encoded[128:132] == b"DICM" or _FIRST_ELEMENT.match(encoded) is not None


def read_header(encoded: bytes, name: str) -> "Dataset":
    """The fields that matter for the pixels, and the pixels, not decoded yet.

    Numbers with a decimal comma are read; a number that is none, or not finite, counts as not
    given, as do a slope of 0, a window that is not wider than its function allows, and a function
    that does not exist.

    Raises:
        UserError: the file holds no image, or several.
    """
    import pydicom

    header = pydicom.dcmread(io.BytesIO(encoded), force=True, specific_tags=list(_KEYWORDS))
    _check_single_image(header, name)
    if "TransferSyntaxUID" not in header.file_meta:
        is_implicit, is_little_endian = header.original_encoding
        header.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian
            if is_implicit
            else pydicom.uid.ExplicitVRLittleEndian
            if is_little_endian
            else pydicom.uid.ExplicitVRBigEndian
        )
    numbers = {keyword: _numbers(header, keyword) for keyword in _DECIMALS}
    _mend_rescaling(header, numbers)
    _mend_windows(header, numbers)
    return header


def _check_single_image(header: "Dataset", name: str) -> None:
    needed = ("PixelData", "Rows", "Columns", "PhotometricInterpretation")
    missing = ", ".join(keyword for keyword in needed if keyword not in header)
    if missing:
        raise UserError(f"{name}: a DICOM file without an image (no {missing})")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise UserError(f"{name}: {header.NumberOfFrames} frames; only single images can be read")


def _mend_rescaling(header: "Dataset", numbers: dict[str, list[float | None]]) -> None:
    slope, intercept = (
        next(iter(numbers[keyword]), None) for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    # In VR FD, binary floats, which set no limit to the number of digits.
    header.add_new("RescaleSlope", "FD", slope or 1.0)
    header.add_new("RescaleIntercept", "FD", intercept or 0.0)


def _mend_windows(header: "Dataset", numbers: dict[str, list[float | None]]) -> None:
    if header.get("VOILUTFunction") not in _FUNCTIONS:
        header.VOILUTFunction = "LINEAR"
    # PS3.3 C.11.2.1.2: a linear window of width 1 is a threshold, which shows two greys.
    narrowest = 1.0 if header.VOILUTFunction == "LINEAR" else 0.0
    windows = [
        (center, width)
        for center, width in zip(numbers["WindowCenter"], numbers["WindowWidth"], strict=False)
        if center is not None and width is not None and width > narrowest
    ]
    header.add_new("WindowCenter", "FD", [center for center, _ in windows])
    header.add_new("WindowWidth", "FD", [width for _, width in windows])


def _numbers(header: "Dataset", keyword: str) -> list[float | None]:
    """The numbers in a field, None where one cannot be read; none where there is no field."""
    element = header.get_item(keyword)  # as it stands in the file
    if element is None or not element.value:
        return []
    if element.VR in ("FD", "FL", "SL", "SS", "UL", "US"):  # not as the standard has it, but clear
        text = str(header[keyword].value).strip("[]").replace(", ", "\\")
    else:
        text = element.value.decode("latin-1")
    return [_number(part) for part in text.split("\\")]


def _number(text: str) -> float | None:
    try:
        number = float(text.strip(" \0").replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
