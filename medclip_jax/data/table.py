"""A CSV or JSON Lines file as rows of text cells, whichever program wrote it."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from medclip_jax.data.cell_forms import ROW_IN_TEXT, CellForms
from medclip_jax.data.csv_records import Record, read_records
from medclip_jax.data.text_encoding import SURROGATE, text_encoding
from medclip_jax.errors import UserError

_CHUNK = 1 << 20  # bytes


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


def read_table(
    path: Path, required: Collection[str] = (), columns: Collection[str] | None = None
) -> Table:
    """Reads a `.csv` or `.csv.gz` file with a header, or a `.jsonl` file with an object a line.

    The text is UTF-8, with or without a byte order mark, or else Windows-1252 or Latin-1. A row
    that cannot be read stays in the table with its `problem` and the cells that are certain.

    Args:
        path: the file.
        required: columns that it must have.
        columns: the only columns to keep, which saves memory; `required` is kept too.

    Raises:
        UserError: the file is missing, of another kind, cut short, empty, lacks a column or names
            one twice.
    """
    name = path.name.lower()
    if not name.endswith((".csv", ".csv.gz", ".jsonl")):
        raise UserError(f"{path}: a table must be a .csv, .csv.gz or .jsonl file")
    wanted = None if columns is None else {*columns, *required}
    reader = _read_json_lines if name.endswith(".jsonl") else _read_csv
    table = _read(path, lambda text: reader(path, text, wanted))
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; {list_columns(table.columns)}")
    if not table.rows:
        raise UserError(f"{path}: the file has no rows")
    return table


def list_columns(columns: Sequence[str]) -> str:
    """The columns as the end of a message that one is missing."""
    listed = f"its columns are: {', '.join(columns)}"
    separators = {"semicolons": ";", "tabs": "\t"}
    for name, separator in separators.items():
        if any(separator in column for column in columns):
            return f"{listed} (these are separated by {name}: save the file with commas)"
    return listed


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without white space around them; empty ones are left out.

    Raises:
        UserError: the file is missing or is no text.
    """
    return _read(path, lambda text: [line.strip() for line in text if line.strip()])


def _read(path: Path, read: Callable[[io.TextIOWrapper], Any]) -> Any:
    """What `read` makes of the file's text, in which every line ends with a line feed."""
    try:
        with _open(path) as file:
            encoding = text_encoding(_chunks(path, file))
            file.seek(0)
            return read(io.TextIOWrapper(file, encoding))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged or cut short; download it again ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _open(path: Path) -> BinaryIO:
    opened = gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")
    return cast(BinaryIO, opened)


def _chunks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        if b"\0" in chunk:
            raise UserError(f"{path}: not UTF-8 or Latin-1 text; save the file as UTF-8")
        yield chunk


def _read_csv(path: Path, text: io.TextIOWrapper, wanted: Collection[str] | None) -> Table:
    records = read_records(text)
    first = next(records, Record(1, []))
    if first.problem:
        raise UserError(f"{path}: the header cannot be read: {first.problem}")
    header = tuple(name.strip() for name in first.cells)
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise UserError(f"{path}: the header names {', '.join(twice)} more than once")
    kept = [i for i, name in enumerate(header) if wanted is None or name in wanted]
    return Table(header, [_csv_row(header, kept, record) for record in records])


def _csv_row(header: tuple[str, ...], kept: Sequence[int], record: Record) -> TableRow:
    cells = record.cells
    named = {header[i]: cells[i].strip() if i < len(cells) else "" for i in kept}
    return TableRow(record.number, named, record.problem)


def _read_json_lines(path: Path, text: io.TextIOWrapper, wanted: Collection[str] | None) -> Table:
    rows = [_json_row(number, line) for number, line in _numbered(text)]
    if rows and all(row.problem for row in rows):
        raise UserError(
            f"{path}: no line can be read; a .jsonl file has a JSON object in each line "
            f"(line {rows[0].number}: {rows[0].problem})"
        )
    columns = tuple(dict.fromkeys(name for row in rows for name in row.cells))
    kept = [name for name in columns if wanted is None or name in wanted]
    forms = CellForms(columns)
    for number, row in enumerate(rows):
        cells = {name: row.cells.get(name, "") for name in columns}
        problem = row.problem or (ROW_IN_TEXT if forms.hold_row(list(cells.values())) else "")
        if not problem:
            forms.learn(list(cells.values()))
        rows[number] = TableRow(row.number, {name: cells[name] for name in kept}, problem)
    return Table(columns, rows)


def _numbered(text: io.TextIOWrapper) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(text, start=1) if line.strip())


def _json_row(number: int, line: str) -> TableRow:
    try:
        values = json.loads(line)
        if not isinstance(values, dict):
            return TableRow(number, {}, "not a JSON object")
        read = {name.strip(): _cell(value) for name, value in values.items()}
    except RecursionError:
        return TableRow(number, {}, "not JSON (too many brackets within brackets)")
    except ValueError as error:
        return TableRow(number, {}, f"not JSON ({error})")
    cells = {name: cell for name, cell in read.items() if not SURROGATE.search(name + cell)}
    if len(cells) < len(read):
        return TableRow(number, cells, "half a character: a surrogate without the other one")
    objects = [name for name, value in values.items() if isinstance(value, dict)]
    return TableRow(number, cells, f"{objects[0]} is a JSON object" if objects else "")


def _cell(value: Any) -> str:
    """A JSON value as the text that a CSV would hold."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "|".join(_cell(item) for item in value)
    return str(int(value) if isinstance(value, bool) else value).strip()
