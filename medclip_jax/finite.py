"""No figure, embedding or text is made of values that are not finite: the one check for that."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medclip_jax.errors import UserError


class NotFiniteError(UserError):
    """What a model makes is not finite."""


def require_finite(values: Any, what: str, rows: Sequence[Any] | None = None) -> None:
    """Refuses values among which there is a NaN or an infinity.

    Args:
        values: an array of any floating type.
        what: the values are, in the plural, for the message.
        rows: what the entries along the first axis belong to: file names or texts, or anything
            else of that length, of which the message then gives the position.

    Raises:
        NotFiniteError: a value is not finite; it names the first row that has one.
    """
    values = np.asarray(values)
    with np.errstate(invalid="ignore"):
        # The extremes are NaN if a value is, and finding them needs no memory.
        if not values.size or (np.isfinite(values.min()) and np.isfinite(values.max())):
            return
    where = ""
    if rows is not None:
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        where = f" for {len(bad)} of {len(values)}, the first {_name(rows, int(bad[0]))}"
    raise NotFiniteError(
        f"the {what} are not finite{where}: the weights have diverged or overflow the model's "
        "numeric type; use those of another step"
    )


def _name(rows: Sequence[Any], index: int) -> str:
    row = rows[index]
    name = str(row) if isinstance(row, str) or hasattr(row, "__fspath__") else ""
    return repr(name[:80]) if name else f"at position {index}"
