"""How a run that cannot go on ends: at once, with one line, whatever its other processes do.

A process that ends in the usual way waits for the others at its exit, and they for it in a
collective: so one of several that fails is ended without JAX's farewell.
"""

import contextlib
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import jax

from medclip_jax.errors import UserError
from medclip_jax.train.checksums import saved_steps

AGAIN = "start all processes again, they go on from there"

_LOST = re.compile("(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): ")

# JAX ends a process, without a word to Python, when its coordination service misses a peer. This
# shell waits beside it on a pipe, which closes at any end, and speaks unless told to be quiet.
_LAST_WORDS = """
read -r _ && exit
step=$(ls "$2" 2>/dev/null | grep -x '[0-9][0-9]*' | sort -n | tail -n 1)
why="most likely because another process has gone (see its log)"
echo "medclip-jax: process $1 was ended, $why; the last saved step is ${step:-none}: $3" >&2
"""


class DiskError(UserError):
    """The workdir cannot be written; libraries that would write at the exit must not get there."""


@contextlib.contextmanager
def ends_at_once(workdir: Path) -> Iterator[None]:
    """Ends this process where the block fails, if it is one of several or the disk is full.

    The status is 2 where the user can mend it, as without other processes, else 1: start again.
    """
    checkpoints = workdir / "checkpoints"
    several = jax.process_count() > 1
    words = _last_words(checkpoints) if several else None
    try:
        yield
    except UserError as error:
        if not several and not isinstance(error, DiskError):
            raise
        _leave(words, f"medclip-jax: {error}", 2)
    except (Exception, KeyboardInterrupt) as error:
        if not several:
            raise
        _leave(words, _explanation(error, checkpoints), 1)
    _silence(words)


def lost_a_process(error: BaseException) -> bool:
    """Whether another process has gone, which JAX tells as a computation that failed.

    It is a ValueError where the failure is known when the computation is started, else a
    JaxRuntimeError, and begins with the status of the collective.
    """
    return jax.process_count() > 1 and bool(_LOST.match(str(error)))


def _explanation(error: BaseException, checkpoints: Path) -> str:
    """A line if another process has gone; else the whole traceback."""
    if not lost_a_process(error):
        return "".join(traceback.format_exception(error))
    steps = saved_steps(checkpoints)
    reason = str(error).partition("\n")[0]
    return (
        f"medclip-jax: process {jax.process_index()} has lost another process ({reason}); the last "
        f"saved step is {steps[-1] if steps else 'none'}: {AGAIN}"
    )


def _last_words(checkpoints: Path) -> subprocess.Popen[bytes]:
    arguments = [str(jax.process_index()), str(checkpoints), AGAIN]
    return subprocess.Popen(
        ["sh", "-c", _LAST_WORDS, "last-words", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the run
    )


def _silence(words: subprocess.Popen[bytes] | None) -> None:
    if words is not None:
        with contextlib.suppress(OSError):  # it has gone before
            words.communicate(b"\n")


def _leave(words: subprocess.Popen[bytes] | None, message: str, status: int) -> None:
    _silence(words)
    print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
