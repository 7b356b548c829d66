"""Output that is there whole or not at all, in a place that was tried before the work began."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from medclip_jax.errors import UserError


def check_folder(folder: Path, option: str) -> None:
    """Writes a file into the folder, which need not be there yet, and leaves nothing behind.

    Args:
        folder: the folder.
        option: the flag that names it, for the message.

    Raises:
        UserError: it cannot be made or written to, or the disk is full.
    """
    missing: list[Path] = []
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(
            f"{option} {folder} cannot be written: {reason}; give another folder"
        ) from error
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def check_file(path: Path) -> None:
    """Makes the folder of a file that is to be written, and tries to write there.

    Raises:
        UserError: the file cannot be written.
    """
    unfinished = _unfinished(path)
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(b"tried")
        unfinished.unlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Has `write` fill a file, which gets its name when it is complete.

    Raises:
        UserError: the file cannot be written, such as on a full disk; what `path` held before is
            still there.
    """
    unfinished = _unfinished(path)
    try:
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")
