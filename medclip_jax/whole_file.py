"""Files that are there whole or not at all, in a place that was tried before the work began."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from medclip_jax.errors import UserError


def check_writable(path: Path) -> None:
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
