"""The rows of a manifest, checked one by one."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medclip_jax.data.builders.manifest.cells import parse_label, split_labels, without_nothing
from medclip_jax.data.builders.manifest.columns import (
    COLUMNS,
    SPLIT_NAMES,
    suggest,
    unused_columns,
    unused_lines,
)
from medclip_jax.data.builders.rows import (
    Rejection,
    Row,
    Source,
    check_splits,
    group_studies,
    path_problem,
)
from medclip_jax.data.table import Table, TableRow, list_columns, read_table
from medclip_jax.errors import UserError

_NUM_SHOWN = 3  # names that a message gives


class Manifest(NamedTuple):
    """What a manifest lists, and the names of its labels."""

    source: Source
    label_names: tuple[str, ...]


class _Labels(NamedTuple):
    """Where labels are read: from columns of their own, or from one that lists those present."""

    names: tuple[str, ...]
    listed_in: str | None
    separator: str = "|"

    def read(self, row: TableRow) -> tuple[float, ...] | str:
        """The row's labels, or what is wrong with them."""
        if self.listed_in is not None:
            return self._read_list(row.cells[self.listed_in])
        values = [parse_label(row.cells[name]) for name in self.names]
        for name, value in zip(self.names, values, strict=True):
            if value is None:
                return f"label {name} is {row.cells[name]!r}; it must be 1, 0, -1 or empty"
        return tuple(value for value in values if value is not None)

    def _read_list(self, cell: str) -> tuple[float, ...] | str:
        present = split_labels(without_nothing(cell), self.separator)
        if present is None:
            return f"{self.listed_in} is {cell!r}; it must be labels joined by | or a list of them"
        return tuple((float(name in present) if present else math.nan) for name in self.names)


def read_manifest(
    path: Path,
    image_root: Path,
    label_columns: Sequence[str] = (),
    labels_from: str | None = None,
) -> Manifest:
    """Reads a manifest and checks all of it that can be checked without decoding an image.

    A row without `study_id` is a study of its own; without `patient_id`, its patient is the study;
    without `split`, it belongs to "train". Study ids count within their patient. A cell that says
    that there is nothing ("nan", "NA", "None", …) is empty.

    Args:
        path: the CSV or JSON Lines file.
        image_root: what `image_path` is relative to.
        label_columns: columns that hold 1 (present), 0 (absent), -1 (uncertain, which is read as
            unknown) or nothing (unknown).
        labels_from: a column that lists the present labels, joined by "|" (or by ";" if no row has
            a "|"), or as a list in brackets. Labels that it does not list are absent; an empty cell
            leaves all unknown.

    Raises:
        UserError: the file or a column is missing, a column is almost certainly meant for another
            one, or a patient is in two splits.
    """
    if not image_root.is_dir():
        raise UserError(f"{image_root}: the image root is not a folder")
    table = read_table(path)
    labels = _label_source(path, table, label_columns, labels_from)
    used = [labels.listed_in] if labels.listed_in else labels.names
    notes = unused_lines(unused_columns(path, table, used))
    rows, rejected = [], []
    for table_row in table.rows:
        row = _check_row(table_row, image_root, labels)
        if isinstance(row, Row):
            rows.append(row)
        else:
            rejected.append(Rejection(table_row.number, table_row.cells.get("image_path", ""), row))
    check_splits(rows)
    notes += [*_patient_notes(table, rows), *_label_notes(labels)]
    source = Source(image_root, group_studies(rows), rejected, len(table.rows), notes=notes)
    return Manifest(source, labels.names)


def _label_source(
    path: Path, table: Table, label_columns: Sequence[str], labels_from: str | None
) -> _Labels:
    columns = table.columns
    if not {"image_path", "text"} & set(columns):
        raise UserError(
            f"{path}: needs a column image_path or text; {list_columns(columns)}{suggest(columns)}"
        )
    if label_columns and labels_from:
        raise UserError("give either label columns or one column to take labels from, not both")
    wanted = [labels_from] if labels_from else list(label_columns)
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; {list_columns(columns)}")
    if labels_from is None:
        return _Labels(tuple(dict.fromkeys(label_columns)), None)
    cells = [without_nothing(row.cells[labels_from]) for row in table.rows if not row.problem]
    separator = ";" if any(";" in c for c in cells) and not any("|" in c for c in cells) else "|"
    listed = {name for cell in cells for name in split_labels(cell, separator) or ()}
    return _Labels(tuple(sorted(listed)), labels_from, separator)


def _patient_notes(table: Table, rows: Sequence[Row]) -> list[str]:
    """A line if rows of several splits do not say whose they are."""
    nameless = sum(
        not row.problem and not without_nothing(row.cells.get("patient_id", ""))
        for row in table.rows
    )
    if not nameless or len({row.split for row in rows}) < 2:
        return []
    return [
        f"warning: {nameless} of {len(table.rows)} rows have no patient_id: each of their studies "
        "counts as that of another patient, so a patient may be in two splits"
    ]


def _label_notes(labels: _Labels) -> list[str]:
    """A line if labels look like several in one."""
    joined = [name for name in labels.names if "," in name] if labels.listed_in else []
    if not joined:
        return []
    shown = ", ".join(map(repr, joined[:_NUM_SHOWN]))
    return [
        f"warning: labels with a comma count as one label each ({len(joined)}: {shown}"
        f"{', …' if joined[_NUM_SHOWN:] else ''}); join several labels with |"
    ]


def _check_row(row: TableRow, image_root: Path, labels: _Labels) -> Row | str:
    """The row, or the reason to leave it out."""
    if row.problem:
        return row.problem
    cells = {name: without_nothing(row.cells.get(name, "")) for name in COLUMNS}
    image_path, text = cells["image_path"], cells["text"]
    split = SPLIT_NAMES.get(cells["split"].casefold() or "train")
    values = labels.read(row)
    if not image_path and not text:
        return "no image and no text"
    if split is None:
        return f"unknown split {cells['split']!r}; it must be train, validation or test"
    if isinstance(values, str):
        return values
    if image_path and (problem := path_problem(image_root, image_path)):
        return problem
    study_id = cells["study_id"] or f"row-{row.number}"
    return Row(
        number=row.number,
        image_path=image_path,
        text=text,
        patient_id=cells["patient_id"] or study_id,
        study_id=study_id,
        split=split,
        view=cells["view"].upper(),
        labels=values,
    )
