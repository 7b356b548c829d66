"""Where the images of ChestX-ray14 lie: in one folder, in twelve, or in twelve archives."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medclip_jax.data.builders.archives import unpack
from medclip_jax.errors import UserError

_ARCHIVES = ("images_*.tar.gz", "images_*.zip")


class ImageFiles(NamedTuple):
    """The images by name.

    Attributes:
        root: what the paths are relative to.
        paths: "00000001_000.png" to "images_001/images/00000001_000.png".
    """

    root: Path
    paths: dict[str, str]


def find_images(manual_dir: Path, unpack_into: Path) -> ImageFiles:
    """The images in `images` and `images_…`, or in the archives `images_…` if there is no folder.

    Raises:
        UserError: there are none, or an archive is damaged.
    """
    candidates = (manual_dir / "images", *sorted(manual_dir.glob("images_*")))
    if folders := [folder for folder in candidates if folder.is_dir()]:
        return _image_files(manual_dir, folders)
    archives = sorted(path for pattern in _ARCHIVES for path in manual_dir.glob(pattern))
    if not archives:
        raise UserError(
            f"{manual_dir}: no images; the folder images, the folders images_001 to images_012 or "
            "the archives images_001.tar.gz to images_012.tar.gz are needed"
        )
    return _image_files(unpack_into, [unpack(archive, unpack_into) for archive in archives])


def _image_files(root: Path, folders: Sequence[Path]) -> ImageFiles:
    paths = {
        path.name: str(path.relative_to(root))
        for folder in folders
        for pattern in ("*.png", "images/*.png")
        for path in folder.glob(pattern)
    }
    return ImageFiles(root, paths)
