"""DICOM files written here with every trap of their headers, and real ones."""

import contextlib
import io
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from support.dicom_files import assert_same, dicom, ramp, stretched, with_text
from support.real_data import real

from medclip_jax.data.dicom import decode_dicom
from medclip_jax.data.images import decode_gray
from medclip_jax.errors import UserError

SIIM = "siim_1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"


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


PIXELS = ramp("uint16", 720, 3936)


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
