"""What a set is built from: rows that name an image or a text, checked and grouped into studies."""

import collections
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from medclip_jax.errors import UserError

SPLITS = ("train", "validation", "test")
# Numbers, and what `repr` gives of texts.
_VALUE = re.compile(r"\d+|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_NUM_STAT_THREADS = 16  # files may lie on a network disk, where each question takes its time


class Rejection(NamedTuple):
    """A row or file that is left out of the set, and why.

    Attributes:
        row: where the source lists it, as its table counts rows; "" for a file that no row names.
        path: the image or report, as the source names it.
    """

    row: int | str
    path: str
    reason: str


class PixelBox(NamedTuple):
    """A finding's box as the source gives it.

    Attributes:
        label: the position of the finding's name in the set's label names.
        box: (ymin, xmin, ymax, xmax) in pixels.
        image_shape: (height, width) of the image that these pixels belong to, where it is not the
            size of the file.
    """

    label: int
    box: tuple[float, float, float, float]
    image_shape: tuple[int, int] | None = None


class RunLengthMask(NamedTuple):
    """A finding's mask as the source gives it: run lengths, several of which make up one mask.

    Attributes:
        label: as in `PixelBox`.
        runs: as `decode_run_lengths` reads them.
        image_shape: as in `PixelBox`; the file must have the same ratio of sides.
    """

    label: int
    runs: tuple[str, ...]
    image_shape: tuple[int, int] | None = None


class Row(NamedTuple):
    """An image of a study, a text of it, or both.

    Attributes:
        number: the row of the source's table, for `rejected.csv`.
        image_path: the image, relative to the source's root; "" for a row without one.
        text: the report, or a part of it.
        text_path: the file that holds the report, relative to the source's root, or "".
        view: "PA", "AP", "LATERAL", … in capitals; "" if unknown.
        labels: 1 present, 0 absent, NaN unknown; as many as the set has label names.
        attributes: what else is known of the study; see `Study.attributes`.
    """

    number: int | str
    split: str
    patient_id: str
    study_id: str
    image_path: str = ""
    text: str = ""
    text_path: str = ""
    view: str = ""
    labels: tuple[float, ...] = ()
    boxes: tuple[PixelBox, ...] = ()
    masks: tuple[RunLengthMask, ...] = ()
    attributes: Mapping[str, str] = {}


class Source(NamedTuple):
    """A set's files, listed and checked as far as that needs no decoding.

    Attributes:
        root: what the rows' paths are relative to.
        studies: the rows of each study, in the source's order.
        rejected: rows and files that are left out already.
        num_rows: all rows, those left out too.
        left_out: what is left out on purpose and does not count as rejected, but is listed with it.
        notes: what to say before files are read, a line each; some begin with "warning: ".
    """

    root: Path
    studies: list[list[Row]]
    rejected: list[Rejection]
    num_rows: int
    left_out: Sequence[Rejection] = ()
    notes: Sequence[str] = ()


def checked_source(
    root: Path, rows: Iterable[Row | Rejection], *, with_images: bool = True
) -> Source:
    """The source of a published set, from what its tables list.

    Left out are rows whose file is missing or lies outside `root`, and rows of an image that an
    earlier row has. Without images, texts alone are taken.

    Raises:
        UserError: a patient is in two splits.
    """
    listed = list(rows)
    rejected = [row for row in listed if isinstance(row, Rejection)]
    kept = [row for row in listed if isinstance(row, Row)]
    if not with_images:
        kept = [row._replace(image_path="", boxes=(), masks=()) for row in kept]
    kept = _without_repeated_images(kept, rejected)
    with ThreadPoolExecutor(_NUM_STAT_THREADS) as pool:
        problems = pool.map(lambda row: _file_problem(root, row), kept, chunksize=256)
    good = []
    for row, (path, problem) in zip(kept, problems, strict=True):
        if problem:
            rejected.append(Rejection(row.number, path, problem))
        else:
            good.append(row)
    check_splits(good)
    return Source(root, group_studies(good), rejected, len(listed))


def hash_split(key: str, *, validation: float, test: float = 0.0) -> str:
    """The split of a patient where none is official, whatever else is in the set.

    Args:
        key: the patient's id.
        validation: the share of patients for validation.
        test: the share of patients for testing.
    """
    drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32
    if drawn < validation:
        return "validation"
    return "test" if drawn < validation + test else "train"


def group_studies(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each study; a study's id counts within its patient."""
    studies: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        studies.setdefault((row.patient_id, row.study_id), []).append(row)
    return list(studies.values())


def path_problem(root: Path, name: str) -> str:
    """Why the file `name` in `root` cannot be used, or ""."""
    # By the letters of the path, because image roots often hold links to other disks.
    top = os.path.abspath(root)
    path = os.path.normpath(os.path.join(top, name))
    if os.path.commonpath([top, path]) != top:
        return "the path leaves the image root"
    return "" if os.path.isfile(path) else "no such file"


def check_splits(rows: Sequence[Row]) -> None:
    """Raises `UserError` if a patient is in two splits."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.patient_id, set()).add(row.split)
    torn = [patient for patient, names in splits.items() if len(names) > 1]
    if torn:
        names = " and ".join(sorted(splits[torn[0]], key=split_order))
        others = f" (and {len(torn) - 1} more patients are in two splits)" if torn[1:] else ""
        raise UserError(f"patient {torn[0]!r} is in {names}{others}; give each patient one split")


def commonest(rejected: Sequence[Rejection]) -> list[Rejection]:
    """The rejections for the reason that most have, but for values in it."""
    alike = collections.defaultdict(list)
    for rejection in rejected:
        alike[_VALUE.sub("0", rejection.reason)].append(rejection)
    return max(alike.values(), key=len)


def split_order(split: str) -> tuple[int, str]:
    """The order in which splits are shown: train, validation, test, then others by name."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def _without_repeated_images(rows: Sequence[Row], rejected: list[Rejection]) -> list[Row]:
    first: dict[str, Row] = {}
    kept = []
    for row in rows:
        earlier = first.setdefault(row.image_path, row) if row.image_path else row
        if earlier is row:
            kept.append(row)
        else:
            reason = f"the image is listed already, in row {earlier.number}"
            rejected.append(Rejection(row.number, row.image_path, reason))
    return kept


def _file_problem(root: Path, row: Row) -> tuple[str, str]:
    """The path of the row that cannot be used and why, or two empty texts."""
    for name in filter(None, (row.image_path, row.text_path)):
        if problem := path_problem(root, name):
            return name, problem
    if not row.image_path and not row.text and not row.text_path:
        return "", "no image and no text"
    return "", ""
