"""The files that a user downloaded: a folder, or the archive that it comes in."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from medclip_jax.errors import UserError


def unpack(archive: Path, parent: Path) -> Path:
    """Unpacks a tar or zip archive into a folder of its name in `parent`, unless it is there.

    The folder has its name only when it is complete.

    Raises:
        UserError: the archive is damaged, cut short, or has members outside of itself.
    """
    folder = parent / f"{archive.name}.unpacked"
    if folder.exists():
        return folder
    unfinished = parent / f"{archive.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                file.extractall(unfinished)  # which leaves out ".." and leading "/"
        else:
            with tarfile.open(archive) as file:
                file.extractall(unfinished, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        shutil.rmtree(unfinished)
        reason = " ".join(str(error).split())
        raise UserError(f"{archive}: damaged or cut short; download it again ({reason})") from error
    unfinished.rename(folder)
    return folder


def find(folder: Path, names: Sequence[str], what: str, unpack_into: Path) -> Path:
    """The first of `names` in `folder`, unpacked if it is an archive.

    Raises:
        UserError: none of them is there.
    """
    found = next((folder / name for name in names if (folder / name).exists()), None)
    if found is None:
        raise UserError(f"{folder}: no {what}; one of these is needed: {', '.join(names)}")
    return found if found.is_dir() else unpack(found, unpack_into)
