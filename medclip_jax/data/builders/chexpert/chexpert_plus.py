"""CheXpert Plus (arXiv 2405.19538): the reports of CheXpert's studies, and labels by CheXbert."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from medclip_jax.data.builders.chexpert.image_paths import ImagePath, parse_image_path
from medclip_jax.data.builders.rows import Rejection
from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS
from medclip_jax.data.reports import split_sections
from medclip_jax.data.table import TableRow, read_lines, read_table

TABLE = "df_chexpert_plus_240401.csv"
# Left out: section_narrative, which repeats the other sections; section_end_of_impression and
# section_summary, where it says who signed; the accession number.
_SECTIONS = (
    "clinical_history",
    "history",
    "comparison",
    "technique",
    "procedure_comments",
    "findings",
    "impression",
)
_ATTRIBUTES = (
    "race",
    "ethnicity",
    "insurance_type",
    "interpreter_needed",
    "recent_bmi",
    "deceased",
    "patient_report_date_order",
)
_OF_IMAGES = ("ap_pa", "age", "sex")
# What stands after the impression: signatures and the accession number.
_REPORT_END = re.compile(r"END OF IMPRESSION|ACCESSION NUMBER|^\s*SUMMARY\b", re.MULTILINE)


class PlusStudy(NamedTuple):
    """What CheXpert Plus adds to a study.

    Attributes:
        report: with headers that `reports.split_sections` reads, or as it was written where its
            authors found neither findings nor impression in it.
        sections: those of "findings", "impression" and "report" that are not empty.
    """

    report: str
    sections: frozenset[str]
    attributes: dict[str, str]


class PlusImage(NamedTuple):
    """An image that CheXpert Plus lists, and what it says of it; `number` is its row."""

    number: str
    image: ImagePath
    ap_pa: str
    age: str
    sex: str


class ChexpertPlus(NamedTuple):
    """CheXpert Plus: studies by patient and study, images, and the rows that cannot be used."""

    studies: dict[tuple[str, str], PlusStudy]
    rejected: list[Rejection]
    images: list[PlusImage]


def read_plus(path: Path) -> ChexpertPlus:
    """Reads `TABLE`, where a study has a row for each of its images.

    The first row with a report counts: it may be anonymized otherwise in the next one.

    Raises:
        UserError: the file is missing or lacks a column.
    """
    sections = [f"section_{name}" for name in _SECTIONS]
    required = ["path_to_image", "report", *sections]
    table = read_table(path, required, columns=[*_ATTRIBUTES, *_OF_IMAGES])
    studies: dict[tuple[str, str], PlusStudy] = {}
    images, rejected = [], []
    for row in table.rows:
        image = parse_image_path(row.cells["path_to_image"])
        if row.problem or image is None:
            reason = row.problem or "the path is none of CheXpert's"
            rejected.append(_rejection(path, row.number, row.cells["path_to_image"], reason))
            continue
        if image.study.key not in studies or not studies[image.study.key].report:
            studies[image.study.key] = _study(row)
        ap_pa, age, sex = (row.cells.get(name, "") for name in _OF_IMAGES)
        images.append(PlusImage(f"{path.name}:{row.number}", image, ap_pa, age, sex))
    return ChexpertPlus(studies, rejected, images)


def read_chexbert(
    path: Path,
    section: str,
    plus: ChexpertPlus,
    parse_labels: Callable[[dict[str, str]], tuple[float, ...] | str],
) -> tuple[dict[tuple[str, str], tuple[float, ...]], list[Rejection]]:
    """Reads `findings_fixed.json`, `impression_fixed.json` or `report_fixed.json`.

    A line is an image's labels as a JSON object. CheXbert calls an empty text "No Finding", so
    studies whose section is empty in the table of CheXpert Plus have no labels here.

    Args:
        path: the file.
        section: what it labels: "findings", "impression" or "report".
        plus: what `read_plus` gave.
        parse_labels: what makes labels of the cells of a row, or says what is wrong with them.

    Raises:
        UserError: the file is missing.
    """
    labels: dict[tuple[str, str], tuple[float, ...]] = {}
    rejected = []
    for number, line in enumerate(read_lines(path), start=1):
        record = _parse_record(line)
        image = parse_image_path(str(record.get("path_to_image", "")))
        values = parse_labels({name: _cell(record[name]) for name in record})
        if image is None or not record.keys() >= set(CHEXPERT_LABELS):
            reason = "not an object with path_to_image and CheXpert's labels"
            rejected.append(_rejection(path, number, "", reason))
        elif isinstance(values, str):
            rejected.append(_rejection(path, number, str(image), values))
        elif (study := plus.studies.get(image.study.key)) and section in study.sections:
            labels.setdefault(image.study.key, values)
    return labels, rejected


def _study(row: TableRow) -> PlusStudy:
    texts = {name: row.cells[f"section_{name}"] for name in _SECTIONS}
    report = _REPORT_END.split(row.cells["report"])[0].strip()
    if texts["findings"] or texts["impression"]:
        report = "\n".join(
            f"{name.replace('_', ' ').upper()}: {_as_one_section(text)}"
            for name, text in texts.items()
            if text
        )
    found = {name for name in ("findings", "impression") if texts[name]}
    values = {name: row.cells.get(name, "") for name in _ATTRIBUTES}
    return PlusStudy(
        report=report,
        sections=frozenset(found | {"report"} if report else found),
        attributes={name: value for name, value in values.items() if value not in ("", "Unknown")},
    )


def _as_one_section(text: str) -> str:
    """Without line breaks where a line ("LUNGS: ...") would be read as another section's header."""
    has_header = any(part.header for part in split_sections(text))
    return " ".join(text.split()) if has_header else text


def _parse_record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _rejection(path: Path, number: int, name: str, reason: str) -> Rejection:
    return Rejection(f"{path.name}:{number}", name, reason)
