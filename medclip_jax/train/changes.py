"""`changes.jsonl`: in what a run was resumed otherwise than it began.

One object a line: `key` was `before` up to `step`, and is `after` from then on; `config.json` has
the last values. A run that goes back to an earlier step takes the changes after it back.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from medclip_jax.config import Change, read_config, tuples
from medclip_jax.errors import UserError

CHANGES = "changes.jsonl"
_KEYS = {"step", "key", "before"}


def config_at(workdir: Path, step: int) -> ConfigDict:
    """The config that a run had up to `step`, without the changes that were made after it."""
    config = read_config(workdir / "config.json")
    for line in reversed(_read(workdir / CHANGES)):
        if line["step"] > step:
            config.update_from_flattened_dict({line["key"]: tuples(line["before"])})
    return config


def record(workdir: Path, step: int, changes: Sequence[Change]) -> None:
    """Notes the changes with which a run is resumed at `step`, in place of those made after it."""
    path = workdir / CHANGES
    before = _read(path)
    kept = [line for line in before if line["step"] <= step]
    new = [
        {"step": step, "key": change.key, "before": change.before, "after": change.after}
        for change in changes
    ]
    if kept + new == before:
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept + new))
    os.replace(temporary, path)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except ValueError:
        lines = [None]
    if not all(isinstance(line, dict) and line.keys() >= _KEYS for line in lines):
        raise UserError(f"{path} is damaged: remove it, or restore it from a copy")
    return lines
