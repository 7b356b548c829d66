"""The tables of ChestX-ray14: findings by image (`Data_Entry_2017`), boxes (`BBox_List_2017`).

A row is judged by the cells that are needed and not by their number, since copies of the tables end
header, rows, both or neither with commas.
"""

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from medclip_jax.data.builders.rows import PixelBox, Rejection
from medclip_jax.data.table import Table, read_table
from medclip_jax.errors import UserError

# Wang et al., arXiv 1705.02315; the first eight are those of its first version.
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NO_FINDING = "No Finding"
LABELS = (*FINDINGS, NO_FINDING)
VIEWS = ("PA", "AP")
BOX_TABLE = "BBox_List_2017.csv"
_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_REQUIRED = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "View Position")
# The second version says Sex where the first says Gender.
_OPTIONAL = ("Patient Age", "Patient Gender", "Patient Sex")
# The header is `Bbox [x,y,w,h]`, which a CSV reader takes for four names.
_BOX = ("Bbox [x", "y", "w", "h]")
_BOX_IMAGE = (1024, 1024)
_IMAGE_NAME = re.compile(r"(\d{8})_\d{3}\.png")


def read_findings(folder: Path) -> tuple[Path, Table]:
    """The table of images and its path; the newer one if both versions are there.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    paths = [folder / name for name in _TABLES if (folder / name).exists()]
    if not paths:
        raise UserError(f"{folder}: no table; one of these is needed: {', '.join(_TABLES)}")
    return paths[0], read_table(paths[0], _REQUIRED, _OPTIONAL)


def patient_of(image_name: str) -> str | None:
    """The patient of "00000165_001.png", as the table writes it: "165"; None for other names."""
    match = _IMAGE_NAME.fullmatch(image_name)
    return str(int(match[1])) if match else None


def row_problem(cells: Mapping[str, str]) -> str:
    """Why a row of the table of findings cannot be used, or ""."""
    name, patient, view = cells["Image Index"], cells["Patient ID"], cells["View Position"]
    owner = patient_of(name)
    if owner is None:
        return f"the image is called {name!r}, not like 00000001_000.png"
    if patient != owner:
        return f"the patient is {patient!r}, which the image's name contradicts"
    if view not in VIEWS:
        return f"the view is {view!r}; it must be PA or AP"
    names = cells["Finding Labels"].split("|")
    for finding in names:
        if finding not in LABELS:
            return f"unknown finding {finding!r}"
    if NO_FINDING in names and len(names) > 1:
        return f"{NO_FINDING} beside findings: {cells['Finding Labels']}"
    return ""


def finding_values(findings: str) -> tuple[float, ...]:
    """The labels in the order of `LABELS`, from "Effusion|Mass"."""
    names = findings.split("|")
    return tuple(float(label in names) for label in LABELS)


def read_boxes(
    path: Path, images: Collection[str]
) -> tuple[dict[str, list[PixelBox]], list[Rejection]]:
    """The boxes by image, and the rows that cannot be used, as `Rejection`s.

    Args:
        path: `BBox_List_2017.csv`; without it there are no boxes.
        images: the names that boxes may refer to.

    Raises:
        UserError: the table cannot be read.
    """
    boxes: dict[str, list[PixelBox]] = {}
    rejected: list[Rejection] = []
    if not path.exists():
        return boxes, rejected
    for row in read_table(path, ("Image Index", "Finding Label", *_BOX), ()).rows:
        name = row.cells["Image Index"]
        box = _parse_box(row.cells)
        if name not in images:
            box = "a box of an image that the table of findings does not have"
        if isinstance(box, str):
            rejected.append(Rejection(f"{path.name}:{row.number}", name, box))
        else:
            boxes.setdefault(name, []).append(box)
    return boxes, rejected


def _parse_box(cells: Mapping[str, str]) -> PixelBox | str:
    """The box of a row, or what is wrong with it."""
    finding = "Infiltration" if cells["Finding Label"] == "Infiltrate" else cells["Finding Label"]
    if finding not in FINDINGS:
        return f"unknown finding {finding!r}"
    try:
        x, y, width, height = (float(cells[name]) for name in _BOX)
    except ValueError:
        return "the box is not four numbers"
    if not (math.isfinite(x + y + width + height) and min(width, height) > 0 <= min(x, y)):
        return "the box has no area, or begins outside of the image"
    return PixelBox(LABELS.index(finding), (y, x, y + height, x + width), _BOX_IMAGE)
