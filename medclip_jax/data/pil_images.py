"""Images that Pillow has opened: what it would get wrong is mended here, or refused."""

import re

import PIL.Image
import PIL.ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from medclip_jax.errors import UserError

_DEEP = re.compile(r"(?<!BGR);16")  # "BGR;16" has 16 bits for all three channels
_SAMPLE_FORMAT, _SIGNED = 339, 2  # a tag of TIFF files, and a value


def load_turned(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """The image with its pixels read and the EXIF orientation applied.

    Raises:
        UserError: it has no pixels, or Pillow changes the values in its file.
    """
    if not all(image.size):
        raise UserError(f"{name}: an image without pixels ({image.width} x {image.height})")
    if image.mode[0] not in "IF" and (_is_deep(image) or _is_signed(image)):
        kind = "signed 8-bit values" if _is_signed(image) else "16-bit colour"
        raise UserError(f"{name}: Pillow does not keep {kind}: give the file's path instead")
    if isinstance(image, TiffImageFile):
        _load_unmapped(image)
    return PIL.ImageOps.exif_transpose(image)


def _is_deep(image: PIL.Image.Image) -> bool:
    """Whether the image's file has more than 8 bits a channel.

    Once the pixels are read, nothing tells of it any more.
    """
    return any(
        _DEEP.search(str(args)) or (codec.startswith("ppm") and args[1] > 255)
        for codec, _, _, args in getattr(image, "tile", ())  # how the file is to be decoded
    )


def _is_signed(image: PIL.Image.Image) -> bool:
    return _SIGNED in getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, ())


def _load_unmapped(image: TiffImageFile) -> None:
    """Reads the pixels without mapping the file into memory.

    Where the orientation exchanges height and width, Pillow maps rows of the wrong length.
    """
    filename, image.filename = image.filename, ""
    try:
        image.load()
    finally:
        image.filename = filename
