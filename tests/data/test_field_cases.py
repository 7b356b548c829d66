"""Pictures as they come from hospitals, each beside the one that it must look like."""

import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from support.real_data import ROOT

from medclip_jax.data.images import decode_gray

CASES = Path(os.environ.get("MEDCLIP_JAX_CASES", ROOT.parent / "shared" / "cases"))
LIKE = {
    "images/c_12bit_burnt_marker.png": "images/a_12bit_0_4095.png",
    "images/c_12bit_hot_pixel.png": "images/a_12bit_0_4095.png",
    "images/o_float_nan.tif": "images/o_float01.tif",
    "dicom/hot_pixel.dcm": "dicom/plain.dcm",
    "dicom/slope_zero.dcm": "dicom/plain.dcm",
    "dicom/window_width_1.dcm": "dicom/plain.dcm",
    "dicom/window_comma.dcm": "dicom/plain.dcm",
    "dicom/no_preamble.dcm": "dicom/plain.dcm",
    "dicom/padding_signed_tag_unsigned.dcm": "dicom/padding_signed.dcm",
}


def case(name: str) -> Path:
    if not (CASES / name).exists():
        pytest.skip(f"no case at {CASES / name}")
    return CASES / name


@pytest.mark.parametrize("name", LIKE)
def test_odd_pictures_look_like_plain_ones(name: str) -> None:
    image, plain = decode_gray(case(name)).astype(int), decode_gray(case(LIKE[name])).astype(int)
    differs = np.abs(image - plain) > 1
    assert differs.mean() < 0.01  # the marker itself
    assert 100 < np.median(plain) < 140


@pytest.mark.parametrize("name", ["images/k_exif6.jpg", "images/o_float01.tif"])
def test_pil_gives_what_the_path_gives(name: str) -> None:
    path = case(name)
    np.testing.assert_array_equal(decode_gray(PIL.Image.open(path)), decode_gray(path))
