"""The fields of a DICOM file that say how its pixels are shown, with what is malformed mended."""

import io
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from medclip_jax.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

_T = TypeVar("_T")
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

    What is malformed counts as not given: a number that is none or not finite, several where one
    belongs, a lookup table without all its entries, a function that does not exist, a highest bit
    outside its cell. So do a slope of 0, and a window that is not wider than its function allows.
    Decimal commas and codes in lower case are read.

    Raises:
        UserError: the file holds no image, or several.
    """
    import pydicom

    header = pydicom.dcmread(io.BytesIO(encoded), force=True, specific_tags=list(_KEYWORDS))
    if "TransferSyntaxUID" not in header.file_meta:
        is_implicit, is_little_endian = header.original_encoding
        header.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian
            if is_implicit
            else pydicom.uid.ExplicitVRLittleEndian
            if is_little_endian
            else pydicom.uid.ExplicitVRBigEndian
        )
    _drop_malformed(header)
    _check_single_image(header, name)
    _mend_rescaling(header)
    _mend_windows(header)
    return header


def _drop_malformed(header: "Dataset") -> None:
    """Leaves of the fields in `_READERS` what can be read of them."""
    for keyword, (vr, read) in _READERS.items():
        if keyword in header:
            value = _or_none(read, header, keyword)
            if value is None:
                del header[keyword]
            else:
                header.add_new(keyword, vr, value)


def _or_none(read: Callable[..., _T], header: "Dataset", part: object) -> _T | None:
    try:
        return read(header, part)
    except Exception:  # pydicom raises whatever it meets
        return None


def _check_single_image(header: "Dataset", name: str) -> None:
    needed = ("PixelData", "Rows", "Columns", "PhotometricInterpretation")
    missing = ", ".join(keyword for keyword in needed if keyword not in header)
    if missing:
        raise UserError(f"{name}: a DICOM file without an image (no {missing})")
    if header.get("NumberOfFrames", 1) > 1:
        raise UserError(f"{name}: {header.NumberOfFrames} frames; only single images can be read")
    header.NumberOfFrames = 1


def _mend_rescaling(header: "Dataset") -> None:
    slope, intercept = (
        next((number for number in _listed(header, keyword)[:1] if math.isfinite(number)), 0.0)
        for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    header.add_new("RescaleSlope", "FD", slope or 1.0)
    header.add_new("RescaleIntercept", "FD", intercept)


def _mend_windows(header: "Dataset") -> None:
    if "VOILUTFunction" not in header:
        header.VOILUTFunction = "LINEAR"
    # PS3.3 C.11.2.1.2: a linear window of width 1 is a threshold, which shows two greys.
    narrowest = 1.0 if header.VOILUTFunction == "LINEAR" else 0.0
    centers, widths = _listed(header, "WindowCenter"), _listed(header, "WindowWidth")
    windows = [
        (center, width)
        for center, width in zip(centers, widths, strict=False)
        if math.isfinite(center) and narrowest < width < math.inf
    ]
    header.add_new("WindowCenter", "FD", [center for center, _ in windows])
    header.add_new("WindowWidth", "FD", [width for _, width in windows])


def _listed(header: "Dataset", keyword: str) -> list[float]:
    """What `_numbers` has read of a field; nothing where there is no field."""
    return np.atleast_1d(header.get(keyword, [])).tolist()


def _integer(header: "Dataset", keyword: str) -> int:
    return int(header[keyword].value)


def _high_bit(header: "Dataset", keyword: str) -> int | None:
    value = header[keyword].value
    return value if header.BitsStored <= value + 1 <= header.BitsAllocated else None


def _code(header: "Dataset", keyword: str) -> str | None:
    return header[keyword].value.strip(" \0").upper() or None


def _function(header: "Dataset", keyword: str) -> str | None:
    code = _code(header, keyword)
    return code if code in _FUNCTIONS else None


def _numbers(header: "Dataset", keyword: str) -> list[float]:
    """The numbers in a field, NaN where one cannot be read."""
    element = header.get_item(keyword)  # as it stands in the file
    if element.VR in ("FD", "FL", "SL", "SS", "UL", "US"):  # not as the standard has it, but clear
        text = str(header[keyword].value).strip("[]").replace(", ", "\\")
    else:
        text = element.value.decode("latin-1")
    return [_number(part) for part in text.split("\\")]


def _number(text: str) -> float:
    try:
        return float(text.strip(" \0").replace(",", "."))
    except ValueError:
        return math.nan


def _tables(header: "Dataset", keyword: str) -> list["Dataset"]:
    tables = (_or_none(_table, header, table) for table in header[keyword].value)
    return [table for table in tables if table is not None]


def _table(header: "Dataset", table: "Dataset") -> "Dataset | None":
    """A lookup table with its entries as numbers; None if they are fewer than it says."""
    num_entries, _, _ = table.LUTDescriptor
    num_entries = num_entries or 2**16
    data = table.LUTData
    if isinstance(data, bytes):
        is_little_endian = header.file_meta.TransferSyntaxUID.is_little_endian
        wide = "<u2" if is_little_endian else ">u2"
        data = np.frombuffer(data, wide if len(data) >= 2 * num_entries else np.uint8)
    entries = np.atleast_1d(np.asarray(data, np.int64))[:num_entries]
    if len(entries) < num_entries:
        return None
    table.add_new("LUTData", "US", entries.tolist())
    return table


# How the fields that may be malformed are read, and the VR of what is read. FD, binary floats, sets
# no limit to the number of digits.
_READERS: dict[str, tuple[str, Callable[["Dataset", str], Any]]] = {
    "PhotometricInterpretation": ("CS", _code),
    "PlanarConfiguration": ("US", _integer),
    "NumberOfFrames": ("IS", _integer),
    "HighBit": ("US", _high_bit),
    "PixelPaddingValue": ("SV", _integer),
    "PixelPaddingRangeLimit": ("SV", _integer),
    "PixelIntensityRelationshipSign": ("SS", _integer),
    "RescaleSlope": ("FD", _numbers),
    "RescaleIntercept": ("FD", _numbers),
    "WindowCenter": ("FD", _numbers),
    "WindowWidth": ("FD", _numbers),
    "VOILUTFunction": ("CS", _function),
    "ModalityLUTSequence": ("SQ", _tables),
    "VOILUTSequence": ("SQ", _tables),
}
