"""Where a row of a CSV file begins within a text: told by what the cells of each column look like.

Two texts of which the first lost its closing quote and the second its opening one are a single
text to any CSV reader. At the line break in it, the last cells of a row are followed by the first
cells of the next one.
"""

import itertools
import re
from collections.abc import Sequence

ROW_IN_TEXT = "the text holds another row of the table: the quotes around two texts were lost"
_NUM_LEARNED = 200  # rows that tell what the others look like
_SPLITS = frozenset("train training val valid validation test testing".split())
_LABELS = frozenset(("0", "1", "-1", "0.0", "1.0", "-1.0"))
_SUFFIX = re.compile(r"[a-z]\w{1,4}", re.IGNORECASE)
_MAX_LENGTH = 300  # of a path; what is longer is a text
# What is random but for its length, such as a UUID.
_CODE = re.compile(r"(?=\S*\d)\S{16,}")
_WORD = re.compile(r"[\w./-]*")
_PROSE = " "
# "L1,L2" in a report are vertebrae.
_ID = re.compile(r"(?![CTLS]\d+$)(?=\S*[^\W\d_])(?=\S*\d)\S+|(?:[^\s\d]*\d){5,}\S*")


class CellForms:
    """The forms of the cells of each column, by the rows seen so far.

    Args:
        header: the names of the columns, as the file has them: with blanks after commas or without.
    """

    def __init__(self, header: Sequence[str]) -> None:
        self._forms: list[set[str]] = [set() for _ in header]
        self._blank = " " if any(name.startswith(" ") for name in header) else ""
        self._num_learned = 0

    def learn(self, cells: Sequence[str]) -> None:
        """Takes a row for an example; after the first few hundred, for one no more."""
        if self._num_learned < _NUM_LEARNED:
            self._learn(cells)

    def hold_row(self, cells: Sequence[str]) -> bool:
        """Whether a cell of this row holds the end of one row and the beginning of the next."""
        places = [
            (before, after, column)
            for column, cell in enumerate(cells[: len(self._forms)])
            if "\n" in cell
            for before, after in itertools.pairwise(cell.split("\n"))
            if self._has_cells(before, after, column)
        ]
        if places:
            # Its other cells are those of the two rows.
            self._learn([cell if "\n" not in cell else _PROSE for cell in cells])
        return any(self._is_break(*place) for place in places)

    def begin_row(self, before: str, after: str) -> bool:
        """Whether a line begins a row, if the line before is of a row whose quotes are damaged."""
        first = after.split(",")
        return any(
            self._fits(first[:column], range(column), needs_name=True)
            for column in range(self._num_before_prose() + 1)
        ) or any(
            self._has_cells(before, after, column) and self._is_break(before, after, column)
            for column in range(len(self._forms))
        )

    def _learn(self, cells: Sequence[str]) -> None:
        self._num_learned += 1
        for forms, cell in zip(self._forms, cells, strict=False):
            forms.add(_form(cell.strip()))

    def _num_before_prose(self) -> int:
        prose = (n for n, forms in enumerate(self._forms) if _PROSE in forms)
        return next(prose, len(self._forms))

    def _has_cells(self, before: str, after: str, column: int) -> bool:
        return before.count(",") >= len(self._forms) - 1 - column and after.count(",") >= column

    def _is_break(self, before: str, after: str, column: int) -> bool:
        """Whether a row ends with one line and begins with the next, around a text of `column`."""
        text, *last = before.rsplit(",", len(self._forms) - 1 - column)
        first = after.split(",")[:column]
        last_columns = range(column + 1, len(self._forms))
        if not self._fits(last, last_columns) or not self._fits(first, range(column)):
            return False
        return (
            self._fits(last, last_columns, needs_name=True)
            or self._fits(first, range(column), needs_name=True)
            # One label is enough behind a word; "3,1" is a decimal or a list.
            or (not text[-1:].isdigit() and any(map(self._is_label, last, last_columns)))
        )

    def _fits(self, cells: Sequence[str], columns: range, needs_name: bool = False) -> bool:
        """Whether cells look like those of the columns; `needs_name`: and one like no prose."""
        cells = [cell.replace('"', "").removeprefix(self._blank) for cell in cells]
        if len(cells) != len(columns):
            return False
        known = [self._forms[column] for column in columns]
        if needs_name and not any(
            _form(cell) in forms and _names_a_row(cell)
            for cell, forms in zip(cells, known, strict=True)
        ):
            return False
        return all(
            _WORD.fullmatch(cell) or _PROSE in forms or _form(cell) in forms
            for cell, forms in zip(cells, known, strict=True)
        )

    def _is_label(self, cell: str, column: int) -> bool:
        forms = self._forms[column]
        return cell.removeprefix(self._blank) in _LABELS and bool(forms) and forms <= _LABELS | {""}


def _form(cell: str) -> str:
    """What cells of a column have in common: "p7" and "p12", "a.png" and "b c.png"."""
    if suffix := _suffix(cell):
        return f"*.{suffix}"
    if len(cell) > _MAX_LENGTH or re.search(r"\s", cell):
        return _PROSE
    if _CODE.fullmatch(cell):
        return re.sub(r"[^\W_]+", "#", cell)
    return cell if cell in _LABELS else re.sub(r"\d+", "#", cell)


def _names_a_row(cell: str) -> bool:
    """Whether a cell, if others of its column look so, is a path, an id or a split, and no text."""
    if len(cell) > _MAX_LENGTH:
        return False
    return bool(_suffix(cell) or cell.casefold() in _SPLITS or _ID.fullmatch(cell))


def _suffix(cell: str) -> str:
    stem, _, suffix = cell.rpartition(".")
    return suffix if 0 < len(stem) < _MAX_LENGTH and _SUFFIX.fullmatch(suffix) else ""
