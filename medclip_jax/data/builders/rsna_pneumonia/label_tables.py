"""The tables of the RSNA challenge: a row for each box of pneumonia, and the image's class."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from medclip_jax.data.builders.rows import PixelBox, Rejection
from medclip_jax.data.table import read_table

# "Lung Opacity" is the third class; it is what the challenge calls pneumonia, and so no label.
LABELS = ("Pneumonia", "Normal", "No Lung Opacity / Not Normal")
BOX_TABLE = "stage_2_train_labels.csv"
CLASS_TABLE = "stage_2_detailed_class_info.csv"
_OPACITY = "Lung Opacity"
_CLASSES = (_OPACITY, *LABELS[1:])
_BOX = ("x", "y", "width", "height")
_IMAGE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class LabelledImage(NamedTuple):
    """An image of the training set.

    Attributes:
        row: its first row in the table of boxes.
        values: the labels in the order of `LABELS`.
    """

    row: int
    values: tuple[float, ...]
    boxes: tuple[PixelBox, ...]


class _Box(NamedTuple):
    row: int
    target: int
    box: PixelBox | None


def is_image_id(text: str) -> bool:
    """Whether it looks like the challenge's ids, which become parts of paths."""
    return _IMAGE_ID.fullmatch(text) is not None


def read_labelled_images(root: Path) -> tuple[dict[str, LabelledImage], list[Rejection]]:
    """The images of the training set by id, and the rows that cannot be used.

    Raises:
        UserError: a table is missing or cannot be read.
    """
    rows, rejected = _read_box_rows(root / BOX_TABLE)
    classes = _read_classes(root / CLASS_TABLE)
    images = {}
    for image_id, (first, *others) in rows.items():
        found = classes.get(image_id, {""})
        if problem := _class_problem(first.target, found):
            rejected.append(Rejection(first.row, image_id, problem))
            continue
        (of_image,) = found
        values = (float(first.target), *(float(of_image == name) for name in LABELS[1:]))
        boxes = tuple(row.box for row in (first, *others) if row.box)
        images[image_id] = LabelledImage(first.row, values, boxes)
    return images, rejected


def _read_box_rows(path: Path) -> tuple[dict[str, list[_Box]], list[Rejection]]:
    images: dict[str, list[_Box]] = {}
    rejected = []
    for row in read_table(path, ("patientId", *_BOX, "Target"), ()).rows:
        image_id = row.cells["patientId"]
        box = row.problem or _parse_row(row.number, row.cells)
        earlier = images.get(image_id, [])
        if isinstance(box, _Box):
            box = _repetition(box, earlier) or box
        if isinstance(box, str):
            rejected.append(Rejection(row.number, image_id, box))
        else:
            images[image_id] = [*earlier, box]
    return images, rejected


def _parse_row(number: int, cells: Mapping[str, str]) -> _Box | str:
    """The row, or what is wrong with it."""
    if not is_image_id(cells["patientId"]):
        return f"the patientId is {cells['patientId']!r}, which is none of the challenge's ids"
    sides = [cells[name] for name in _BOX]
    if cells["Target"] == "0":
        return "a box where Target is 0" if any(sides) else _Box(number, 0, None)
    if cells["Target"] != "1":
        return f"Target is {cells['Target']!r}; it must be 0 or 1"
    try:
        x, y, width, height = map(float, sides)
    except ValueError:
        return "the box is not four numbers"
    if not (math.isfinite(x + y + width + height) and min(width, height) > 0 <= min(x, y)):
        return "the box has no area, or begins outside of the image"
    return _Box(number, 1, PixelBox(0, (y, x, y + height, x + width)))


def _repetition(row: _Box, earlier: list[_Box]) -> str:
    """What an image's row says again or contradicts of its earlier ones, or ""."""
    if earlier and earlier[0].target != row.target:
        return f"Target is {row.target}, but {earlier[0].target} in row {earlier[0].row}"
    same = [other.row for other in earlier if other.box == row.box]
    return f"says what row {same[0]} says" if same else ""


def _read_classes(path: Path) -> dict[str, set[str]]:
    """The classes by image; the table has one row for each box, so it says them again and again."""
    classes: dict[str, set[str]] = {}
    for row in read_table(path, ("patientId", "class"), ()).rows:
        classes.setdefault(row.cells["patientId"], set()).add(row.cells["class"])
    return classes


def _class_problem(target: int, classes: set[str]) -> str:
    if len(classes) > 1:
        return f"{CLASS_TABLE} gives it several classes: {', '.join(sorted(classes))}"
    (name,) = classes
    if name not in _CLASSES:
        return f"{CLASS_TABLE} gives it the class {name!r}" if name else f"not in {CLASS_TABLE}"
    if (name == _OPACITY) != (target == 1):
        return f"Target is {target}, but its class {name!r}"
    return ""
