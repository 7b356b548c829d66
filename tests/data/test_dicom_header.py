"""DICOM headers that say what cannot be: the picture is that of a header that says nothing."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from support.dicom_files import assert_same, dicom, ramp, stretched, with_text

from medclip_jax.data.dicom import decode_dicom
from medclip_jax.data.images import decode_gray
from medclip_jax.errors import UserError

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


def with_raw(encoded: bytes, **fields: tuple[str, bytes]) -> bytes:
    """The file with these fields as (VR, bytes) that pydicom would not write."""
    header = pydicom.dcmread(io.BytesIO(encoded))
    for name, (vr, value) in fields.items():
        tag = pydicom.tag.Tag(name)
        header[tag] = pydicom.dataelem.RawDataElement(
            tag, vr, len(value), value, 0, False, True, True
        )
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return file.getvalue()


def table(descriptor: list[int] | None, entries: np.ndarray | None) -> Dataset:
    item = Dataset()
    if descriptor is not None:
        item.LUTDescriptor = descriptor
    if entries is not None:
        item.add_new("LUTData", "OW", entries.astype(np.uint16).tobytes())
    return item


ENTRIES = np.arange(4096)[::-1] * 16
BAD_TABLES = {
    "empty": lambda: Dataset(),
    "without data": lambda: table([4096, 0, 16], None),
    "without entries": lambda: table([4096, 0, 16], np.array([])),
    "with too few entries": lambda: table([4096, 0, 16], ENTRIES[:100]),
    "without a descriptor": lambda: table(None, ENTRIES),
    "with half a descriptor": lambda: table([4096, 0], ENTRIES),
}


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("kind", BAD_TABLES)
def test_a_malformed_table_counts_as_not_given(sequence: str, kind: str) -> None:
    others = {"WindowCenter": 2000, "WindowWidth": 2000, "RescaleSlope": 2, "RescaleIntercept": 9}
    good = table([4096, 0, 16], ENTRIES)
    for fields in ({}, others):
        plain = dicom(PIXELS, BitsStored=12, HighBit=11, **fields)
        header = {"BitsStored": 12, "HighBit": 11, **fields}
        bad = dicom(PIXELS, **header, **{sequence: [BAD_TABLES[kind]()]})
        assert_same(decode_dicom(bad, "x"), decode_dicom(plain, "x"))
        with_good = dicom(PIXELS, **header, **{sequence: [BAD_TABLES[kind](), good]})
        only_good = dicom(PIXELS, **header, **{sequence: [good]})
        assert_same(decode_dicom(with_good, "x"), decode_dicom(only_good, "x"))
        if not fields:
            assert_same(decode_dicom(only_good, "x"), 255 - stretched(PIXELS))


@pytest.mark.parametrize(
    "fields",
    [
        {"PixelPaddingValue": ("US", b"")},
        {"PixelPaddingValue": ("US", b"\xd0\x02\x00\x08")},
        {"PixelPaddingValue": ("US", b"\x01")},
        {"PixelPaddingValue": ("LO", b"none")},
        {"PixelPaddingRangeLimit": ("US", b"\xff\xff")},
        {"PixelPaddingValue": ("US", b"\0\0"), "PixelPaddingRangeLimit": ("US", b"")},
        {"PixelPaddingValue": ("US", b"\0\0"), "PixelPaddingRangeLimit": ("US", b"\1\0\2\0")},
        {"PixelPaddingValue": ("US", b"\0\0"), "PixelPaddingRangeLimit": ("US", b"\xff\xff")},
        {"PixelIntensityRelationshipSign": ("SS", b"")},
        {"PixelIntensityRelationshipSign": ("SS", b"\1")},
        {"NumberOfFrames": ("IS", b"")},
        {"NumberOfFrames": ("IS", b"0 ")},
        {"NumberOfFrames": ("IS", b"one ")},
        {"NumberOfFrames": ("IS", b"1\\1 ")},
        {"HighBit": ("US", b"")},
        {"HighBit": ("US", b"\x63\0")},
        {"RescaleSlope": ("SQ", b"")},
        {"WindowCenter": ("US", b"\1"), "WindowWidth": ("US", b"\0")},
        {"VOILUTFunction": ("CS", b"LINEAR\\SIGMOID ")},
        {"VOILUTSequence": ("LO", b"none")},
        {"PlanarConfiguration": ("US", b"")},
        {"PlanarConfiguration": ("US", b"\1")},
        {"PhotometricInterpretation": ("CS", b"monochrome2 ")},
    ],
    ids=str,
)
def test_a_malformed_field_counts_as_not_given(fields: dict[str, tuple[str, bytes]]) -> None:
    image = decode_dicom(with_raw(dicom(PIXELS, BitsStored=12, HighBit=11), **fields), "x")
    assert_same(image, stretched(PIXELS))


def test_codes_in_lower_case() -> None:
    inverted = with_raw(dicom(PIXELS), PhotometricInterpretation=("CS", b"monochrome1\0"))
    assert_same(decode_dicom(inverted, "x"), 255 - stretched(PIXELS))
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    expected = decode_dicom(dicom(PIXELS, **window, VOILUTFunction="SIGMOID"), "x")
    lower = with_raw(dicom(PIXELS, **window), VOILUTFunction=("CS", b"sigmoid "))
    assert_same(decode_dicom(lower, "x"), expected)
    assert np.abs(expected.astype(int) - decode_dicom(dicom(PIXELS, **window), "x")).max() > 5


def test_a_photometric_interpretation_is_needed() -> None:
    for code in (b"", b" \0"):
        encoded = with_raw(dicom(PIXELS), PhotometricInterpretation=("CS", code))
        with pytest.raises(UserError, match=r"^x: .*\(no PhotometricInterpretation\)"):
            decode_dicom(encoded, "x")


def test_a_slope_may_be_tiny() -> None:
    encoded = with_text(dicom(PIXELS), RescaleSlope="1e-15", RescaleIntercept="0")
    assert_same(decode_dicom(encoded, "x"), stretched(PIXELS))


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
