"""CheXpert as it is distributed, made up: tables, images, the test set and CheXpert Plus."""

import csv
import dataclasses
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.source_tree import TrueStudy, read_rejected, write_image

from medclip_jax.data import datasets
from medclip_jax.data.build import build

LABELS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
    "Support Devices"
).split(",")
IMAGE_COLUMNS = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS]
PLUS_COLUMNS = (
    "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,"
    "report,section_narrative,section_clinical_history,section_history,section_comparison,"
    "section_technique,section_procedure_comments,section_findings,section_impression,"
    "section_end_of_impression,section_summary,section_accession_number,age,sex,race,ethnicity,"
    "interpreter_needed,insurance_type,recent_bmi,deceased,split"
).split(",")
SMALL = "CheXpert-v1.0-small"
BATCHES = (
    "CheXpert-v1.0 batch 1 (validate & csv)",
    "CheXpert-v1.0 batch 2 (train 1)",
    "CheXpert-v1.0 batch 3 (train 2)",
    "CheXpert-v1.0 batch 4 (train 3)",
)
PLUS_TABLE = "df_chexpert_plus_240401.csv"
SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_FIRST_PATIENT = {"train": 1, "valid": 64541, "test": 64741}
_ENDS = (
    "SUMMARY: 2-ABNORMAL\nI have reviewed the images. By: Doe, J\n\nACCESSION NUMBER:\n9959089",
    "END OF IMPRESSION: SUMMARY 2: ABNORMAL. By: Doe, J",
    "ACCESSION NUMBER:\n9959089\nThis report has been anonymized.",
)


@dataclasses.dataclass
class MadeImage:
    """An image; `ap_pa` is blank for laterals."""

    view: str
    ap_pa: str
    level: int

    @property
    def is_lateral(self) -> bool:
        return self.view.endswith("lateral")


@dataclasses.dataclass
class MadeStudy:
    """A study; `cells` are labels as the table writes them, `chexbert` those of each section."""

    folder: str
    patient: str
    study: str
    sex: str
    age: str
    images: list[MadeImage]
    cells: list[str]
    sections: dict[str, str]
    raw_report: str
    report: str
    attributes: dict[str, str]
    chexbert: dict[str, list[str]]
    in_plus: bool

    def path(self, image: MadeImage) -> str:
        return f"{self.folder}/{self.patient}/{self.study}/{image.view}"


@dataclasses.dataclass
class MadeSet:
    """A tree of these studies in `manual`, and the set that is built of it in `data`."""

    manual: Path
    data: Path
    studies: list[MadeStudy]
    name: str = "chexpert"

    @classmethod
    def write(cls, folder: Path, studies: list[MadeStudy]) -> "MadeSet":
        """Writes the small set with the test set and CheXpert Plus."""
        write_studies(folder / "manual", studies, SMALL)
        write_plus(folder / "manual", studies)
        return cls(folder / "manual", folder / "data", studies)

    def build(self, **options: str | int) -> str:
        """Builds the default, or a set with these options; half of the rows may be rejected."""
        self.name = "chexpert/made" if options else "chexpert/default"
        name = self.name if options else "chexpert"
        return build(
            name, manual_dir=self.manual, data_dir=self.data, options=options, max_rejected=0.5
        )

    def open(self, split: str) -> datasets.StudySplit:
        """A split of the set that was built last."""
        return datasets.open_split(self.name, split, self.data)

    def rejected(self) -> list[list[str]]:
        """The rows of rejected.csv without its header."""
        return [list(row.values()) for row in read_rejected(self.name, self.data)]

    def edit(self, table: str, change: Callable[[list[dict[str, str]]], object]) -> None:
        """Lets `change` change the rows of a table."""
        with (self.manual / table).open(newline="") as file:
            rows = list(csv.DictReader(file))
        change(rows)
        write_csv(self.manual / table, list(rows[0]), rows)


def make_studies(num_studies: int, seed: int) -> list[MadeStudy]:
    """Four fifths are for training, a tenth for validation, a tenth for the test."""
    rng = random.Random(seed)
    num_held_out = max(num_studies // 10, 1)
    counts = {"train": num_studies - 2 * num_held_out, "valid": num_held_out, "test": num_held_out}
    made = []
    for folder, count in counts.items():
        patient, study = _FIRST_PATIENT[folder] - 1, 0
        for _ in range(count):
            # Only training patients have several studies.
            same = folder == "train" and study > 0 and rng.random() < 0.5
            patient, study = (patient, study + 1) if same else (patient + 1, 1)
            made.append(_make_study(rng, folder, f"patient{patient:05d}", f"study{study}"))
    return made


def write_tree(folder: Path, num_studies: int, seed: int, top: str = SMALL) -> list[TrueStudy]:
    """The set with the test set and CheXpert Plus; what the default options make of it."""
    studies = make_studies(num_studies, seed)
    write_studies(folder, studies, top)
    write_plus(folder, studies)
    return [true_study(study) for study in studies]


def write_studies(folder: Path, studies: Sequence[MadeStudy], top: str) -> None:
    """Images, train.csv and valid.csv, and groundtruth.csv, which names the full set's folder."""
    for study in studies:
        for image in study.images:
            write_image(folder / top / f"{study.path(image)}.jpg", image.level, 32, 40)
    for name in ("train", "valid"):
        rows = [image_row(s, i, top) for s in studies if s.folder == name for i in s.images]
        write_csv(folder / top / f"{name}.csv", IMAGE_COLUMNS, rows)
    test = [study for study in studies if study.folder == "test"]
    if test:
        rows = [
            {"Study": f"CheXpert-v1.0/test/{s.patient}/{s.study}", **_labelled(s.cells)}
            for s in test
        ]
        write_csv(folder / "groundtruth.csv", ["Study", *LABELS], rows)


def write_batches(folder: Path, studies: Sequence[MadeStudy], inside: str = "") -> None:
    """The full download of Stanford AIMI, unpacked: four folders, whose tables name one.

    `inside` is a folder that unpacking has made in each; "{name}" in it is the folder's own name.
    """
    write_studies(folder, studies, "CheXpert-v1.0")
    whole = folder / "CheXpert-v1.0"
    first, *others = [folder / name / inside.format(name=name) for name in BATCHES]
    first.mkdir(parents=True)
    for name in ("train.csv", "valid.csv", "valid"):
        (whole / name).rename(first / name)
    for number, patient in enumerate(sorted((whole / "train").iterdir())):
        batch = others[number % len(others)]
        batch.mkdir(parents=True, exist_ok=True)
        patient.rename(batch / patient.name)
    (whole / "train").rmdir()


def write_plus_images(folder: Path, studies: Sequence[MadeStudy], top: str, suffix: str) -> None:
    """The images of CheXpert Plus, which are those of the studies that it has."""
    for study in studies:
        for image in study.images if study.in_plus else []:
            write_image(folder / top / f"{study.path(image)}{suffix}", image.level, 32, 40)


def write_plus(folder: Path, studies: Sequence[MadeStudy], with_others: bool = True) -> None:
    """CheXpert Plus: a row and a line an image, in another order than CheXpert has them.

    It also has studies that CheXpert has not, unless it is without others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = [(s, i) for s in reversed(studies) if s.in_plus for i in s.images]
    rows = [_plus_row(study, image) for study, image in listed]
    if with_others:
        rows.append(rows[0] | {"path_to_image": "train/patient99999/study1/view1_frontal.jpg"})
    write_csv(folder / PLUS_TABLE, PLUS_COLUMNS, rows)
    (folder / "chexbert_labels").mkdir()
    for section in ("findings", "impression", "report"):
        lines = [_chexbert_line(s, i, s.chexbert[section]) for s, i in listed]
        text = "".join(f"{line}\n" for line in lines)
        (folder / "chexbert_labels" / f"{section}_fixed.json").write_text(text)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def image_row(study: MadeStudy, image: MadeImage, top: str) -> dict[str, str]:
    """A row of train.csv or valid.csv."""
    return {
        "Path": f"{top}/{study.path(image)}.jpg",
        "Sex": study.sex,
        "Age": study.age,
        "Frontal/Lateral": "Lateral" if image.is_lateral else "Frontal",
        "AP/PA": image.ap_pa,
        **_labelled(study.cells),
    }


def true_study(
    study: MadeStudy,
    uncertain: float = math.nan,
    blank: float = 0.0,
    labels: str = "",
    with_plus: bool = True,
) -> TrueStudy:
    """What the builder should make of a study; `labels` is the section that CheXbert read."""
    has_plus = with_plus and study.in_plus
    values = {"": blank, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "-1.0": uncertain}
    cells = study.cells
    if labels and study.folder == "train":
        has_text = study.raw_report if labels == "report" else study.sections.get(labels)
        cells = study.chexbert[labels] if has_plus and has_text else ["-"] * 14
        values["-"] = math.nan
    attributes = {}
    if study.folder != "test":
        attributes |= {"age": study.age} if study.age != "0" else {}
        attributes |= {"sex": study.sex} if study.sex != "Unknown" else {}
    return TrueStudy(
        split=SPLITS[study.folder],
        patient_id=study.patient,
        study_id=study.study,
        levels=[image.level for image in study.images],
        views=[true_view(study, image) for image in study.images],
        report=study.report if has_plus else "",
        labels=[values[cell] for cell in cells],
        attributes=attributes | (_known(study.attributes) if has_plus else {}),
    )


def true_view(study: MadeStudy, image: MadeImage) -> str:
    """The view to store; 17 frontal images are listed as LL or RL."""
    if image.is_lateral:
        return "LATERAL"
    if study.folder == "test" or image.ap_pa == "LL":
        return "FRONTAL"
    return image.ap_pa


def _make_study(rng: random.Random, folder: str, patient: str, study: str) -> MadeStudy:
    cells = {"train": ["", "", "1.0", "0.0", "-1.0"], "valid": ["0.0", "1.0"], "test": ["0", "1"]}
    sections, raw_report, report = _make_report(rng)
    attributes = {
        "race": rng.choice(["White", "Asian", "Unknown"]),
        "ethnicity": "Non-Hispanic/Non-Latino",
        "insurance_type": rng.choice(["Medicare", "Private Insurance"]),
        "interpreter_needed": "No",
        "recent_bmi": f"{rng.uniform(18, 40):.1f}",
        "deceased": rng.choice(["Yes", "No"]),
        "patient_report_date_order": study.removeprefix("study"),
    }
    return MadeStudy(
        folder=folder,
        patient=patient,
        study=study,
        sex=rng.choice(["Male", "Female", "Unknown"]),
        age=rng.choice(["0", "18", "57", "90"]),
        images=_make_images(rng),
        cells=[rng.choice(cells[folder]) for _ in LABELS],
        sections=sections,
        raw_report=raw_report,
        report=report,
        attributes=attributes,
        chexbert={
            section: [rng.choice(["", "0.0", "1.0", "-1.0"]) for _ in LABELS]
            if section == "report" or sections.get(section)
            else ["1.0", *[""] * 13]  # CheXbert's answer to an empty text: No Finding
            for section in ("findings", "impression", "report")
        },
        in_plus=folder != "test" and rng.random() < 0.9,
    )


def _make_images(rng: random.Random) -> list[MadeImage]:
    views = rng.choice(
        [
            ["view1_frontal"],
            ["view1_frontal", "view2_lateral"],
            ["view1_frontal", "view2_frontal", "view3_lateral"],
        ]
    )
    frontal = rng.choice(["AP", "AP", "PA", "LL"])
    return [
        MadeImage(view, "" if view.endswith("lateral") else frontal, rng.randrange(20, 236))
        for view in views
    ]


def _make_report(rng: random.Random) -> tuple[dict[str, str], str, str]:
    """The sections, the report as written, and as it should be stored."""
    number = rng.randrange(10**6)
    sections = [
        {
            "history": f"Cough, {number}.",
            "findings": "Clear.",
            "impression": "1.Normal.\n\n2.Thin.",
        },
        {"clinical_history": f"{number}", "comparison": "1/1/01.", "impression": "NO EFFUSION."},
        {"technique": "Portable", "procedure_comments": "None", "findings": f"Size {number} mm."},
        {"findings": f"LUNGS: Clear.\nHEART: Normal, {number}.", "impression": "Normal."},
        {},
    ][number % 5]
    end = rng.choice(_ENDS)
    written = "\n\n".join(
        f"{name.replace('_', ' ').upper()}: {text}" for name, text in sections.items()
    )
    if not sections:
        return {}, f"CHEST: {number}\n\nNo change.\n\n{end}", f"CHEST: {number}\n\nNo change."
    stored = {n: t.replace("\n", " ") if "LUNGS:" in t else t for n, t in sections.items()}
    lines = [f"{name.replace('_', ' ').upper()}: {text}" for name, text in stored.items()]
    return sections, f"{written}\n\n{end}", "\n".join(lines)


def _known(attributes: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if value != "Unknown"}


def _plus_row(study: MadeStudy, image: MadeImage) -> dict[str, str]:
    return {
        "path_to_image": f"{study.path(image)}.{'png' if image.level % 2 else 'jpg'}",
        "path_to_dcm": f"{study.path(image)}.dcm",
        "frontal_lateral": "Lateral" if image.is_lateral else "Frontal",
        "ap_pa": image.ap_pa,
        "deid_patient_id": study.patient,
        "report": study.raw_report,
        "section_narrative": study.raw_report,
        **{f"section_{name}": text for name, text in study.sections.items()},
        "section_end_of_impression": "2-ABNORMAL\nBy: Doe, J",
        "section_accession_number": "9959089",
        "age": f"{study.age}.0",
        "sex": study.sex,
        **study.attributes,
        "split": study.folder,
    }


def _chexbert_line(study: MadeStudy, image: MadeImage, cells: Sequence[str]) -> str:
    """The labels' order is not CheXpert's: No Finding is the last."""
    values = {name: float(cell) if cell else None for name, cell in _labelled(cells).items()}
    values["No Finding"] = values.pop("No Finding")
    return json.dumps({"path_to_image": f"{study.path(image)}.jpg", **values})


def _labelled(cells: Sequence[str]) -> dict[str, str]:
    return dict(zip(LABELS, cells, strict=True))
