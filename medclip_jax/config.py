"""Configurations: the keys every run has, how a file and overrides become one, how it is checked.

`base_config` is the schema. A config file starts from it and sets values; an unknown key, or a
value of another type, is an error of one line wherever it comes from.
"""

import difflib
import importlib.util
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from medclip_jax.base_config import ABOVE, BELOW, LEAST, NOTHING, ON_RESUME, base_config
from medclip_jax.errors import UserError


class Change(NamedTuple):
    """A key in which a resumed run differs from before, and what comes of it."""

    key: str
    before: Any
    after: Any
    effect: str


def find_config(path: str) -> str:
    """The file that `path` ("X.py" or "X.py:argument") names: itself, else the packaged config."""
    file, colon, argument = path.partition(":")
    if Path(file).is_file():
        return path
    package = importlib.util.find_spec("medclip_jax.configs")
    here = Path(__file__).parent
    folders = [Path(p) for p in package.submodule_search_locations or []] if package else []
    for folder in [*folders, here.parent / "configs"]:
        packaged = folder / Path(file).name
        if packaged.is_file():
            return f"{packaged}{colon}{argument}"
    raise UserError(
        f"config file {file} not found (nor packaged); give --config PATH.py[:argument]"
    )


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Reads a config file and applies overrides such as `--config.batch_size=64`.

    Raises:
        UserError: the file is missing or broken, or a key or a value's type is unknown.
    """
    arguments = ["medclip-jax", f"--config={find_config(path)}", *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
        config = values.config
    except UserError:
        raise
    except Exception as error:  # ml_collections raises many kinds; each is the user's input here
        what = "unknown key " if isinstance(error, KeyError) else ""
        message = " ".join(str(error.args[0] if error.args else error).split())
        raise UserError(f"--config {path}: {what}{message}") from error
    validate(config)
    return config


def validate(config: ConfigDict) -> None:
    """Raises a UserError that names the first key that is unknown, missing or of another type."""
    expected, given = dict(flatten(base_config())), dict(flatten(config))
    for key in given:
        if key not in expected:
            near = difflib.get_close_matches(key, expected, n=1)
            raise UserError(f"unknown config key {key}" + f"; did you mean {near[0]}?" * bool(near))
    for key, default in expected.items():
        if key not in given:
            raise UserError(
                f"config key {key} is missing: start from medclip_jax.config.base_config"
            )
        value = given[key]
        number = isinstance(default, float) and isinstance(value, int)
        if not isinstance(value, type(default)) and not number:
            raise UserError(
                f"config key {key} is {value!r}, but must be of type {type(default).__name__}"
            )
        if isinstance(default, int | float):
            _check_range(key, value)


def _check_range(key: str, value: float) -> None:
    """Raises a UserError where a number is not finite, or out of its range."""
    ranges = {
        f"{LEAST.get(key)} or more": value >= LEAST.get(key, value),
        f"above {ABOVE.get(key)}": value > ABOVE.get(key, -math.inf),
        f"below {BELOW.get(key)}": value < BELOW.get(key, math.inf),
        f"below {2**31}": isinstance(value, float) or value < 2**31,
    }
    wanted = [wanted for wanted, is_so in ranges.items() if not is_so]
    if not math.isfinite(value):
        wanted = ["a finite number"]
    if wanted:
        raise UserError(f"config key {key} is {value}, but must be {wanted[0]}")


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config as ("optimizer.learning_rate", value) pairs."""
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def write_config(config: ConfigDict, path: Path) -> None:
    """Writes a config as JSON."""
    path.write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def read_config(path: Path) -> ConfigDict:
    """Reads what `write_config` wrote; JSON's lists become the tuples they were.

    Keys that a later version added have their defaults, which keep what was before.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} not found: {path.parent} is not a run's workdir") from None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UserError(
            f"{path} is not valid JSON of a config; restore it or start a new --workdir"
        )
    config = ConfigDict(tuples(_with_defaults(values, base_config().to_dict()))).lock()
    validate(config)
    return config


def _with_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values, and at every level the defaults of the keys that are not there."""
    parts = {key: default for key, default in defaults.items() if isinstance(default, dict)}
    nested = {
        key: _with_defaults(value, part)
        for key, part in parts.items()
        if isinstance(value := values.get(key, {}), dict)  # what is none is refused after this
    }
    return defaults | values | nested


def check_same_run(saved: ConfigDict, config: ConfigDict) -> list[Change]:
    """In what a resumed run differs from before, as far as that may change a figure.

    Raises:
        UserError: it differs in a key that a resumed run may not change.
    """
    before = dict(flatten(saved))
    changes = []
    for key, value in flatten(config):
        if before[key] == value:
            continue
        if key not in ON_RESUME:
            raise UserError(
                f"the workdir holds a run with {key}={before[key]!r}, this one has {value!r}: "
                "give another --workdir or the same config"
            )
        if ON_RESUME[key] != NOTHING:
            changes.append(Change(key, before[key], value, ON_RESUME[key]))
    return changes


def tuples(value: Any) -> Any:
    """What JSON gave, with its lists as the tuples that they were."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
