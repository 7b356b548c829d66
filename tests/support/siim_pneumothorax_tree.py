"""Made-up SIIM-ACR Pneumothorax: run lengths and DICOM files as distributed, and the truth."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from support.source_tree import TrueStudy, write_image

SIDE = 1024

Rectangle = tuple[int, int, int, int]  # top, left, bottom, right in pixels of 1024 x 1024


class DrawnImage(NamedTuple):
    """An image and its parts of pneumothorax."""

    image_id: str
    level: int
    parts: list[Rectangle]

    def truth(self, split: str) -> TrueStudy:
        share = sum((bottom - top) * (right - left) for top, left, bottom, right in self.parts)
        return TrueStudy(
            split,
            self.image_id,
            self.image_id,
            [self.level],
            ["FRONTAL"],
            labels=[float(bool(self.parts))],
            mask_shares=[(0, 0, share / SIDE**2)] if self.parts else [],
        )


def write_tree(folder: Path, num_studies: int, seed: int) -> list[TrueStudy]:
    """The competition's files, with small DICOM images; a few are as large as the real ones."""
    rng = np.random.default_rng(seed)
    images = [draw_image(rng) for _ in range(num_studies)]
    for number, image in enumerate(images):
        side = SIDE if number % 50 == 0 else 64
        write_image(dicom_path(folder, image.image_id), image.level, side, side)
    # A test image of the competition, which has no row.
    test = folder / "dicom-images-test" / "1.2.3" / "1.2.4"
    write_image(test / "1.2.276.0.7230010.3.1.4.8323329.1.2.dcm", 100)
    write_runs(folder / "train-rle.csv", images)
    return [image.truth(split_of(image.image_id)) for image in images]


def draw_image(rng: np.random.Generator) -> DrawnImage:
    """About a third have pneumothorax, in one to three parts that do not overlap."""
    parts = []
    for quarter in rng.permutation(4)[: max(0, rng.integers(-4, 4))]:
        top, left = (512 * int(quarter // 2), 512 * int(quarter % 2))
        height, width = (16 * int(n) for n in rng.integers(4, 25, 2))
        parts.append((top + 16, left + 32, top + 16 + height, left + 32 + width))
    first, second, third = rng.integers(1000, 99999, 3)
    image_id = f"1.2.276.0.7230010.3.1.4.8323329.{first}.15178{second}.{third}"
    return DrawnImage(image_id, int(rng.integers(40, 216)), parts)


def dicom_path(folder: Path, image_id: str) -> Path:
    """The file lies in the folders of its study and series, whose ids differ in one number."""
    study, series = (image_id.replace(".1.4.", f".1.{n}.") for n in (2, 3))
    return folder / "dicom-images-train" / study / series / f"{image_id}.dcm"


def write_runs(path: Path, images: Sequence[DrawnImage]) -> None:
    """train-rle.csv, with the blanks before its second name and its values."""
    lines = ["ImageId, EncodedPixels"]
    for image in images:
        runs = [encode_rectangle(part) for part in image.parts]
        lines += [f"{image.image_id}, {text}" for text in runs or ["-1"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def encode_rectangle(part: Rectangle) -> str:
    """Run lengths of a rectangle: down the columns, each gap counted from the run before it."""
    top, left, bottom, right = part
    height = bottom - top
    return f"{left * SIDE + top} {height}" + f" {SIDE - height} {height}" * (right - left - 1)


def split_of(image_id: str) -> str:
    """The documented split."""
    drawn = int(hashlib.sha256(image_id.encode()).hexdigest()[:8], 16) / 2**32
    return "validation" if drawn < 0.15 else "test" if drawn < 0.3 else "train"
