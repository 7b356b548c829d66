"""The files of retrieval by class: queries in ConVIRT's form, candidates in CheXpert's columns.

Queries are `Variable,Text` (sentences) or `Variable,Path` (images), where `Variable` is the label
that a candidate must have. Lists of candidates are distributed for 8x200 with ConVIRT
(github.com/yuhaozhang/convirt) and for 5x200 with GLoRIA (`Path`) and MedCLIP (`imgpath`).
"""

import csv
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError
from medclip_jax.evaluate.encode import StudyTable

_PATH_COLUMNS = ("Path", "imgpath")
# CheXpert's: blank is not mentioned, -1 is uncertain. Only 1 makes a candidate relevant.
_LABELS = {"": np.nan, "1": 1.0, "0": 0.0, "-1": -1.0, "1.0": 1.0, "0.0": 0.0, "-1.0": -1.0}
_PATIENT = re.compile(r"patient\d+")


@dataclasses.dataclass(frozen=True)
class Queries:
    """The rows of a query file.

    Attributes:
        file: Where they were read.
        direction: "text_to_image" or "image_to_image".
        classes: Label of each query.
        values: Its sentence, or the path of its image.
    """

    file: Path
    direction: str
    classes: list[str]
    values: list[str]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The images of a candidate file: studies of one image each, read when they are asked for.

    Attributes:
        paths: The images' files.
        patient_ids: Their patients.
        label_names: The columns that hold nothing but 1, 0, -1 and blanks.
        labels: Their values; NaN for a blank.
    """

    paths: list[Path]
    patient_ids: list[str]
    label_names: tuple[str, ...]
    labels: Float[np.ndarray, "candidates labels"]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> list[Study]:
        """The studies at these positions, in this order."""
        return [
            Study(
                study_id=str(self.paths[index]),
                patient_id=self.patient_ids[index],
                images=[self.paths[index].read_bytes()],
                views=[""],
                report="",
                labels=self.labels[index],
            )
            for index in indices
        ]

    def table(self) -> StudyTable:
        """The table of all candidates, for which no image is read."""
        number = np.arange(len(self))
        return StudyTable(
            rows=number,
            study_ids=[str(path) for path in self.paths],
            patient_ids=self.patient_ids,
            texts=[""] * len(self),
            labels=self.labels,
            image_study=number,
            image_number=np.zeros_like(number),
        )


def read_queries(path: Path, image_root: Path | None, label_names: Sequence[str]) -> Queries:
    """Reads a query file.

    Args:
        path: The file.
        image_root: Folder that its images are relative to; None is the file's own.
        label_names: The labels that candidates have.

    Raises:
        UserError: the file is missing, has other columns, or names a label that is not in
            `label_names` or an image that is not there.
    """
    option = f"--queries {path}"
    rows = _read_rows(path, option)
    columns = set(rows[0]) if rows else set()
    if "Variable" not in columns or len(columns & {"Text", "Path"}) != 1:
        raise UserError(f"{option}: needs the columns Variable and one of Text or Path")
    column = "Text" if "Text" in columns else "Path"
    classes, values = [row["Variable"] for row in rows], [row[column] for row in rows]
    for label in classes:
        if label not in label_names:
            names = ", ".join(label_names) or "none"
            raise UserError(f"{option}: no candidate has a label {label!r}; there are {names}")
    if column == "Text":
        return Queries(path, "text_to_image", classes, values)
    files = _find_images(values, path, image_root, option)
    return Queries(path, "image_to_image", classes, [str(file) for file in files])


def read_candidates(path: Path, image_root: Path | None) -> Candidates:
    """Reads a candidate file.

    Args:
        path: The file.
        image_root: Folder that its images are relative to; None is the file's own.

    Raises:
        UserError: the file is missing or has no rows, has no column of paths, or names an image
            that is not there or that tells no patient.
    """
    option = f"--candidates {path}"
    rows = _read_rows(path, option)
    column = next((name for name in _PATH_COLUMNS if rows and name in rows[0]), None)
    if column is None:
        raise UserError(f"{option}: needs a header with a column Path, and a row for each image")
    values = [row[column] for row in rows]
    label_names = tuple(
        name for name in rows[0] if name and all(row[name] in _LABELS for row in rows)
    )
    return Candidates(
        paths=_find_images(values, path, image_root, option),
        patient_ids=[_patient(value, option) for value in values],
        label_names=label_names,
        labels=np.array([[_LABELS[row[name]] for name in label_names] for row in rows], np.float32),
    )


def _patient(path: str, option: str) -> str:
    found = _PATIENT.search(path)
    if found is None:
        raise UserError(
            f"{option}: {path} names no patient; CheXpert's paths hold one, as in patient00001"
        )
    return found[0]


def _find_images(
    values: Sequence[str], file: Path, image_root: Path | None, option: str
) -> list[Path]:
    root = Path(image_root) if image_root is not None else Path(file).parent
    # MedCLIP's paths begin with folders of its authors' machine.
    relative = [re.sub(r"^.*/(?=CheXpert-v1\.0)", "", value) for value in values]
    paths = [root / value for value in relative]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{option}: no image {path}; give the folder with --image-root")
    return paths


def _read_rows(path: Path, option: str) -> list[dict[str, str]]:
    """The rows of a CSV file by their columns' names; what a short row lacks is blank."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file, restval=""))
    except FileNotFoundError:
        raise UserError(f"{option}: no such file") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{option}: cannot be read as CSV ({error})") from error
