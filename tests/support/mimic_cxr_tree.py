"""Made-up studies in the layout of MIMIC-CXR-JPG, or of the DICOM release; no real text."""

import csv
import dataclasses
import gzip
import io
import math
import random
import textwrap
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from support.source_tree import TrueStudy, write_image

from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS

METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,"
    "StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
    "PatientOrientationCodeSequence_CodeMeaning"
).split(",")
SPLIT = ["dicom_id", "study_id", "subject_id", "split"]
RECORDS = ["subject_id", "study_id", "dicom_id", "path"]
LABELS = ["subject_id", "study_id", *sorted(CHEXPERT_LABELS)]
# What a cell of the labels means to the default config.
MEANING = {"1.0": 1.0, "0.0": 0.0, "-1.0": math.nan, "": 0.0}
# In the authors' tables: characters 59 to 218 of the report; a section; no finding at all.
RANGE_STUDY, SECTION_STUDY, EMPTY_STUDY = "56579911", "50743547", "58235663"

_SPLITS = {"train": "train", "validate": "validation", "test": "test"}
_VIEWS = ["AP", "PA", "LATERAL", "LL", "", "PA LLD"]
_CODES = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral"}
_SENTENCES = (
    "The made-up lungs are clear of shadows.",
    "There is a small made-up effusion on the left, which measures 1.5 cm.",
    "The heart of this phantom is of normal size.",
    "No pneumothorax is drawn here.",
    "Dr. ___ was told of the made-up tube by telephone at ___.",
)
_SECTION_REPORT = (
    " FINAL REPORT\n EXAMINATION:  Phantom chest.\n The lungs of the phantom are clear.\n \n"
    " Read by ___.\n"
)


@dataclasses.dataclass
class _Tables:
    metadata: list[Sequence[object]] = dataclasses.field(default_factory=list)
    split: list[Sequence[object]] = dataclasses.field(default_factory=list)
    records: list[Sequence[object]] = dataclasses.field(default_factory=list)
    labels: dict[str, list[Sequence[object]]] = dataclasses.field(
        default_factory=lambda: {"chexpert": [], "negbio": []}
    )


def write_tree(
    folder: Path,
    num_studies: int,
    seed: int,
    *,
    images: str = "jpg",
    reports: str = "zip",
    version: str = "2.0.0",
    labeler: str = "chexpert",
    meaning: Mapping[str, float] = MEANING,
) -> list[TrueStudy]:
    """Writes `num_studies` studies, at least 5, of about half as many patients.

    Three of them are malformed, and the last has no labels.

    Args:
        folder: where to write them.
        num_studies: how many.
        seed: of all that is random.
        images: "jpg", or "dcm" for the DICOM release with the tables of the other.
        reports: "zip", "folder" (its unpacked form), "shared" (among the images) or "none".
        version: the version in the names of the tables.
        labeler: whose labels the truth has.
        meaning: the value of each cell of the labels in the truth.
    """
    rng = random.Random(seed)
    tables, texts, truth = _Tables(), {}, []
    malformed = {0: RANGE_STUDY, 1: SECTION_STUDY, 2: EMPTY_STUDY}
    patient, split = 10000000, "train"
    for number in range(num_studies):
        if number < 5 or rng.random() < 0.5:
            patient += rng.randint(1, 9999)
            split = (["train", "validate", "test"] * 2)[number] if number < 5 else _split(rng)
        study = malformed.get(number, str(50000000 + 7 * number))
        written, stored = _report(study, rng)
        texts[f"p{str(patient)[:2]}/p{patient}/s{study}.txt"] = written
        cells = _write_labels(tables, patient, study, rng, labelled=number != num_studies - 1)
        levels, views, attributes = _write_images(
            folder, tables, images, (str(patient), study, split), rng
        )
        found = cells.get(labeler)
        truth.append(
            TrueStudy(
                split=_SPLITS[split],
                patient_id=str(patient),
                study_id=study,
                levels=levels,
                views=views,
                report="" if reports == "none" else stored,
                labels=[meaning[found[name]] if found else math.nan for name in CHEXPERT_LABELS],
                attributes=attributes,
            )
        )
    _write_tables(folder, tables, images, version)
    _write_reports(folder, texts, reports)
    return truth


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table as the authors do, packed if the name ends in .gz."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)


def rewrite(path: Path, change: Mapping[tuple[int, str], str]) -> None:
    """Sets cells of a packed table: (row as a spreadsheet counts it, column) to text."""
    rows = list(csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode(), newline="")))
    for (number, column), text in change.items():
        rows[number - 1][rows[0].index(column)] = text
    write_csv(path, rows[0], rows[1:])


def _split(rng: random.Random) -> str:
    return rng.choices(["train", "validate", "test"], [8, 1, 1])[0]


def _write_images(
    folder: Path,
    tables: _Tables,
    suffix: str,
    ids: tuple[str, str, str],
    rng: random.Random,
) -> tuple[list[int], list[str], dict[str, str]]:
    patient, study, split = ids
    date, time = f"21{rng.randint(10, 99)}0506", f"{rng.randint(100000, 235959)}.53100000002"
    procedure = rng.choice(["CHEST (PA AND LAT)", "CHEST (PORTABLE AP)"])
    levels, views = [], []
    for _ in range(rng.choice([1, 1, 2, 2, 3])):
        image = "-".join(f"{rng.getrandbits(32):08x}" for _ in range(5))
        view = rng.choices(_VIEWS, [6, 4, 3, 2, 1, 0.2])[0]
        levels.append(rng.randint(40, 220))
        views.append(view)
        path = f"files/p{patient[:2]}/p{patient}/s{study}/{image}.{suffix}"
        write_image(folder / path, levels[-1])
        code = _CODES.get(view, "")
        tables.metadata.append(
            [image, patient, study, procedure, view, 64, 80, date, time, procedure, code, "Erect"]
        )
        tables.split.append([image, study, patient, split])
        tables.records.append([patient, study, image, path])
    attributes = {"procedure": procedure, "study_date": date, "study_time": time}
    return levels, views, attributes


def _write_tables(folder: Path, tables: _Tables, images: str, version: str) -> None:
    for kind, header, rows in (
        ("metadata", METADATA, tables.metadata),
        ("split", SPLIT, sorted(tables.split)),
        *((kind, LABELS, rows) for kind, rows in tables.labels.items()),
    ):
        write_csv(folder / f"mimic-cxr-{version}-{kind}.csv.gz", header, rows)
    # The labels of radiologists, which have 2.1.0 in their name beside tables of 2.0.0.
    (folder / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text("study_id,Cardiomegaly\n")
    if images == "dcm":
        write_csv(folder / "cxr-record-list.csv.gz", RECORDS, tables.records)


def _write_reports(folder: Path, texts: Mapping[str, str], reports: str) -> None:
    if reports == "zip":
        with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w") as file:
            for name, text in texts.items():
                file.writestr(f"files/{name}", text)
        return
    parents = {"folder": "mimic-cxr-reports/files", "shared": "files"}
    for name, text in texts.items() if reports in parents else ():
        path = folder / parents[reports] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _write_labels(
    tables: _Tables, patient: int, study: str, rng: random.Random, labelled: bool
) -> dict[str, dict[str, str]]:
    """The cells of each labeler by label; none for a study without labels."""
    labels = {}
    for kind, rows in tables.labels.items() if labelled else ():
        cells = rng.choices(list(MEANING), [2, 2, 1, 5], k=len(CHEXPERT_LABELS))
        labels[kind] = dict(zip(CHEXPERT_LABELS, cells, strict=True))
        rows.append([patient, study, *(labels[kind][name] for name in LABELS[2:])])
    return labels


def _report(study: str, rng: random.Random) -> tuple[str, str]:
    """A report as it is distributed, and as it should be stored."""
    if study == RANGE_STUDY:
        text = _fill("The text of this phantom has no header. " * 4)[: 218 - 59]
        before = " " * 33 + "FINAL REPORT\n NO HEADER"
        written = before.ljust(58) + "\n" + text + "\n Read by ___.\n"
        return written, f" IMPRESSION:\n {text.strip()}\n"
    if study == SECTION_STUDY:
        text = "Phantom chest.\n The lungs of the phantom are clear."
        return _SECTION_REPORT, f" IMPRESSION:\n {text}\n"
    written = _usual_report(rng)
    return written, "" if study == EMPTY_STUDY else written


def _usual_report(rng: random.Random) -> str:
    addendum = rng.random() < 0.1
    parts = [
        " " * 33 + ("FINAL ADDENDUM" if addendum else "FINAL REPORT"),
        *([" ADDENDUM  Read again.", " " + "_" * 78, " " * 33 + "FINAL REPORT"] * addendum),
        f" EXAMINATION:  {rng.choice(['CHEST (PA AND LAT)', 'CHEST (PORTABLE AP)'])}",
        " INDICATION:  ___-year-old phantom with cough  // eval for pneumonia",
        " COMPARISON:  Chest radiograph from ___",
        " FINDINGS: \n \n" + _fill(" ".join(rng.choices(_SENTENCES, k=rng.randint(1, 6)))),
        " IMPRESSION: \n \n" + _fill(rng.choice(_SENTENCES)),
    ]
    return "\n \n".join(parts) + "\n"


def _fill(text: str) -> str:
    return textwrap.fill(text, 79, initial_indent=" ", subsequent_indent=" ")
