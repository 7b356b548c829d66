"""Damaged PNG files, against OpenCV."""

import zlib

import cv2
import numpy as np
import pytest

from medclip_jax.data.images import decode_gray
from medclip_jax.data.png import is_damaged_png

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
WHOLE = cv2.imencode(".png", PIXELS)[1].tobytes()
END = WHOLE[-12:]


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return len(data).to_bytes(4, "big") + kind + data + checksum.to_bytes(4, "big")


@pytest.mark.parametrize(
    "encoded",
    [
        WHOLE,
        WHOLE[:-12] + chunk(b"tEXt", b"Title\0x") + END,
        WHOLE[:-12] + chunk(b"tEXt", b"Title\0x", checksum=1) + END,
        WHOLE + b"something else",
    ],
    ids=["plain", "text", "damaged text", "more"],
)
def test_whole_files(encoded: bytes) -> None:
    assert not is_damaged_png(encoded)
    np.testing.assert_array_equal(decode_gray(encoded), PIXELS)


def test_files_of_other_formats() -> None:
    for encoded in (b"", b"\x89PNG", cv2.imencode(".jpg", PIXELS)[1].tobytes()[:99]):
        assert not is_damaged_png(encoded)


def test_every_file_cut_short_is_damaged() -> None:
    assert all(is_damaged_png(WHOLE[:end]) for end in range(8, len(WHOLE)))


def test_every_changed_byte_is_found() -> None:
    for place in range(8, len(WHOLE)):
        changed = bytearray(WHOLE)
        changed[place] ^= 1
        assert is_damaged_png(bytes(changed)), place
