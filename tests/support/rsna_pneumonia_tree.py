"""A made-up RSNA challenge (stage 2) in the layout of its distribution."""

import dataclasses
import json
import math
import uuid
from pathlib import Path

import numpy as np
import pydicom
from support import nih_chestxray14_tree
from support.source_tree import TrueStudy, write_image

from medclip_jax.data import build
from medclip_jax.data.studies import Study

NAME = "rsna_pneumonia"
BOXES = "stage_2_train_labels.csv"
CLASSES = "stage_2_detailed_class_info.csv"
TRAIN, TEST = "stage_2_train_images", "stage_2_test_images"

LABELS = ("Pneumonia", "Normal", "No Lung Opacity / Not Normal")
BOX_HEADER = "patientId,x,y,width,height,Target"
SIZE = (32, 40)  # height, width


def write_tree(folder: Path, num_studies: int, seed: int) -> list[TrueStudy]:
    """Writes tables, training images, a few test images and the mapping to NIH's images.

    The studies of the truth have NIH's image as an attribute and NIH's patient as the patient, as
    with the mapping; "test" is the split of the test images (an eighth of all), and "train" that of
    the others, which the builder splits.
    """
    random = np.random.default_rng(seed)
    ids = [str(uuid.UUID(bytes=random.bytes(16), version=4)) for _ in range(num_studies)]
    studies = []
    boxes, classes, mapping = [BOX_HEADER], ["patientId,class"], []
    for number, image_id in enumerate(ids):
        is_test = number >= num_studies - num_studies // 8
        nih_image = f"{10 + number // 2:08d}_{number % 2:03d}.png"
        kind = int(random.integers(0, 3))
        drawn = [_draw_box(random) for _ in range(random.integers(1, 4))] if kind == 0 else []
        level, view = int(random.integers(40, 215)), str(random.choice(["PA", "AP"]))
        age, sex = int(random.integers(1, 90)), str(random.choice(["M", "F"]))
        path = folder / f"stage_2_{'test' if is_test else 'train'}_images" / f"{image_id}.dcm"
        write_image(path, level, *SIZE)
        set_header(path, view, str(age), sex)
        if not is_test:
            boxes += [f"{image_id},{x}.0,{y}.0,{w}.0,{h}.0,1" for x, y, w, h in drawn]
            boxes += [] if drawn else [f"{image_id},,,,,0"]
            name = ("Lung Opacity", *LABELS[1:])[kind]
            classes += [f"{image_id},{name}"] * max(len(drawn), 1)
        mapping.append(_mapping_entry(image_id, nih_image))
        labels = [float(i == kind) for i in range(3)]
        if is_test and kind:
            labels = [0.0, math.nan, math.nan]
        studies.append(
            TrueStudy(
                "test" if is_test else "train",
                str(10 + number // 2),
                image_id,
                [level],
                [view],
                labels=labels,
                boxes=[] if is_test else [(0, 0, *_fractions(box)) for box in drawn],
                attributes={"age": str(age), "sex": sex, "nih_image": nih_image},
            )
        )
    (folder / BOXES).write_text("\n".join(boxes) + "\n")
    (folder / CLASSES).write_text("\n".join(classes) + "\n")
    (folder / "mapping.json").write_text(json.dumps(mapping))
    return studies


def write_lists(folder: Path, studies: list[TrueStudy]) -> dict[str, str]:
    """Writes lists like MRM's, training images in the order of the truth; returns id to split.

    As in the published ones, test images are of stage 2's test set, and a space ends each line.
    """
    folder.mkdir(parents=True)
    training = [study for study in studies if study.split == "train"]
    test = [study for study in studies if study.split == "test"]
    cut = len(training) * 9 // 10
    parts = {"train": training[:cut], "validation": training[cut:], "test": test}
    for split, part in parts.items():
        kind = "test" if split == "test" else "train"
        lines = [f"stage_2_{kind}_images/{s.study_id}.dcm {int(s.labels[0])} \n" for s in part]
        name = "val" if split == "validation" else split
        (folder / f"{name}_list.txt").write_text("".join(lines))
    return {study.study_id: split for split, part in parts.items() for study in part}


def build_tree(folder: Path, config: str = "default", **arguments) -> dict[str, Study]:
    """Builds the tree in `folder` into its folder `sets`; the studies by id."""
    build.build(f"{NAME}/{config}", manual_dir=folder, data_dir=folder / "sets", **arguments)
    return {study.study_id: study for _, study in prepared(folder, config)}


def prepared(folder: Path, config: str = "default") -> list[tuple[str, Study]]:
    """The studies in `sets` with their splits."""
    return nih_chestxray14_tree.prepared(folder, config, NAME)


def split_of(folder: Path, config: str = "default") -> dict[str, str]:
    """The split of each prepared study."""
    return {study.study_id: split for split, study in prepared(folder, config)}


def rejected(folder: Path, config: str = "default") -> list[dict[str, str]]:
    """The rows of `rejected.csv`."""
    return nih_chestxray14_tree.rejected(folder, config, NAME)


def without_mapping(study: TrueStudy, split: str) -> TrueStudy:
    """The truth where nothing is known of NIH: the image's id is the patient's."""
    known = {name: value for name, value in study.attributes.items() if name != "nih_image"}
    return dataclasses.replace(study, split=split, patient_id=study.study_id, attributes=known)


def _draw_box(random: np.random.Generator) -> tuple[int, int, int, int]:
    x, y = random.integers(0, 10, 2).tolist()
    width, height = random.integers(5, 20, 2).tolist()
    return x, y, width, height


def _fractions(box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    (height, width), (x, y, w, h) = SIZE, box
    return y / height, x / width, (y + h) / height, (x + w) / width


def set_header(path: Path, view: str, age: str, sex: str) -> None:
    """As in the challenge's headers: the age is a bare number, which the standard forbids."""
    header = pydicom.dcmread(path)
    header.ViewPosition, header.PatientSex = view, sex
    with pydicom.config.disable_value_validation():
        header.PatientAge = age
        header.save_as(path)


def _mapping_entry(image_id: str, nih_image: str) -> dict[str, object]:
    uid = "1.2.276.0.7230010.3.1.4.8323329"
    return {
        "subset_img_id": image_id,
        "img_id": nih_image,
        "subset_group": "train",
        "subset_init_label": 1,
        "orig_labels": ["No Finding"],
        "StudyInstanceUID": uid,
        "SeriesInstanceUID": uid,
        "SOPInstanceUID": uid,
    }
