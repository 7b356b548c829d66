"""Going back to an earlier step of a run: what came after it is set aside, not deleted."""

import os
import shutil
import sys
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from medclip_jax.errors import UserError
from medclip_jax.train.changes import CHANGES
from medclip_jax.train.checksums import find_damage, saved_steps

SET_ASIDE = "set_aside"


def check_whole(workdir: Path, step: int) -> None:
    """Raises a UserError where there is no whole checkpoint of that step."""
    if jax.process_index() > 0:  # which wait for the first at the next collective
        return
    directory = workdir / "checkpoints"
    there = step in saved_steps(directory)
    damage = find_damage(directory / str(step)) if there else "nothing was saved at it"
    if damage:
        raise UserError(
            f"--from-step {step}: {directory} has no whole checkpoint of that step ({damage}); "
            f"{other_steps(workdir, step)}"
        )


def rewind(workdir: Path, step: int) -> None:
    """Makes `step` the last one of a run, so that it is resumed from there.

    Later checkpoints are moved to `WORKDIR/set_aside/after_STEP`, with a copy of the metrics, of
    which resuming cuts off the later lines.
    """
    if jax.process_index() == 0:
        _set_aside(workdir, step)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the later checkpoints are set aside")


def _set_aside(workdir: Path, step: int) -> None:
    directory = workdir / "checkpoints"
    later = [saved for saved in saved_steps(directory) if saved > step]
    aside = _new_directory(workdir / SET_ASIDE / f"after_{step}")  # also as a mark, if empty
    if not later:
        return
    for name in ("metrics.jsonl", CHANGES):
        if (workdir / name).exists():
            shutil.copy(workdir / name, aside)
    for saved in reversed(later):  # the last first: what remains at any moment can be resumed
        os.replace(directory / str(saved), aside / str(saved))
    names = ", ".join(map(str, later))
    print(f"going back to step {step}: the checkpoints {names} are now in {aside}", file=sys.stderr)


def other_steps(workdir: Path, step: int) -> str:
    """The steps that are saved beside `step`, in words."""
    steps = [str(saved) for saved in saved_steps(workdir / "checkpoints") if saved != step]
    return f"there are the steps {', '.join(steps)}" if steps else "there is no other"


def _new_directory(path: Path) -> Path:
    """Makes the directory; a name that is taken gets a number."""
    new, number = path, 0
    while new.exists():
        number += 1
        new = path.with_name(f"{path.name}.{number}")
    new.mkdir(parents=True)
    return new
