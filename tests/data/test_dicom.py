"""DICOM files written here with every trap of their headers, and real ones."""

import contextlib
import io
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from support.real_data import real

from medclip_jax.data.dicom import decode_dicom
from medclip_jax.data.images import decode_gray
from medclip_jax.errors import UserError

SIIM = "siim_1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"


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


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint8", 3, 250), ("uint16", 0, 4095), ("uint16", 500, 65535), ("int16", -1000, 3000)],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_stored_values_are_stretched(dtype: str, low: int, high: int, syntax: str) -> None:
    pixels = ramp(dtype, low, high)
    image = decode_dicom(dicom(pixels, syntax), "x")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, stretched(pixels))


def test_monochrome1_is_inverted() -> None:
    pixels = ramp("uint16", 0, 4095)
    image = decode_dicom(dicom(pixels, PhotometricInterpretation="MONOCHROME1"), "x")
    np.testing.assert_array_equal(image, 255 - stretched(pixels))


def test_a_window_clips_after_rescaling() -> None:
    pixels = ramp("uint16", 0, 4095)
    fields = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 3000.5}
    image = decode_dicom(dicom(pixels, **fields, WindowWidth=2001), "x")
    # PS3.3 C.11.2.1.2.1: the window is 2000 wide around 3000
    values = pixels.astype(np.float64) * 2 - 1000
    np.testing.assert_allclose(image, np.clip((values - 2000) / 2000, 0, 1) * 255, atol=0.51)


def test_the_first_of_several_windows_counts() -> None:
    pixels = ramp("uint16", 0, 4095)
    one = dicom(pixels, WindowCenter=1000, WindowWidth=500)
    several = dicom(pixels, WindowCenter=[1000, 2000], WindowWidth=[500, 4000])
    np.testing.assert_array_equal(decode_dicom(several, "x"), decode_dicom(one, "x"))


def test_a_table_of_values_of_interest() -> None:
    pixels = ramp("uint8", 0, 255)
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = (np.arange(256) ** 2 // 2).astype(np.uint16).tobytes()
    image = decode_dicom(dicom(pixels, VOILUTSequence=[table]), "x")
    np.testing.assert_array_equal(image, stretched(pixels.astype(np.int64) ** 2 // 2))


@pytest.mark.parametrize(
    "window", [{"WindowCenter": 100, "WindowWidth": 10}, {"WindowCenter": 2000, "WindowWidth": 0}]
)
def test_a_window_that_shows_nothing_is_left_out(window: dict[str, int]) -> None:
    pixels = ramp("uint16", 1000, 3000)
    np.testing.assert_array_equal(decode_dicom(dicom(pixels, **window), "x"), stretched(pixels))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(photometric: str) -> None:
    pixels = ramp("uint16", 1000, 3000)
    framed = np.pad(pixels, 2, constant_values=65535)
    fields = {"PixelPaddingValue": 65535, "PhotometricInterpretation": photometric}
    image = decode_dicom(dicom(framed, **fields), "x")
    np.testing.assert_array_equal(
        image[2:-2, 2:-2],
        stretched(pixels) if photometric == "MONOCHROME2" else 255 - stretched(pixels),
    )
    assert not image[:2].any() and not image[:, -2:].any()


def test_a_range_of_padding() -> None:
    pixels = ramp("uint16", 0, 3000)
    fields = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 999}
    image = decode_dicom(dicom(pixels, **fields), "x")
    np.testing.assert_array_equal(image[pixels > 999], stretched(pixels[pixels > 999]))
    assert not image[pixels <= 999].any()


def test_where_the_header_contradicts_itself_the_chest_decides() -> None:
    chest = np.full((100, 100), 60, np.uint8)
    chest[:, 42:58] = 220  # the mediastinum
    fields = {"PixelIntensityRelationshipSign": 1}
    np.testing.assert_array_equal(decode_dicom(dicom(chest, **fields), "x"), stretched(chest))
    negative = decode_dicom(dicom(255 - chest, **fields), "x")
    np.testing.assert_array_equal(negative, stretched(chest))
    plain = decode_dicom(dicom(255 - chest, PixelIntensityRelationshipSign=-1), "x")
    np.testing.assert_array_equal(plain, 255 - stretched(chest))


def test_colour_becomes_luminance() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image = decode_dicom(dicom(pixels), "x")
    difference = image.astype(int) - cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    assert np.abs(difference).max() <= 1


def test_decode_gray_knows_dicom_by_its_bytes(tmp_path: Path) -> None:
    pixels = ramp("uint16", 0, 4095)
    path = tmp_path / "without_ending"
    path.write_bytes(dicom(pixels))
    np.testing.assert_array_equal(decode_gray(path), stretched(pixels))


def test_several_frames_are_refused() -> None:
    pixels = ramp("uint8", 0, 255)
    header = pydicom.dcmread(io.BytesIO(dicom(pixels)))
    header.NumberOfFrames = 2
    header.PixelData = pixels.tobytes() * 2
    file = io.BytesIO()
    header.save_as(file)
    with pytest.raises(UserError, match="x: 2 frames; only single images"):
        decode_dicom(file.getvalue(), "x")


def test_a_file_without_an_image() -> None:
    header = pydicom.dcmread(io.BytesIO(dicom(ramp("uint8", 0, 255))))
    del header.PixelData
    file = io.BytesIO()
    header.save_as(file)
    with pytest.raises(UserError, match="without an image"):
        decode_dicom(file.getvalue(), "x")


def test_a_hot_pixel_does_not_darken_the_rest() -> None:
    pixels = ramp("uint16", 700, 3900)
    hot = pixels.copy()
    hot[5, 5] = 65535
    for fields in ({}, {"WindowCenter": 32768, "WindowWidth": 65536}):
        image = decode_dicom(dicom(hot, **fields), "x")
        expected = stretched(pixels)
        expected[5, 5] = 255
        assert_same(image, expected)
    image = decode_dicom(dicom(hot, PhotometricInterpretation="MONOCHROME1"), "x")
    assert_same(image, 255 - expected)


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


PIXELS = ramp("uint16", 720, 3936)


@pytest.mark.parametrize(
    "fields",
    [
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
        {"RescaleSlope": "0.0", "RescaleIntercept": "-1024"},
        {"RescaleSlope": "1,0", "RescaleIntercept": "0,0"},
        {"RescaleSlope": "", "RescaleIntercept": "5"},
        {"RescaleSlope": "nan", "RescaleIntercept": "inf"},
        {"RescaleSlope": "2"},
        {"WindowCenter": "2048,0", "WindowWidth": "4096,0"},
        {"WindowCenter": "2048.5\\100", "WindowWidth": "4096,0\\1"},
        {"WindowCenter": "2048", "WindowWidth": "1"},
        {"WindowCenter": "2048", "WindowWidth": "0.5"},
        {"WindowCenter": "2048", "WindowWidth": "-4096"},
        {"WindowCenter": "2048", "WindowWidth": "2"},
        {"WindowCenter": "2048", "WindowWidth": ""},
        {"WindowCenter": "", "WindowWidth": "1000"},
        {"WindowWidth": "1000"},
        {"WindowCenter": "mid", "WindowWidth": "wide"},
        {"WindowCenter": "2048", "WindowWidth": "1e999"},
        {"WindowCenter": "mid\\2048", "WindowWidth": "wide\\4096"},
        {"WindowCenter": "2048\\2048", "WindowWidth": "1\\4096"},
        {"WindowCenter": "90000", "WindowWidth": "100"},
    ],
    ids=str,
)
def test_numbers_that_say_nothing_change_nothing(fields: dict[str, str]) -> None:
    image = decode_dicom(with_text(dicom(PIXELS, BitsStored=12, HighBit=11), **fields), "x")
    assert_same(image, stretched(PIXELS))


def test_a_decimal_comma_is_a_decimal_point() -> None:
    window = {"WindowCenter": "2000,5", "WindowWidth": "801,0", "RescaleSlope": "2,5"}
    image = decode_dicom(with_text(dicom(PIXELS), RescaleIntercept="-1000,0", **window), "x")
    values = PIXELS * 2.5 - 1000
    np.testing.assert_allclose(image, np.clip((values - 1600) / 800, 0, 1) * 255, atol=0.51)


def test_an_unknown_window_function_is_linear() -> None:
    fields = {"WindowCenter": 2000, "WindowWidth": 1000}
    expected = decode_dicom(dicom(PIXELS, **fields), "x")
    assert np.mean(expected == 255) > 0.4
    other = decode_dicom(dicom(PIXELS, **fields, VOILUTFunction="SQUARE"), "x")
    assert_same(other, expected)


@pytest.mark.parametrize("bits", [16, 12])
@pytest.mark.parametrize("ends", [(63536,), (63536, 63546)])
def test_padding_of_signed_pixels_written_as_unsigned(ends: tuple[int, ...], bits: int) -> None:
    pixels = ramp("int16", -1000, 2000)
    framed = np.pad(pixels, 8, constant_values=-2000)
    encoded = dicom(framed, BitsStored=bits, HighBit=bits - 1)
    header = pydicom.dcmread(io.BytesIO(encoded))
    for tag, value in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), ends, strict=False):
        header.add_new(tag, "US", value)
    file = io.BytesIO()
    header.save_as(file)
    image = decode_dicom(file.getvalue(), "x")
    assert_same(image[8:-8, 8:-8], stretched(pixels))
    assert not image[:8].any()


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_values_in_the_upper_bits_of_a_cell(dtype: str) -> None:
    pixels = ramp(dtype, 0 if dtype == "uint16" else -2000, 2000)
    shifted = (pixels << 4) | 5  # the lower bits may hold an overlay
    fields = {"PixelPaddingValue": int(pixels[0, 0]), "WindowCenter": 500, "WindowWidth": 1000}
    image = decode_dicom(dicom(shifted, BitsStored=12, HighBit=15, **fields), "x")
    expected = decode_dicom(dicom(pixels, BitsStored=12, HighBit=11, **fields), "x")
    assert_same(image, expected)
    wrong = decode_dicom(dicom(pixels, BitsStored=12, HighBit=15, **fields), "x")
    assert_same(wrong, expected)


def test_files_without_the_preamble(tmp_path: Path) -> None:
    whole = dicom(PIXELS)
    header = pydicom.dcmread(io.BytesIO(whole))
    alone = {"with meta information": whole[132:]}
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        file = io.BytesIO()
        pydicom.dcmwrite(
            file,
            pydicom.Dataset(header),
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=True,
        )
        alone[syntax.name] = file.getvalue()
    for name, encoded in alone.items():
        assert b"DICM" not in encoded[:200], name
        path = tmp_path / "image"
        path.write_bytes(encoded)
        assert_same(decode_gray(path), stretched(PIXELS))


def test_a_table_with_entries_of_8_bits() -> None:
    pixels = ramp("uint16", 0, 4095)
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 8]
    entries = (255 * np.sqrt(np.arange(4096) / 4095)).astype(np.uint8)
    table.LUTData = entries.tobytes()
    header = {"VOILUTSequence": [table], "BitsStored": 12, "HighBit": 11}
    assert_same(decode_dicom(dicom(pixels, **header), "x"), entries[pixels])


def test_tables_of_the_modality_and_after_a_fractional_slope() -> None:
    table = Dataset()
    table.LUTDescriptor = [2048, 1000, 16]
    table.LUTData = (np.arange(2048)[::-1] * 20).astype(np.uint16).tobytes()
    image = decode_dicom(dicom(PIXELS, ModalityLUTSequence=[table]), "x")
    mapped = 20 * (2047 - np.clip(PIXELS.astype(int) - 1000, 0, 2047))
    assert_same(image, stretched(mapped))
    rescaled = {"RescaleSlope": 0.5, "RescaleIntercept": 0.25, "VOILUTSequence": [table]}
    image = decode_dicom(dicom(PIXELS, **rescaled), "x")
    places = np.round(PIXELS * 0.5 + 0.25).astype(int) - 1000
    assert_same(image, stretched(20 * (2047 - np.clip(places, 0, 2047))))


def test_the_process_keeps_its_warnings_and_loggers() -> None:
    logger = logging.getLogger("pydicom")
    before = (logger.level, list(warnings.filters))
    files = [with_text(dicom(PIXELS), WindowCenter="1,5", WindowWidth="900"), CUT]

    def decode(number: int) -> None:
        with contextlib.suppress(UserError):
            decode_dicom(files[number % 2], "x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, range(60)))
    assert (logger.level, list(warnings.filters)) == before


def test_pydicom_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError):
        decode_dicom(CUT, "x")
    assert capfd.readouterr() == ("", "")


WHOLE = {
    syntax: dicom(ramp("uint16", 0, 4095), syntax)
    for syntax in (ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless)
}
WHOLE["every field"] = dicom(
    ramp("uint16", 0, 4095)[:8],
    **{"RescaleSlope": 1.5, "RescaleIntercept": -10, "WindowCenter": 2000, "WindowWidth": 3000},
    **{"PixelPaddingValue": 0, "PixelIntensityRelationshipSign": 1, "NumberOfFrames": 1},
)


CUT = WHOLE[JPEG2000Lossless][:-200]


@settings(max_examples=300, deadline=None)
@given(syntax=st.sampled_from(list(WHOLE)), place=st.floats(0, 1), change=st.integers(1, 255))
def test_a_damaged_byte_gives_a_users_error_or_an_image(
    syntax: str, place: float, change: int
) -> None:
    damaged = bytearray(WHOLE[syntax])
    damaged[132 + round(place * (len(damaged) - 133))] ^= change
    try:
        image = decode_dicom(bytes(damaged), "x")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert image.dtype == np.uint8 and image.ndim == 2


@settings(max_examples=50, deadline=None)
@given(syntax=st.sampled_from(list(WHOLE)), place=st.floats(0, 1))
def test_a_file_cut_short_is_refused(syntax: str, place: float) -> None:
    end = 132 + round(place * (len(WHOLE[syntax]) - 132 - 10))
    with pytest.raises(UserError, match="^x: "):
        decode_dicom(WHOLE[syntax][:end], "x")


@pytest.mark.parametrize(
    "name",
    [
        "RG1_J2KI.dcm",
        "JPEG2KLossless_1s_1f_u_16_16.dcm",
        SIIM,
        "rsna_c64d5667-a776-4f95-9e21-bfabafb07740.dcm",
        "nih_1.3.6.1.4.1.11129.5.5.110503645592756492463169821050252582267888.dcm",
    ],
)
def test_air_is_dark_in_real_files(name: str) -> None:
    image = cv2.resize(
        decode_gray(real(f"dicom/{name}")), (100, 100), interpolation=cv2.INTER_AREA
    ).astype(float)
    mediastinum = image[40:90, 45:55].mean()
    lungs = (image[30:60, 20:38].mean() + image[30:60, 62:80].mean()) / 2
    assert mediastinum > lungs + 10
    assert np.ptp(image) > 150


def test_the_header_of_a_real_file_is_obeyed() -> None:
    # The same pixels, once said to be MONOCHROME2 and once MONOCHROME1.
    negative = decode_gray(real("dicom/Fake_MONOHR1.dcm"))
    np.testing.assert_array_equal(negative, 255 - decode_gray(real(f"dicom/{SIIM}")))


def test_jpeg_agrees_with_opencv() -> None:
    path = real(f"dicom/{SIIM}")
    header = pydicom.dcmread(path)
    assert header.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    (frame,) = pydicom.encaps.generate_frames(header.PixelData, number_of_frames=1)
    other = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.abs(decode_gray(path).astype(int) - other).max() <= 1
