"""The columns of a manifest: which are used, and which were probably meant to be."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medclip_jax.data.builders.manifest.cells import without_nothing
from medclip_jax.data.table import Table
from medclip_jax.errors import UserError

COLUMNS = ("image_path", "text", "patient_id", "study_id", "split", "view")
# How a manifest's author may call a split, in lower case.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "validate": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "development": "validation",
    "test": "test",
    "testing": "test",
}
# Other names of the columns, as patterns of what is left without blanks and punctuation. To leave
# such a column out changes what is learned: all images become those of different patients, or all
# of them train.
_NUMBER = "(?:id|ids|no|nr|num|number|key|code|identifier|uid|hash|index)"
_OTHER_NAMES = {
    "image_path": (
        "(?:image|img|file)(?:file)?(?:path|name)?|path|pathtoimage"
        "|(?:jpe?g|png|tiff?|dcm|dicom|xray|cxr|radiograph|picture)(?:file)?(?:path|name)"
        "|(?:jpe?g|png|tiff?|dcm|dicom)file|(?:relative|rel|full|absolute|abs)(?:image|img|file)?path"
    ),
    "text": (
        "(?:clean|cleaned|raw|full|final|original|processed|radiology|english|text)?reports?"
        "(?:text|texts|body|content|clean|cleaned|raw|processed|en|eng|english)?"
        "|fulltext|captions?|texts|findings|impressions?"
    ),
    "patient_id": (
        "(?:anon|anonymi[sz]ed|deid|deidentified|pseudo|study|source|original|unique)?"
        f"(?:patients?|subjects?|participants?|subj){_NUMBER}?"
        "|(?:patid|ptid|ptno|pid|personid|mrn)|medicalrecord(?:id|no|nr|num|number)?"
    ),
    "study_id": f"(?:study|accession){_NUMBER}?|(?:examid|examno|examnumber|studyinstanceuid)",
    "split": (
        "(?:data|dataset|train|traintest|trainval|trainvaltest)?"
        "(?:splits?|set|subset|partition)(?:name|type|group)?|(?:datasettype|traintest|trainval)"
    ),
}
# Other names that mean something else as often, or that little depends on.
_PERHAPS = {
    "image_path": (
        "imageid|imageindex|dicomid|dicom|.*(?:image|img|file|jpe?g|png|dcm|dicom)(?:path|name)"
    ),
    "text": "description|notes?|narrative|clinicalnotes|findingstext|.*reports?",
    "patient_id": f"person|caseid|case|uid|userid|.*(?:patient|subject|participant){_NUMBER}",
    "study_id": "exam|visit|visitid|reportid|uid",
    "split": "fold|phase|group|dataset|usage|.*(?:split|partition)",
    "view": "viewposition|viewpos|projection|viewname|position|appa|frontallateral",
}
_CLOSE = 0.85  # of two names that a slip of the finger tells apart


class UnusedColumn(NamedTuple):
    """A column that is not read.

    Attributes:
        name: as the table has it.
        meant: the column of `COLUMNS` that it may be meant for, or "".
        is_certain: whether it is meant for that almost certainly.
    """

    name: str
    meant: str = ""
    is_certain: bool = False


def unused_columns(path: Path, table: Table, used: Collection[str] = ()) -> list[UnusedColumn]:
    """The named columns that are neither in `COLUMNS` nor used for labels.

    Args:
        path: what to call the table in messages.
        table: the manifest.
        used: the columns that hold labels.

    Raises:
        UserError: one is almost certainly meant for a column of `COLUMNS` that the table lacks.
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    names = [name for name in table.columns if name and name not in COLUMNS and name not in used]
    unused = [_unused(name, missing, table) for name in names]
    certain = [column for column in unused if column.is_certain]
    if certain:
        raise UserError(
            f"{path}: columns that would be ignored; did you mean {_did_you_mean(certain)}? Rename "
            "them, or delete those that are something else"
        )
    return unused


def suggest(columns: Iterable[str]) -> str:
    """A remark on columns that may be meant for `image_path` or `text`, or ""."""
    wanted = ("image_path", "text")
    meant = [UnusedColumn(name, _meant(name, wanted, _OTHER_NAMES)) for name in columns]
    found = [column for column in meant if column.meant]
    return f" (did you mean {_did_you_mean(found)}?)" if found else ""


def unused_lines(unused: Sequence[UnusedColumn]) -> list[str]:
    """What to say about columns that are not used."""
    if not unused:
        return []
    guessed = [column for column in unused if column.meant]
    question = f"; did you mean {_did_you_mean(guessed)}?" if guessed else ""
    names = ", ".join(column.name for column in unused)
    return [f"{'warning: ' if guessed else ''}columns that are not used: {names}{question}"]


def _did_you_mean(columns: Sequence[UnusedColumn]) -> str:
    """Such as "patient_id for 'subject_id', text for 'findings' and 'impression'"."""
    names: dict[str, list[str]] = {}
    for column in columns:
        names.setdefault(column.meant, []).append(repr(column.name))
    return ", ".join(f"{meant} for {' and '.join(given)}" for meant, given in names.items())


def _unused(name: str, missing: Sequence[str], table: Table) -> UnusedColumn:
    if meant := _meant(name, missing, _OTHER_NAMES):
        if _plain(name) == _plain(meant):
            return UnusedColumn(name, meant, True)
        # A column "set" may hold names of sets, and views may be missing.
        is_certain = bool(_splits(table, name)) if meant == "split" else meant != "view"
        return UnusedColumn(name, meant, is_certain)
    splits = _splits(table, name) if "split" in missing else set()
    # "test" beside "control" is no split.
    if len(splits) > 1 and ("train" in splits or len(splits - {""}) > 1):
        return UnusedColumn(name, "split", True)
    return UnusedColumn(name, _meant(name, missing, _PERHAPS))


def _meant(name: str, missing: Sequence[str], other_names: Mapping[str, str]) -> str:
    """The missing column that this name stands for, by its letters or as one of these names."""
    plain = _plain(name)
    by_letters = {_plain(column): column for column in missing}
    close = difflib.get_close_matches(plain, by_letters, n=1, cutoff=_CLOSE)
    if close:
        return by_letters[close[0]]
    known = (c for c in missing if c in other_names)
    return next((c for c in known if re.fullmatch(other_names[c], plain)), "")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def _splits(table: Table, column: str) -> set[str]:
    """The splits that most cells of a column name, "" among them if some do not; or none."""
    cells = (without_nothing(row.cells.get(column, "")).casefold() for row in table.rows)
    named = [SPLIT_NAMES.get(cell, "") for cell in cells if cell]
    return set(named) if 2 * named.count("") < len(named) else set()
