"""The rows of a manifest, checked one by one."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medclip_jax.data.builders.rows import (
    SPLITS,
    Rejection,
    Row,
    Source,
    check_splits,
    group_studies,
    path_problem,
)
from medclip_jax.data.table import Table, TableRow, read_table
from medclip_jax.errors import UserError

_LABEL_VALUES = {1.0: 1.0, 0.0: 0.0, -1.0: math.nan}


class Manifest(NamedTuple):
    """What a manifest lists, and the names of its labels."""

    source: Source
    label_names: tuple[str, ...]


class _Labels(NamedTuple):
    """Where labels are read: from columns of their own, or from one that lists those present."""

    names: tuple[str, ...]
    listed_in: str | None

    def read(self, row: TableRow) -> tuple[float, ...] | str:
        """The row's labels, or what is wrong with them."""
        if self.listed_in is not None:
            present = _split_labels(row.cells[self.listed_in])
            return tuple((float(name in present) if present else math.nan) for name in self.names)
        values = [_label_value(row.cells[name]) for name in self.names]
        for name, value in zip(self.names, values, strict=True):
            if value is None:
                return f"label {name} is {row.cells[name]!r}; it must be 1, 0, -1 or empty"
        return tuple(value for value in values if value is not None)


def read_manifest(
    path: Path,
    image_root: Path,
    label_columns: Sequence[str] = (),
    labels_from: str | None = None,
) -> Manifest:
    """Reads a manifest and checks all of it that can be checked without decoding an image.

    A row without `study_id` is a study of its own; without `patient_id`, its patient is the study;
    without `split`, it belongs to "train". Study ids count within their patient.

    Args:
        path: the CSV or JSON Lines file.
        image_root: what `image_path` is relative to.
        label_columns: columns that hold 1 (present), 0 (absent), -1 (uncertain, which is read as
            unknown) or nothing (unknown).
        labels_from: a column that lists the present labels joined by "|". Labels that it does not
            list are absent; an empty cell leaves all unknown.

    Raises:
        UserError: the file or a column is missing, or a patient is in two splits.
    """
    if not image_root.is_dir():
        raise UserError(f"{image_root}: the image root is not a folder")
    table = read_table(path)
    labels = _label_source(path, table, label_columns, labels_from)
    rows, rejected = [], []
    for table_row in table.rows:
        row = _check_row(table_row, image_root, labels)
        if isinstance(row, Row):
            rows.append(row)
        else:
            rejected.append(Rejection(table_row.number, table_row.cells.get("image_path", ""), row))
    check_splits(rows)
    source = Source(image_root, group_studies(rows), rejected, len(table.rows))
    return Manifest(source, labels.names)


def _label_source(
    path: Path, table: Table, label_columns: Sequence[str], labels_from: str | None
) -> _Labels:
    if not {"image_path", "text"} & set(table.columns):
        found = ", ".join(table.columns)
        raise UserError(f"{path}: needs a column image_path or text; its columns are: {found}")
    if label_columns and labels_from:
        raise UserError("give either label columns or one column to take labels from, not both")
    wanted = [labels_from] if labels_from else list(label_columns)
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        found = ", ".join(table.columns)
        raise UserError(f"{path}: no column {', '.join(missing)}; its columns are: {found}")
    if labels_from is None:
        return _Labels(tuple(dict.fromkeys(label_columns)), None)
    listed = set().union(*(_split_labels(row.cells[labels_from]) for row in table.rows))
    return _Labels(tuple(sorted(listed)), labels_from)


def _check_row(row: TableRow, image_root: Path, labels: _Labels) -> Row | str:
    """The row, or the reason to leave it out."""
    if row.problem:
        return row.problem
    cell = row.cells.get
    image_path, text = cell("image_path", ""), cell("text", "")
    split = cell("split", "").lower() or "train"
    values = labels.read(row)
    if not image_path and not text:
        return "no image and no text"
    if split not in SPLITS:
        return f"unknown split {split!r}; it must be train, validation or test"
    if isinstance(values, str):
        return values
    if image_path and (problem := path_problem(image_root, image_path)):
        return problem
    study_id = cell("study_id", "") or f"row-{row.number}"
    return Row(
        number=row.number,
        image_path=image_path,
        text=text,
        patient_id=cell("patient_id", "") or study_id,
        study_id=study_id,
        split=split,
        view=cell("view", "").upper(),
        labels=values,
    )


def _split_labels(cell: str) -> set[str]:
    return {name.strip() for name in cell.split("|") if name.strip()}


def _label_value(cell: str) -> float | None:
    try:
        number = float(cell or "nan")
    except ValueError:
        return None
    return math.nan if math.isnan(number) else _LABEL_VALUES.get(number)
