"""The records of a CSV file, where a record whose quotes are wrong spoils no other one.

Python's `csv` reads a text that has lost its closing quote up to the next quote, which stands in
another row, and goes on from there as if nothing had happened.
"""

import collections
import contextlib
import csv
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from medclip_jax.data.cell_forms import ROW_IN_TEXT, CellForms

_BLANKS_AFTER_QUOTE = re.compile(r'"[ \t]+(?=,|$)')
_QUOTES = "a quote is missing, or stands within a text without being doubled"


class Record(NamedTuple):
    """A record of a CSV file.

    Attributes:
        number: the row as a spreadsheet counts it: the header is 1, empty rows count.
        cells: its cells; of a record with a `problem`, those that are certain.
        problem: why it cannot be read, or "".
    """

    number: int
    cells: list[str]
    problem: str = ""


def read_records(lines: Iterable[str]) -> Iterator[Record]:
    """The records of a file, the first of which is the header; empty ones are left out.

    A record is damaged if its quotes do not match, if it takes several lines and has not as many
    cells as the header has names, or if one of its texts holds another row. It is given up after
    its first line, and the next one begins with the first line that is a record without any
    problem. What is left of a text in between belongs to the damaged record, but a line that begins
    as rows of the table do is a damaged record of its own.

    Args:
        lines: the lines of the file, each ended by a line feed.
    """
    with _without_field_limit():
        yield from _records(_Lines(lines))


def _records(lines: "_Lines") -> Iterator[Record]:
    header: list[str] | None = None
    forms = CellForms([])
    damaged: list[_DamagedLine] = []
    number = 0
    while True:
        start = lines.position + 1
        try:
            cells = _next_cells(lines)
        except StopIteration:
            break
        is_empty = cells is not None and not any(cell.strip() for cell in cells)
        problem = f"{_QUOTES} (line {start})" if cells is None else _cells_problem(header, cells)
        if cells and not problem and len(lines.taken) > 1 and forms.hold_row(cells):
            problem = f"{ROW_IN_TEXT} (line {start})"
        if cells is None or (problem and len(lines.taken) > 1) or (damaged and problem):
            damaged.append(_DamagedLine(lines.taken[0], problem))
            lines.give_back(lines.taken[1:])
            continue
        if damaged and is_empty:
            continue
        if header is None and not is_empty:
            header, forms = cells, CellForms(cells)
        elif not is_empty and not problem:
            forms.learn(cells)
        for record in _damaged_records(damaged, forms, number):
            number = record.number
            yield record
        damaged = []
        number += 1
        if not is_empty:
            yield Record(number, cells, problem)
    yield from _damaged_records(damaged, forms, number)


class _DamagedLine(NamedTuple):
    line: str
    problem: str


def _damaged_records(
    damaged: Sequence[_DamagedLine], forms: CellForms, number: int
) -> Iterator[Record]:
    """The records in successive lines that cannot be read, after the record `number`."""
    before = ""
    for line, problem in damaged:
        certain = line.partition('"')[0].split(",")[:-1]
        if not before:
            forms.learn(certain)
        if not before or forms.begin_row(before.rstrip("\n"), line.rstrip("\n")):
            number += 1
            yield Record(number, certain, problem)
        before = line


def _cells_problem(header: list[str] | None, cells: list[str]) -> str:
    if header is None or len(cells) == len(header):
        return ""
    # Programs end rows and headers with commas, together or not.
    num_names = max((i for i, name in enumerate(header, 1) if name.strip()), default=0)
    num_cells = max((i for i, cell in enumerate(cells, 1) if cell.strip()), default=0)
    if num_cells > len(header):
        return f"{num_cells - len(header)} more cells than the header has names"
    # Such as the last row of a file that was cut short.
    if num_cells and len(cells) < num_names:
        return f"{num_names - len(cells)} fewer cells than the header has names"
    return ""


def _next_cells(lines: "_Lines") -> list[str] | None:
    """The cells of the next record, None if its quotes are wrong; `lines.taken` are its lines."""
    lines.taken = []
    first = next(lines)
    if '"' not in first:  # most rows of most tables
        return first.removesuffix("\n").split(",")
    cells = _strict_cells(first, lines)
    if cells is None and any(_BLANKS_AFTER_QUOTE.search(line) for line in lines.taken):
        # Strictly, no blank may stand between a closing quote and the comma.
        as_read = lines.taken
        lines.give_back([_BLANKS_AFTER_QUOTE.sub('"', line) for line in as_read])
        lines.taken = []
        cells = _strict_cells(next(lines), lines)
        lines.taken = [*as_read, *lines.taken[len(as_read) :]]
    return cells


def _strict_cells(first: str, lines: "_Lines") -> list[str] | None:
    """The cells of the record that begins with a line, which is the first of `lines.taken`."""
    try:
        text = itertools.chain([first], lines)
        cells = next(csv.reader(text, strict=True, skipinitialspace=True))
    except csv.Error:
        return None
    # The module takes quotes within a cell that does not begin with one; an odd one lacks another.
    return None if sum(line.count('"') for line in lines.taken) % 2 else cells


class _Lines:
    """Lines of which some can be given back, to be read again."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._given_back: collections.deque[str] = collections.deque()
        self.taken: list[str] = []
        self.position = 0  # the number of the last line that was taken

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._given_back.popleft() if self._given_back else next(self._lines)
        self.taken.append(line)
        self.position += 1
        return line

    def give_back(self, lines: list[str]) -> None:
        """Makes these the next lines; they are the last that were taken."""
        self._given_back.extendleft(reversed(lines))
        self.position -= len(lines)


@contextlib.contextmanager
def _without_field_limit() -> Iterator[None]:
    """Lets a report be longer than the module's 128 KiB, which is a setting of the process."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
