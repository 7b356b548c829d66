"""A made-up ChestX-ray14 in the layout of its distribution."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from support.source_tree import TrueStudy, read_back, read_rejected, write_image

from medclip_jax.data import build
from medclip_jax.data.studies import Study

NAME = "nih_chestxray14"
TABLE = "Data_Entry_2017.csv"
BOXES = "BBox_List_2017.csv"

FINDINGS = (
    "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax "
    "Consolidation Edema Emphysema Fibrosis Pleural_Thickening Hernia"
).split()
LABELS = (*FINDINGS, "No Finding")
# The first version of the table ends its header and rows with a comma; the second does not.
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
# Copies of the real table have this header and six cells a row.
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
SIZE = (32, 40)  # of the files; boxes are in pixels of 1024 x 1024 images


def write_tree(folder: Path, num_studies: int, seed: int) -> list[TrueStudy]:
    """Writes images in twelve folders, table, boxes and official lists; returns the truth.

    Which training patients are for validation is the builder's choice, so the truth has "train".
    """
    random = np.random.default_rng(seed)
    studies: list[TrueStudy] = []
    rows, boxes = [HEADER], [BOX_HEADER]
    lists: dict[str, list[str]] = {"train": [], "test": []}
    patient = 0
    while len(studies) < num_studies:
        patient += int(random.integers(1, 40))
        split = "test" if random.random() < 0.25 else "train"
        sex, age = str(random.choice(["M", "F"])), int(random.integers(18, 90))
        for number in range(min(int(random.integers(1, 5)), num_studies - len(studies))):
            level = int(random.integers(40, 215))
            name = f"{patient:08d}_{number:03d}.png"
            present = sorted(random.choice(14, int(random.integers(0, 4)), replace=False))
            findings = "|".join(FINDINGS[i] for i in present) or "No Finding"
            view = str(random.choice(["PA", "AP"]))
            # The follow-up number is not the number in the name in all rows.
            follow_up = number + int(random.integers(0, 2))
            rows.append(
                f"{name},{findings},{follow_up},{patient},{_age(random, age)},{sex},{view},"
                "2500,2048,0.168,0.168,"
            )
            lists[split].append(name)
            write_image(folder / f"images_{patient % 12 + 1:03d}/images/{name}", level, *SIZE)
            true_boxes = _write_boxes(random, name, present, boxes)
            studies.append(
                TrueStudy(
                    split,
                    str(patient),
                    f"{patient:08d}_{number:03d}",
                    [level],
                    [view],
                    labels=[float(i in present) for i in range(14)] + [float(not present)],
                    boxes=true_boxes,
                    attributes={"age": str(age), "sex": sex, "follow_up": str(follow_up)},
                )
            )
    (folder / TABLE).write_text("\n".join(rows) + "\n")
    (folder / BOXES).write_text("\n".join(boxes) + "\n")
    (folder / "train_val_list.txt").write_text("\n".join(lists["train"]) + "\n")
    (folder / "test_list.txt").write_text("\n".join(lists["test"]))
    return studies


def write_lists(folder: Path, studies: list[TrueStudy]) -> dict[str, str]:
    """Writes lists like MRM's (all images, with labels), by patient; returns study id to split."""
    folder.mkdir(parents=True)
    splits = {}
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    patients = list(dict.fromkeys(study.patient_id for study in studies))
    for study in reversed(studies):
        split = ("train", "val", "test", "train")[patients.index(study.patient_id) % 4]
        labels = " ".join(str(int(value)) for value in study.labels[:14])
        lines[split].append(f"{study.study_id}.png {labels}")
        splits[study.study_id] = "validation" if split == "val" else split
    for split, listed in lines.items():
        (folder / f"{split}_list.txt").write_text("\n".join(listed) + "\n")
    return splits


def build_tree(folder: Path, config: str = "default", **arguments) -> dict[str, Study]:
    """Builds the tree in `folder` into its folder `sets`; the studies by id."""
    build.build(f"{NAME}/{config}", manual_dir=folder, data_dir=folder / "sets", **arguments)
    return {study.study_id: study for _, study in prepared(folder, config)}


def prepared(folder: Path, config: str = "default", name: str = NAME) -> list[tuple[str, Study]]:
    """The studies in `sets` with their splits."""
    return read_back(f"{name}/{config}", folder / "sets")


def rejected(folder: Path, config: str = "default", name: str = NAME) -> list[dict[str, str]]:
    """The rows of `rejected.csv`."""
    return read_rejected(f"{name}/{config}", folder / "sets")


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Changes the lines of a file."""
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def reordered(lines: list[str]) -> list[str]:
    """A table with its columns in another order, and one more."""
    rows = [line.split(",") for line in lines]
    return [",".join(["more" if n == 0 else str(n), *row[::-1]]) for n, row in enumerate(rows)]


def _age(random: np.random.Generator, years: int) -> str:
    return str(random.choice([f"{years}", f"{years:03d}Y"]))


def _write_boxes(
    random: np.random.Generator, name: str, present: list[int], rows: list[str]
) -> list[tuple[int, int, float, float, float, float]]:
    boxes = []
    for label in present:
        if random.random() < 0.3:
            x, y = (random.uniform(0, 500) for _ in range(2))
            width, height = (random.uniform(20, 500) for _ in range(2))
            # The table of boxes calls it otherwise than the table of findings.
            finding = "Infiltrate" if FINDINGS[label] == "Infiltration" else FINDINGS[label]
            rows.append(f"{name},{finding},{x!r},{y!r},{width!r},{height!r}")
            corners = (y / 1024, x / 1024, (y + height) / 1024, (x + width) / 1024)
            boxes.append((0, int(label), *corners))
    return boxes
