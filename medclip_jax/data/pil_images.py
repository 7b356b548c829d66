"""Images that Pillow has opened: what it would get wrong is mended here, or refused."""

import re

import PIL.Image
import PIL.ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from medclip_jax.errors import UserError

_DEEP = re.compile(r"(?<!BGR);16")  # "BGR;16" has 16 bits for all three channels


def load_turned(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """The image with its pixels read and the EXIF orientation applied.

    Raises:
        UserError: it has no pixels, or is 16-bit colour, whose lower bits Pillow drops.
    """
    if not all(image.size):
        raise UserError(f"{name}: an image without pixels ({image.width} x {image.height})")
    if _is_deep_colour(image):
        raise UserError(
            f"{name}: 16-bit colour, of which Pillow keeps 8 bits: give the file's path instead"
        )
    if isinstance(image, TiffImageFile):
        _load_unmapped(image)
    return PIL.ImageOps.exif_transpose(image)


def _is_deep_colour(image: PIL.Image.Image) -> bool:
    """Whether the image's file has more than 8 bits a channel, of which Pillow keeps 8.

    Once the pixels are read, nothing tells of it any more.
    """
    if image.mode[0] in "IF":
        return False
    return any(
        _DEEP.search(str(args)) or (codec.startswith("ppm") and args[1] > 255)
        for codec, _, _, args in getattr(image, "tile", ())  # how the file is to be decoded
    )


def _load_unmapped(image: TiffImageFile) -> None:
    """Reads the pixels without mapping the file into memory.

    Where the orientation exchanges height and width, Pillow maps rows of the wrong length.
    """
    filename, image.filename = image.filename, ""
    try:
        image.load()
    finally:
        image.filename = filename
