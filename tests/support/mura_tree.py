"""A made-up tree in the layout of MURA v1.1: four tables without header, two folders of images."""

import hashlib
from pathlib import Path

import numpy as np
from support.source_tree import TrueStudy, write_image

PARTS = ("ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST")


def write_tree(folder: Path, num_studies: int, seed: int) -> list[TrueStudy]:
    """Writes MURA-v1.1 with `num_studies` studies of one to three images.

    As in the published set, patients are numbered through both lists, a patient can have several
    studies of a part and several parts, and each part counts its studies from 1.
    """
    rng = np.random.default_rng(seed)
    truth: list[TrueStudy] = []
    tables: dict[str, list[str]] = {
        f"{name}_{kind}.csv": []
        for name in ("train", "valid")
        for kind in ("labeled_studies", "image_paths")
    }
    number = 0
    while len(truth) < num_studies:
        number += 1
        name = "valid" if number % 4 == 0 else "train"
        for part in rng.choice(PARTS, int(rng.integers(1, 3)), replace=False):
            for study in range(1, int(rng.integers(2, 4))):
                if len(truth) < num_studies:
                    path = f"MURA-v1.1/{name}/XR_{part}/patient{number:05}/study{study}"
                    truth.append(_write_study(folder, path, tables, rng))
    for file, lines in tables.items():
        (folder / "MURA-v1.1" / file).write_text("".join(f"{line}\n" for line in lines))
    return truth


def _write_study(
    folder: Path, path: str, tables: dict[str, list[str]], rng: np.random.Generator
) -> TrueStudy:
    _, name, part, patient, study = path.split("/")
    abnormal = bool(rng.integers(2))
    path += "_positive" if abnormal else "_negative"
    tables[f"{name}_labeled_studies.csv"].append(f"{path}/,{int(abnormal)}")
    levels = [int(level) for level in rng.integers(0, 256, int(rng.integers(1, 4)))]
    for number, level in enumerate(levels, start=1):
        image = f"{path}/image{number}.png"
        tables[f"{name}_image_paths.csv"].append(image)
        write_image(folder / image, level, 24, 32)
    part = part.removeprefix("XR_").lower()
    return TrueStudy(
        split="test" if name == "valid" else true_split(patient),
        patient_id=patient,
        study_id=f"{part}/{study}",
        levels=levels,
        views=[""] * len(levels),
        labels=[float(abnormal)],
        attributes={"part": part},
    )


def true_split(patient: str) -> str:
    """Where a patient of the training list goes."""
    drawn = int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16) / 2**32
    return "validation" if drawn < 0.1 else "train"
