"""What stands in a manifest's cells: a label's value, a list of labels, or nothing."""

import ast
import json
import math
import re
from typing import Any

# How pandas, R and spreadsheets write that there is nothing, in lower case.
_NOTHING = frozenset(
    "nan -nan na n/a #n/a #na <na> none null nat 1.#qnan -1.#qnan 1.#ind -1.#ind".split()
    + ["#n/a n/a"]
)
_LABEL_VALUES = {1.0: 1.0, 0.0: 0.0, -1.0: math.nan}
_BRACKETED = re.compile(r"\[.*\]|\{.*\}|\(\s*(?:['\"].*|[\d\s.,-]+)\)", re.DOTALL)
# One end of a list; labels themselves may have brackets.
_LIST_END = re.compile(r"[\[{].*|\(\s*['\"].*|.*[\]}]|.*['\"],?\s*\)", re.DOTALL)
# NumPy's arrays have blanks between their items, not commas.
_NUMPY_LIST = re.compile(r"['\"]\s+['\"]")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def without_nothing(cell: str) -> str:
    """The cell, or "" if all of it says that there is nothing: "nan", "NA", "None", "null", ….

    A sentence such as "None." is left as it is.
    """
    return "" if cell.casefold() in _NOTHING else cell


def parse_label(cell: str) -> float | None:
    """A label's value: 1 or 0; NaN where it is unknown (-1, or nothing); None if it is none.

    Decimals may have a comma.
    """
    try:
        number = float(without_nothing(cell).replace(",", ".") or "nan")
    except ValueError:
        return None
    return math.nan if math.isnan(number) else _LABEL_VALUES.get(number)


def split_labels(cell: str, separator: str = "|") -> list[str] | None:
    """The labels that a cell lists, each once; None if it is a list that cannot be read.

    Args:
        cell: labels joined by the separator, or a list as Python, NumPy or JSON writes it.
        separator: what joins labels that are not in brackets.
    """
    if _LIST_END.fullmatch(cell) and not _is_balanced(cell):
        return None  # it was cut short
    items = _listed(cell) if _BRACKETED.fullmatch(cell) else cell.split(separator)
    if items is None:
        return None
    names = (without_nothing(item.strip()) for item in items)
    return list(dict.fromkeys(name for name in names if name))


def _is_balanced(cell: str) -> bool:
    return all(cell.count(left) == cell.count(right) for left, right in ("[]", "{}", "()"))


def _listed(cell: str) -> list[str] | None:
    if _NUMPY_LIST.search(cell):
        return [single or double for single, double in _QUOTED.findall(cell)]
    for parse in (json.loads, ast.literal_eval):
        try:
            return _names(parse(cell))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue  # the last two: brackets within brackets within brackets
    if re.search(r"['\":{}]", cell):
        return None
    return re.split(r"[,;|]", cell[1:-1])


def _names(value: Any) -> list[str] | None:
    """The texts in a parsed list, or None if it is none: an object has labels that are absent."""
    if isinstance(value, str):
        return [value]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, int | float):
        return [str(value)]
    if not isinstance(value, list | tuple | set):
        return None
    parts = [_names(item) for item in value]
    return None if None in parts else [name for part in parts for name in part or ()]
