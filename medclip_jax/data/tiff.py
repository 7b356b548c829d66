"""What OpenCV and Pillow leave out of account in TIFF files."""

import io
import struct

import PIL.Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two are BigTIFF
_PHOTOMETRIC_INTERPRETATION = 262
_WHITE_IS_ZERO = 0


def white_is_zero(image: bytes | PIL.Image.Image) -> bool:
    """Whether the smallest value is white in an encoded image, or in one that Pillow has opened.

    Both libraries heed the tag in images of 8 bits alone.
    """
    tags = _tags(image) if isinstance(image, bytes) else getattr(image, "tag_v2", {})
    return tags.get(_PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO


def _tags(encoded: bytes) -> ImageFileDirectory_v2 | dict[int, object]:
    """The tags of the first image; none where there is no TIFF file, or one with an odd header."""
    if not encoded.startswith(_TIFF):
        return {}
    is_big = b"+" in encoded[2:4]
    try:
        directory = ImageFileDirectory_v2(encoded[: 16 if is_big else 8])
        file = io.BytesIO(encoded)
        file.seek(directory.next)
        directory.load(file)
        return directory
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        return {}
