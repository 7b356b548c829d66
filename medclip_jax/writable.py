"""Whether files can be written to a folder, asked before the work that they are to hold."""

import contextlib
import tempfile
from pathlib import Path

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
