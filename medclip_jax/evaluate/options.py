"""The values that options of evaluation may have, checked before any work is done."""

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medclip_jax.errors import UserError
from medclip_jax.evaluate.request import CHOICES

_FILES = ("prompts", "queries", "candidates")
_FOLDERS = ("image_root", "compare")
PATHS = (*_FILES, *_FOLDERS)
_LARGEST_SEED = 2**32 - 1


def _is_count(value: Any) -> bool:
    return _is_integer(value) and value >= 1


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


# Of an option, or of each of its entries: what it must be, and the words for it.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("num_seeds", "max_epochs", "batch_size", "scales"),
        (_is_count, "a whole number of 1 or above"),
    ),
    "num_resamples": (
        lambda value: _is_count(value) and value > 1,  # one has no interval
        "a whole number of 2 or above",
    ),
    "learning_rate": (_is_positive, "a number above 0"),
    "fractions": (_is_positive, "a share of the studies up to 1, or a number of them above 1"),
    "ratios": (lambda value: _is_positive(value) and value < 1, "a share above 0 and below 1"),
    "seed": (
        lambda value: _is_integer(value) and 0 <= value <= _LARGEST_SEED,
        f"a whole number from 0 to {_LARGEST_SEED}",
    ),
    "tag": (
        lambda value: bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value)),
        "letters, digits, dots, dashes and underscores, a letter or digit first",
    ),
    **{
        name: (allowed.__contains__, f"one of {', '.join(allowed)}")
        for name, allowed in CHOICES.items()
    },
}


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as `Request` has them: paths as paths, lists as tuples.

    Empty lists are left out: they are the default.

    Raises:
        UserError: a value is not possible, or a file is not there.
    """
    checked = {}
    for name, value in options.items():
        values = tuple(value) if isinstance(value, list | tuple) else value
        if values == ():
            continue
        for entry in values if isinstance(values, tuple) else (values,):
            _check(name, entry)
        if name in PATHS:
            values = tuple(map(Path, values)) if isinstance(values, tuple) else Path(values)
        checked[name] = values
    return checked


def _check(name: str, value: Any) -> None:
    if name in PATHS and not os.path.exists(value):  # `Path.exists` fails for a name too long
        raise UserError(f"{flag(name)} {value}: no such file or folder")
    if name in _FILES and Path(value).is_dir():
        raise UserError(f"{flag(name)} {value} is a folder: give a file")
    if name in _FOLDERS and not Path(value).is_dir():
        raise UserError(f"{flag(name)} {value} is a file: give a folder")
    if name in _RULES:
        is_right, words = _RULES[name]
        if not is_right(value):
            raise UserError(f"{flag(name)} is {value!r}; give {words}")


def flag(name: str) -> str:
    """The command line's word for an option."""
    return "--" + name.replace("_", "-")
