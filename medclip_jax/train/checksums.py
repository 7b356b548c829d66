"""Checksums of a checkpoint's files: Orbax reads an array with a flipped bit without a word."""

import json
import os
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from medclip_jax.errors import UserError

CHECKSUMS = "checksums.json"
DAMAGED = "damaged_checkpoints"  # beside the directory of checkpoints
_TEMPORARY = ".orbax-checkpoint-tmp"
_BLOCK = 2**22  # bytes read at once
_NONE, _ALL_DAMAGED = -1, -2


def write_checksums(directory: Path) -> None:
    """Notes size and checksum of every file of the checkpoint that is about to be committed.

    Orbax calls this when all items are written, just before it gives the checkpoint its name below
    `directory`. What lies beside the items is Orbax's own, and changes after that.
    """
    if jax.process_index() > 0:
        return
    (checkpoint,) = (path for path in directory.iterdir() if _TEMPORARY in path.name)
    paths = sorted(path for path in checkpoint.glob("*/**/*") if path.is_file())
    noted = {str(path.relative_to(checkpoint)): _size_and_checksum(path) for path in paths}
    (checkpoint / CHECKSUMS).write_text(json.dumps(noted))


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, as "FILE is missing", or None; without checksums, too."""
    path = checkpoint / CHECKSUMS
    try:
        noted = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        noted = None
    if not isinstance(noted, dict):
        return f"{CHECKSUMS} cannot be read"
    for name, expected in noted.items():
        try:
            if _size_and_checksum(checkpoint / name) != expected:
                return f"{name} has changed"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def newest_whole(directory: Path) -> int | None:
    """The newest step below `directory` whose files are whole, on every process, or None.

    Damaged newer ones are moved aside, with a line for each; their steps can be saved again then.

    Raises:
        UserError: there are checkpoints, and all of them are damaged.
    """
    found = _choose(directory) if jax.process_index() == 0 else _NONE
    if jax.process_count() > 1:
        found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
    if found == _ALL_DAMAGED:
        raise UserError(
            f"every checkpoint in {directory} is damaged: put one back from a copy, or start anew "
            "with another --workdir"
        )
    return None if found == _NONE else found


def saved_steps(directory: Path) -> list[int]:
    """The steps that were saved, oldest first; one being written has more than its number."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def _choose(directory: Path) -> int:
    damaged: list[tuple[int, str]] = []
    for step in reversed(saved_steps(directory)):
        damage = find_damage(directory / str(step))
        if damage is None:
            for other, reason in damaged:
                _move_aside(directory, other)
                print(
                    f"the checkpoint at step {other} is damaged ({reason}): it is moved to "
                    f"{DAMAGED}, and step {step} is used",
                    file=sys.stderr,
                )
            return step
        damaged.append((step, damage))
    return _ALL_DAMAGED if damaged else _NONE


def _move_aside(directory: Path, step: int) -> None:
    """Moves a checkpoint to where Orbax does not look; a name that is taken gets a number."""
    target = directory.parent / DAMAGED / str(step)
    target.parent.mkdir(exist_ok=True)
    number = 0
    while target.exists():
        number += 1
        target = target.with_name(f"{step}.{number}")
    os.replace(directory / str(step), target)


def _size_and_checksum(path: Path) -> list[int]:
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return [size, checksum]
