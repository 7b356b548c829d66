"""The tables of MIMIC-CXR-JPG and of the DICOM release: images, splits and labels."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medclip_jax.data.builders.rows import Rejection, path_problem
from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS, label_values
from medclip_jax.data.table import TableRow, read_table
from medclip_jax.errors import UserError

_TABLE = re.compile(r"mimic-cxr-(2\.\d+\.\d+)-(metadata|split|chexpert|negbio)\.csv(?:\.gz)?")
_RECORDS = ("cxr-record-list.csv.gz", "cxr-record-list.csv")
_WHERE = "https://physionet.org/content/mimic-cxr-jpg/"
# Columns of the metadata by what they become as attributes of a study.
ATTRIBUTES = {
    "procedure": "PerformedProcedureStepDescription",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
}
# What becomes part of a path.
_ID_PATTERNS = {
    "subject_id": re.compile(r"[0-9]+"),
    "study_id": re.compile(r"[0-9]+"),
    "dicom_id": re.compile(r"[0-9A-Za-z-]+"),
}
_IDS = tuple(_ID_PATTERNS)
_NUM_TRIED = 1000  # images to look for, to tell the two releases apart


class Release(NamedTuple):
    """The tables that were found.

    Attributes:
        records: the list of the DICOM release; None where the images are JPG files.
        metadata: None if the DICOM release is without it.
        labels: None if the DICOM release is without it.
    """

    split: Path
    metadata: Path | None
    labels: Path | None
    records: Path | None


class ImageList(NamedTuple):
    """The rows of all images, with the metadata's cells, and the suffix of their files."""

    rows: list[TableRow]
    suffix: str


def find_release(folder: Path, labels: str) -> Release:
    """The tables in `folder`.

    Args:
        folder: the folder of the set.
        labels: "chexpert" or "negbio".

    Raises:
        UserError: a table is missing, or they are of two versions.
    """
    tables = _newest_tables(folder, ("metadata", "split", labels))
    records = next((folder / name for name in _RECORDS if (folder / name).is_file()), None)
    needed = ("split",) if records else ("metadata", "split", labels)
    missing = [f"mimic-cxr-2.0.0-{kind}.csv.gz" for kind in needed if kind not in tables]
    if missing:
        raise UserError(
            f"{folder}: no {' and no '.join(missing)}; download it from MIMIC-CXR-JPG ({_WHERE}) "
            "and put it there, for the DICOM release too"
        )
    return Release(tables["split"], tables.get("metadata"), tables.get(labels), records)


def read_images(folder: Path, release: Release) -> ImageList:
    """The images that the release lists: JPG files if some are there, else DICOM files.

    Raises:
        UserError: a table cannot be used.
    """
    described = (
        read_table(release.metadata, (*_IDS, "ViewPosition"), ATTRIBUTES.values()).rows
        if release.metadata
        else []
    )
    if release.records is None or _any_file(folder, described, "jpg"):
        return ImageList(described, "jpg")
    details = {row.cells["dicom_id"]: row.cells for row in described}
    listed = read_table(release.records, _IDS, ()).rows
    rows = [
        row._replace(cells=details.get(row.cells["dicom_id"], {}) | row.cells) for row in listed
    ]
    return ImageList(rows, "dcm")


def image_path(cells: Mapping[str, str], suffix: str) -> str:
    """Where both releases have an image, relative to the folder of the set."""
    patient, study, image = (cells[name] for name in _IDS)
    return f"files/p{patient[:2]}/p{patient}/s{study}/{image}.{suffix}"


def id_problem(cells: Mapping[str, str], names: Iterable[str] = _IDS) -> str:
    """What is wrong with the ids of a row, or ""."""
    for name in names:
        if not _ID_PATTERNS[name].fullmatch(cells[name]):
            return f"{name} is {cells[name]!r}" if cells[name] else f"no {name}"
    return ""


def read_splits(path: Path) -> dict[str, str]:
    """The split of each image, as the table names it; "train and test" where it names two."""
    splits: dict[str, str] = {}
    for row in read_table(path, ("dicom_id", "split"), ()).rows:
        image, split = row.cells["dicom_id"], row.cells["split"]
        known = splits.setdefault(image, split)
        if known != split:
            splits[image] = f"{known} and {split}"
    return splits


def read_labels(
    path: Path, uncertain: Mapping[str, float], blank: float
) -> tuple[dict[str, tuple[float, ...]], list[Rejection]]:
    """The labels of each study, and the rows that cannot be used.

    Args:
        path: the table; its columns are found by name, since their order is alphabetical here.
        uncertain: what -1 becomes, from `uncertain_values`.
        blank: what an empty cell becomes.
    """
    labels: dict[str, tuple[float, ...]] = {}
    rejected = []
    for row in read_table(path, ("study_id", *CHEXPERT_LABELS), ()).rows:
        study = row.cells["study_id"]
        problem = row.problem or id_problem(row.cells, ["study_id"])
        values = problem or label_values(row.cells, uncertain, blank)
        if not isinstance(values, str) and study in labels:
            values = f"study {study} has labels already"
        if isinstance(values, str):
            rejected.append(Rejection(row.number, path.name, values))
        else:
            labels[study] = values
    return labels, rejected


def _newest_tables(folder: Path, kinds: Iterable[str]) -> dict[str, Path]:
    """The newest version's table of each kind that is there; packed rather than unpacked."""
    found: dict[str, dict[tuple[int, ...], Path]] = {}
    for path in sorted(folder.glob("mimic-cxr-2.*")):
        match = _TABLE.fullmatch(path.name)
        if match and match[2] in kinds:
            version = tuple(int(number) for number in match[1].split("."))
            found.setdefault(match[2], {})[version] = path
    newest = max((version for paths in found.values() for version in paths), default=())
    mixed = [max(paths.items())[1].name for paths in found.values()]
    if any(newest not in paths for paths in found.values()):
        raise UserError(
            f"{folder}: tables of different versions are mixed ({', '.join(sorted(mixed))}); "
            "keep those of one version"
        )
    return {kind: paths[newest] for kind, paths in found.items()}


def _any_file(folder: Path, rows: Sequence[TableRow], suffix: str) -> bool:
    # Spread over all of them, since a part of the set may be all that was downloaded.
    tried = rows[:: len(rows) // _NUM_TRIED + 1]
    return any(not path_problem(folder, image_path(row.cells, suffix)) for row in tried)
