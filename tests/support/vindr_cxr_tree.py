"""Made-up VinDr-CXR: the files of PhysioNet's release and of Kaggle's, and the truth on them."""

import csv
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from support.source_tree import TrueStudy, write_image

LOCAL = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,"
    "Edema,Emphysema,Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,"
    "Mediastinal shift,Nodule/Mass,Pleural effusion,Pleural thickening,Pneumothorax,"
    "Pulmonary fibrosis,Rib fracture,Other lesion"
).split(",")
GLOBAL = "COPD,Lung tumor,Pneumonia,Tuberculosis,Other diseases".split(",")
KAGGLE = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Consolidation,ILD,Infiltration,"
    "Lung Opacity,Nodule/Mass,Other lesion,Pleural effusion,Pleural thickening,Pneumothorax,"
    "Pulmonary fibrosis,No finding"
).split(",")
HEIGHT, WIDTH = 64, 80
NEEDED = {"majority": 2, "any": 1, "all": 3}

Box = tuple[float, float, float, float]


class DrawnImage(NamedTuple):
    """An image and what its readers say: findings as (label, box of each reader that saw it)."""

    image_id: str
    level: int
    readers: list[str]
    findings: list[tuple[str, dict[str, Box]]]
    diseases: dict[str, set[str]]

    def votes(self) -> dict[str, set[str]]:
        """The labels of each reader; "No finding" for one without any."""
        found = {
            reader: {label for label, boxes in self.findings if reader in boxes}
            | self.diseases[reader]
            for reader in self.readers
        }
        return {reader: labels or {"No finding"} for reader, labels in found.items()}

    def truth(self, split: str, names: list[str], needed: int) -> TrueStudy:
        """The study where `needed` readers make a label."""
        votes = self.votes()
        counts = {name: sum(name in given for given in votes.values()) for name in names}
        least = dict.fromkeys(names, needed) | ({"No finding": len(votes)} if needed == 1 else {})
        boxes = sorted(
            (0, names.index(label), *(np.mean(list(seen.values()), axis=0) / _SIDES).tolist())
            for label, seen in self.findings
            if counts[label] >= needed
        )
        drawn_by = "|".join(sorted(filter(None, votes)))
        agreed = "|".join(f"{name}={count}" for name, count in counts.items() if count)
        return TrueStudy(
            split,
            self.image_id,
            self.image_id,
            [self.level],
            ["PA"],
            labels=[float(counts[name] >= least[name]) for name in names],
            boxes=boxes,
            attributes={"readers": drawn_by, "votes": agreed} if drawn_by else {},
        )


_SIDES = np.array([HEIGHT, WIDTH, HEIGHT, WIDTH])


def write_tree(
    folder: Path, num_studies: int, seed: int, consensus: str = "majority"
) -> list[TrueStudy]:
    """PhysioNet's release 1.0.0: five sixths are training images, the rest test images."""
    rng = np.random.default_rng(seed)
    num_test = num_studies // 6
    names = [*LOCAL, *GLOBAL, "No finding"]
    train = [draw_image(rng, LOCAL, GLOBAL, 3) for _ in range(num_studies - num_test)]
    test = [draw_image(rng, LOCAL, GLOBAL, 1) for _ in range(num_test)]
    for part, images in {"train": train, "test": test}.items():
        for image in images:
            write_dicom(folder / part / f"{image.image_id}.dicom", image.level)
        # The test tables have no readers, and another name for one label.
        keys = ["image_id", "rad_id"] if part == "train" else ["image_id"]
        columns = [n if part == "train" or n != GLOBAL[-1] else "Other disease" for n in names]
        write_table(
            folder / "annotations" / f"image_labels_{part}.csv",
            [*keys, *columns],
            _label_rows(images, names, len(keys)),
        )
        write_table(
            folder / "annotations" / f"annotations_{part}.csv",
            [*keys, "class_name", "x_min", "y_min", "x_max", "y_max"],
            _box_rows(images, len(keys)),
        )
    needed = NEEDED[consensus]
    return [
        *(image.truth(split_of(image.image_id), names, needed) for image in train),
        *(image.truth("test", names, 1) for image in test),
    ]


def write_kaggle_tree(
    folder: Path, num_studies: int, seed: int, suffix: str = ".dicom", side: int = 0
) -> list[TrueStudy]:
    """Kaggle's release; as .png or .jpg of `side` x `side` pixels with train_meta.csv."""
    rng = np.random.default_rng(seed)
    images = [draw_image(rng, KAGGLE[:-1], [], 3) for _ in range(num_studies)]
    rows: list[list[object]] = []
    for image in images:
        path = folder / "train" / f"{image.image_id}{suffix}"
        if suffix == ".dicom":
            write_dicom(path, image.level)
        else:
            write_image(path, image.level, side, side)
        for image_id, reader, label, *corners in _box_rows([image], 2):
            rows.append([image_id, label, KAGGLE.index(str(label)), reader, *corners])
    order = rng.permutation(len(rows))  # the rows of an image lie apart
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max".split(",")
    write_table(folder / "train.csv", header, [rows[i] for i in order])
    if suffix != ".dicom":
        sizes = [[image.image_id, HEIGHT, WIDTH] for image in images]
        write_table(folder / "train_meta.csv", ["image_id", "dim0", "dim1"], sizes)
    return [image.truth(split_of(image.image_id), KAGGLE, 2) for image in images]


def draw_image(
    rng: np.random.Generator, local: list[str], diseases: list[str], num_readers: int
) -> DrawnImage:
    """Findings lie in different cells of a grid, so that their boxes never overlap."""
    numbers = rng.choice(17, num_readers, replace=False) + 1
    readers = [f"R{number}" for number in numbers] if num_readers > 1 else [""]
    findings = []
    if rng.random() < 0.6:
        for cell in rng.permutation(16)[: rng.integers(1, 5)]:
            top, left = 16 * (cell // 4) + 1, 20 * (cell % 4) + 1
            seen = rng.permutation(readers)[: rng.integers(1, num_readers + 1)]
            boxes = {str(reader): _jittered(rng, top, left) for reader in seen}
            findings.append((str(rng.choice(local)), boxes))
    return DrawnImage(
        image_id=rng.bytes(16).hex(),
        level=int(rng.integers(40, 216)),
        readers=readers,
        findings=findings,
        diseases={
            reader: set(rng.choice(diseases, 1)) if diseases and rng.random() < 0.3 else set()
            for reader in readers
        },
    )


def split_of(image_id: str) -> str:
    """The documented split of a training image."""
    return (
        "validation"
        if int(hashlib.sha256(image_id.encode()).hexdigest()[:8], 16) < (0.1 * 2**32)
        else "train"
    )


def write_dicom(path: Path, level: int) -> None:
    """A DICOM file named as VinDr-CXR names them."""
    write_image(path.with_suffix(".dcm"), level, HEIGHT, WIDTH)
    path.with_suffix(".dcm").rename(path)


def write_table(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[Mapping[str, object]]) -> None:
    write_table(path, list(rows[0]), [list(row.values()) for row in rows])


def _jittered(rng: np.random.Generator, top: int, left: int) -> Box:
    ymin, xmin = top + rng.random(), left + rng.random()
    return ymin, xmin, ymin + 11 + rng.random(), xmin + 14 + rng.random()


def _label_rows(
    images: list[DrawnImage], names: list[str], num_keys: int
) -> Iterable[list[object]]:
    for image in images:
        for reader, given in image.votes().items():
            yield [
                *[image.image_id, reader][:num_keys],
                *(int(name in given) for name in names),
            ]


def _box_rows(images: list[DrawnImage], num_keys: int) -> Iterable[list[object]]:
    for image in images:
        for reader, given in image.votes().items():
            keys = [image.image_id, reader][:num_keys]
            if given == {"No finding"}:
                yield [*keys, "No finding", "", "", "", ""]
            for label, boxes in image.findings:
                if reader in boxes:
                    ymin, xmin, ymax, xmax = boxes[reader]
                    yield [*keys, label, xmin, ymin, xmax, ymax]
