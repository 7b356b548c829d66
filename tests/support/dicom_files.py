"""DICOM files of given pixels and headers, and what a viewer makes of them."""

import io
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian


def dicom(pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **fields: Any) -> bytes:
    """A file with these stored values; `fields` are added to its header, or replace it."""
    signed = np.issubdtype(pixels.dtype, np.signedinteger)
    bits = pixels.dtype.itemsize * 8
    colour = pixels.ndim == 3
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    header.SOPInstanceUID = "1.2.3"
    header.PatientName = "Doe^Jane"
    header.Rows, header.Columns = pixels.shape[:2]
    header.SamplesPerPixel = 3 if colour else 1
    header.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        header.PlanarConfiguration = 0
    header.BitsAllocated, header.BitsStored, header.HighBit = bits, bits, bits - 1
    header.PixelRepresentation = int(signed)
    header.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(header, name, value)
    if syntax != ExplicitVRLittleEndian:
        header.compress(syntax)
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return file.getvalue()


def ramp(dtype: str, low: int, high: int) -> np.ndarray:
    return np.linspace(low, high, 64 * 48).reshape(64, 48).astype(dtype)


def stretched(values: np.ndarray) -> np.ndarray:
    """From the smallest value to the largest in 0 to 255."""
    low, high = values.min(), values.max()
    return np.round((values.astype(np.float64) - low) * 255.0 / (high - low)).astype(np.uint8)


def assert_same(image: np.ndarray, expected: np.ndarray) -> None:
    """Up to how a half is rounded."""
    assert image.dtype == np.uint8 and image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= 1


def with_text(encoded: bytes, **fields: str) -> bytes:
    """The file with these fields as text that pydicom would not write."""
    header = pydicom.dcmread(io.BytesIO(encoded))
    for name, text in fields.items():
        tag = pydicom.tag.Tag(name)
        value = text.encode() + b" " * (len(text) % 2)
        header[tag] = pydicom.dataelem.RawDataElement(
            tag, "DS", len(value), value, 0, False, True, True
        )
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return file.getvalue()
