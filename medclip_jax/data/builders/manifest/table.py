"""A CSV or JSON Lines file as rows of text cells, whichever program wrote it."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from medclip_jax.errors import UserError


class TableRow(NamedTuple):
    """A row of a table.

    Attributes:
        number: the row as a spreadsheet counts it, so the row below a CSV's header is 2; the line
            of a JSON Lines file.
        cells: column name to text, without white space around it; empty where there is no value.
        problem: why the row cannot be read, or "".
    """

    number: int
    cells: dict[str, str]
    problem: str = ""


class Table(NamedTuple):
    """A table: the names of its columns and its rows."""

    columns: tuple[str, ...]
    rows: list[TableRow]


def read_table(path: Path) -> Table:
    """Reads a `.csv` file with a header, or a `.jsonl` file with an object a line.

    The text is UTF-8, with or without a byte order mark, or else Latin-1. A row that cannot be
    read stays in the table with its `problem`.

    Raises:
        UserError: the file is missing, of another kind, empty, or names a column twice.
    """
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"{path}: a manifest must be a .csv or a .jsonl file")
    text = _decode(path)
    table = _read_json_lines(text) if path.suffix.lower() == ".jsonl" else _read_csv(path, text)
    if not table.rows:
        raise UserError(f"{path}: the manifest has no rows")
    return table


def _decode(path: Path) -> str:
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the manifest cannot be read ({error.strerror})") from error
    if b"\0" in encoded:
        raise UserError(f"{path}: not UTF-8 or Latin-1 text; save the manifest as UTF-8")
    try:
        return encoded.decode("utf-8-sig")
    except UnicodeDecodeError:
        return encoded.decode("latin-1")


def _read_csv(path: Path, text: str) -> Table:
    csv.field_size_limit(sys.maxsize)  # a report may be longer than the module's 128 KiB
    # Only what ends a line of a CSV may split it, not all that Unicode calls a line end.
    records = csv.reader(_physical_lines(text))
    try:
        header = tuple(name.strip() for name in next(records, []))
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice:
            raise UserError(f"{path}: the header names {', '.join(twice)} more than once")
        rows = [
            _csv_row(number, header, record)
            for number, record in enumerate(records, start=2)
            if any(cell.strip() for cell in record)
        ]
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file, line {records.line_num}: {error}") from error
    return Table(header, rows)


def _physical_lines(text: str) -> Iterator[str]:
    return (line + "\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))


def _csv_row(number: int, header: tuple[str, ...], record: list[str]) -> TableRow:
    cells = {name: cell.strip() for name, cell in zip(header, record, strict=False)}
    extra = len(record) - len(header)
    problem = f"{extra} more cells than the header has names" if extra > 0 else ""
    return TableRow(number, dict.fromkeys(header, "") | cells, problem)


def _read_json_lines(text: str) -> Table:
    rows = [
        _json_row(number, line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    columns = tuple(dict.fromkeys(name for row in rows for name in row.cells))
    empty = dict.fromkeys(columns, "")
    return Table(columns, [row._replace(cells=empty | row.cells) for row in rows])


def _json_row(number: int, line: str) -> TableRow:
    try:
        values = json.loads(line)
    except ValueError as error:
        return TableRow(number, {}, f"not JSON ({error})")
    if not isinstance(values, dict):
        return TableRow(number, {}, "not a JSON object")
    return TableRow(number, {name.strip(): _cell(value) for name, value in values.items()})


def _cell(value: Any) -> str:
    """A JSON value as the text that a CSV would hold."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "|".join(_cell(item) for item in value)
    return str(int(value) if isinstance(value, bool) else value).strip()
