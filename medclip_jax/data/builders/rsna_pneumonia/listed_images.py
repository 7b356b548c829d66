"""The challenge's images with split, labels and patient, and which of them are no fair test."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from medclip_jax.data.builders.nih_chestxray14.finding_tables import patient_of
from medclip_jax.data.builders.rows import PixelBox, Rejection, hash_split
from medclip_jax.data.builders.rsna_pneumonia.label_tables import (
    BOX_TABLE,
    LABELS,
    LabelledImage,
    is_image_id,
)
from medclip_jax.data.builders.rsna_pneumonia.nih_images import NihTraining
from medclip_jax.data.builders.split_lists import ListedImage

TRAIN_FOLDER, TEST_FOLDER = "stage_2_train_images", "stage_2_test_images"


class RsnaImage(NamedTuple):
    """An image of the challenge.

    Attributes:
        number: the row or line that names it.
        split: "" until it is drawn by the patient.
        nih_image: "00000001_000.png", or "" without a mapping.
    """

    number: int | str
    split: str
    image_id: str
    labels: tuple[float, ...]
    boxes: tuple[PixelBox, ...] = ()
    folder: str = TRAIN_FOLDER
    nih_image: str = ""

    @property
    def path(self) -> str:
        """The file, relative to the set's root."""
        return f"{self.folder}/{self.image_id}.dcm"

    @property
    def patient_id(self) -> str:
        """NIH's patient; the image's id as long as that is unknown."""
        return patient_of(self.nih_image) or self.image_id


def all_images(labelled: Mapping[str, LabelledImage]) -> Iterator[RsnaImage]:
    """The training images of the challenge, not yet split."""
    for image_id, image in labelled.items():
        yield RsnaImage(image.row, "", image_id, image.values, image.boxes)


def listed_images(
    listed: Iterable[ListedImage], labelled: Mapping[str, LabelledImage]
) -> Iterator[RsnaImage | Rejection]:
    """The images of lists, or why a line cannot be used.

    A line is `ID`, or `stage_2_train_images/ID.dcm LABEL`, or the same with stage_2_test_images,
    of which no other label is public.
    """
    for line in listed:
        path = PurePosixPath(line.name)
        folder = path.parent.name or TRAIN_FOLDER
        if not is_image_id(path.stem) or folder not in (TRAIN_FOLDER, TEST_FOLDER):
            yield Rejection(line.where, line.name, "names no image of the challenge")
        elif line.labels not in ((), ("0",), ("1",)):
            yield Rejection(line.where, line.name, f"its label is {' '.join(line.labels)!r}")
        elif folder == TEST_FOLDER:
            yield _test_image(line, path.stem)
        else:
            yield _train_image(line, path.stem, labelled.get(path.stem))


def _test_image(line: ListedImage, image_id: str) -> RsnaImage | Rejection:
    if not line.labels:
        return Rejection(line.where, line.name, "the list has no label for this test image")
    # What has pneumonia is of neither other class; what has none may be of either.
    other = 0.0 if line.labels == ("1",) else math.nan
    labels = (float(line.labels[0]), *(other for _ in LABELS[1:]))
    return RsnaImage(line.where, line.split, image_id, labels, folder=TEST_FOLDER)


def _train_image(
    line: ListedImage, image_id: str, image: LabelledImage | None
) -> RsnaImage | Rejection:
    if image is None:
        return Rejection(line.where, line.name, f"no usable row in {BOX_TABLE}")
    if line.labels and float(line.labels[0]) != image.values[0]:
        reason = (
            f"its label is {line.labels[0]}, but Target is {image.values[0]:.0f} in {BOX_TABLE}"
        )
        return Rejection(line.where, line.name, reason)
    return RsnaImage(line.where, line.split, image_id, image.values, image.boxes)


def with_nih_images(
    images: Iterable[RsnaImage | Rejection], mapping: Mapping[str, str]
) -> Iterator[RsnaImage | Rejection]:
    """The images with NIH's names of them, by which their patients are known."""
    for image in images:
        if isinstance(image, Rejection):
            yield image
        elif image.image_id in mapping:
            yield image._replace(nih_image=mapping[image.image_id])
        else:
            yield Rejection(image.number, image.path, "not in the mapping to NIH's images")


def with_split(image: RsnaImage) -> RsnaImage:
    """The image with its split: 70 % of the patients train, 15 % validation, 15 % test."""
    if image.split:
        return image
    return image._replace(split=hash_split(image.patient_id, validation=0.15, test=0.15))


def unfair_reasons(images: Sequence[RsnaImage], seen: NihTraining | None) -> list[str]:
    """Why each validation or test image is no fair one, or "".

    That is because its NIH patient is in training too, or in NIH's training list (`seen`). A
    patient of both validation and test keeps its test images only.
    """
    splits: dict[str, set[str]] = {}
    for image in images:
        splits.setdefault(image.patient_id, set()).add(image.split)
    return [_unfair_reason(image, splits[image.patient_id], seen) for image in images]


def _unfair_reason(image: RsnaImage, splits: Collection[str], seen: NihTraining | None) -> str:
    if image.split == "train" or not image.nih_image:
        return ""
    if seen and (reason := seen.reason(image.nih_image)):
        return reason
    for other in ("train", "test"):
        if other != image.split and other in splits:
            return f"NIH's patient {image.patient_id} is in {other} too"
    return ""
