"""One run a workdir: a lock that the operating system takes back from a process that has ended."""

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import jax
import numpy as np
from jax.experimental import multihost_utils

from medclip_jax.errors import UserError

LOCK = "lock"


@contextlib.contextmanager
def only_run_in(directory: Path) -> Iterator[None]:
    """Keeps other runs out of `directory`, which it makes, until the block ends.

    Process 0 holds the lock for all processes of its run. After `kill -9` nothing is left that
    would stop the next start, on NFS neither. Those who only read need no lock.

    Raises:
        UserError: on every process; another run is at work there, or it cannot be written.
    """
    file = _open_locked(directory / LOCK) if jax.process_index() == 0 else None
    locked = file is not None
    if jax.process_count() > 1:
        locked = bool(multihost_utils.broadcast_one_to_all(np.bool_(locked)))
    if not locked:
        raise UserError(
            f"another run ({_holder(directory / LOCK)}) is at work in {directory}: wait until it "
            "has ended, or give another --workdir"
        )
    with file or contextlib.nullcontext():
        yield


def _open_locked(path: Path) -> IO[str] | None:
    """The locked file, which says who holds it; None where another process does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise UserError(f"--workdir {path.parent} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        print(
            f"{path.parent} cannot be locked ({error.strerror}): start no second run there",
            file=sys.stderr,
        )
    with contextlib.suppress(OSError):  # a full disk is told of by what has to be written
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
    return file


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip() or "of an unknown process"
    return "of an unknown process"
