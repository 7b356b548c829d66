"""Images that Pillow has opened: read as their files are, or refused."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from medclip_jax.data import images
from medclip_jax.errors import UserError


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("depth", [np.uint8, np.uint16, np.float32])
def test_a_turned_tiff_file_opened_by_its_name(turn: int, depth: type, tmp_path: Path) -> None:
    image = np.linspace(0, 255, 40 * 24).reshape(40, 24).astype(np.uint8)
    path = tmp_path / "turned.tif"
    PIL.Image.fromarray(image.astype(depth)).save(path, tiffinfo={0x0112: turn})
    flipped = {2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1], 5: image.T}
    flipped |= {1: image, 6: image[::-1].T, 7: image[::-1, ::-1].T, 8: image[:, ::-1].T}
    opened = PIL.Image.open(path)
    for source in (path, opened, opened):
        np.testing.assert_array_equal(images.decode_gray(source), flipped[turn])
    assert opened.filename == str(path)


def deep_colour(suffix: str, channels: int) -> bytes:
    return cv2.imencode(suffix, np.full((8, 9, channels), 4095, np.uint16))[1].tobytes()


def grey_and_alpha(gray: np.ndarray) -> bytes:
    """A PNG file of 16 bits a channel, which neither Pillow nor OpenCV can write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = gray.shape
    rows = np.dstack([gray, np.full_like(gray, 65535)]).astype(">u2").reshape(height, -1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


LOST = {
    "png RGB": (deep_colour(".png", 3), "16-bit colour"),
    "png RGBA": (deep_colour(".png", 4), "16-bit colour"),
    "png LA": (grey_and_alpha(np.full((8, 9), 4095, np.uint16)), "16-bit colour"),
    "tiff": (deep_colour(".tif", 3), "16-bit colour"),
    "ppm": (deep_colour(".ppm", 3), "16-bit colour"),
    "ppm of 12 bits": (b"P6 9 8 4095\n" + bytes(9 * 8 * 6), "16-bit colour"),
    "signed tiff": (cv2.imencode(".tif", np.eye(9, dtype=np.int8))[1].tobytes(), "signed 8-bit"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_pillow_does_not_keep_is_refused(name: str) -> None:
    encoded, kind = LOST[name]
    images.decode_gray(encoded)
    with pytest.raises(UserError, match=f"^x: Pillow does not keep {kind}.*: give the file's path"):
        images.decode_gray(PIL.Image.open(io.BytesIO(encoded)), "x")


def test_colour_of_16_bits_a_pixel_is_read() -> None:
    """With 5 or 6 bits a channel, in a BMP file, whose rows begin at the bottom."""
    gray = np.arange(32, dtype=np.uint16).reshape(4, 8)
    rows = (gray << 11 | gray << 6 | gray)[::-1].astype("<u2").tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 16, 3, len(rows), 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    encoded = struct.pack("<2sIII", b"BM", 66 + len(rows), 0, 66) + header + masks + rows
    opened = images.decode_gray(PIL.Image.open(io.BytesIO(encoded))).astype(int)
    assert np.abs(opened - np.round(gray * (255 / 31))).max() <= 4


@pytest.mark.parametrize("mode", ["L", "RGB", "F", "I;16", "I", "1", "P"])
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_pil_image_without_pixels_is_refused(mode: str, size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="^x: an image without pixels"):
        images.decode_gray(PIL.Image.new(mode, size), "x")
