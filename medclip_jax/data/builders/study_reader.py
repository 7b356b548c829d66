"""From the rows of a study to the study: its files are read, images scaled down and encoded."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from medclip_jax.data import images, reports
from medclip_jax.data.builders.rows import PixelBox, Rejection, Row, RunLengthMask
from medclip_jax.data.run_lengths import decode_run_lengths
from medclip_jax.data.studies import Box, Mask, Study
from medclip_jax.data.text_encoding import decode_text
from medclip_jax.errors import UserError

_MIN_SIDE = 16  # pixels; nothing smaller is a radiograph
# Of larger images only one at a time is decoded, so that memory stays bounded with many threads.
_LARGE = 50_000_000  # pixels
_large_images = threading.Lock()
_RATIO_TOLERANCE = 0.01  # sides of a converted file are rounded


class StoredImage(NamedTuple):
    """An image as it is stored, and the size that it had."""

    jpeg: bytes
    height: int
    width: int


def store_image(path: Path, image_size: int) -> StoredImage:
    """Reads an image and encodes it with its shorter side scaled down to `image_size`.

    Raises:
        UserError: the image cannot be read, is smaller than any radiograph, or shows nothing.
    """
    encoded = images.read_file(path)
    height, width = images.stored_size(encoded) or (0, 0)
    with _large_images if height * width > _LARGE else contextlib.nullcontext():
        image, (height, width) = images.decode_to_short_side(encoded, image_size, str(path))
    if min(height, width) < _MIN_SIDE:
        raise UserError(f"{path}: {width} x {height} pixels are no radiograph")
    images.check_not_blank(image, str(path))
    return StoredImage(images.encode_jpeg(image), height, width)


@dataclasses.dataclass(frozen=True)
class StudyReader:
    """Reads studies; can be pickled, so that another process may do it.

    Attributes:
        root: what the rows' paths are relative to.
        image_size: the shorter side of stored images.
        sections: the report's sections to keep; all of it if empty.
        store: reads and encodes an image; `store_image`, or something that remembers what it gave.
    """

    root: Path
    image_size: int
    sections: tuple[str, ...] = ()
    store: Callable[[Path, int], StoredImage] = store_image

    def __call__(self, rows: Sequence[Row]) -> tuple[Study | None, list[Rejection]]:
        """The study of these rows, without those that cannot be read, and why they cannot.

        The study's report is its rows' texts, each once, with an empty line between two that
        differ; an image named twice is stored once. A label is present if a row says so, absent if
        a row says absent and none present.
        """
        kept, rejected = [], []
        for row in rows:
            path = row.image_path or row.text_path
            try:
                kept.append(self._read_row(row))
            except UserError as error:
                reason = str(error).removeprefix(f"{self.root / path}: ")
                rejected.append(Rejection(row.number, path, reason))
        return (_study(kept) if kept else None), rejected

    def _read_row(self, row: Row) -> "_ReadRow":
        text = row.text or (
            decode_text(images.read_file(self.root / row.text_path)) if row.text_path else ""
        )
        if self.sections:
            text = reports.select_sections(text, self.sections)
        if not row.image_path:
            return _ReadRow(row, text, None, [])
        image = self.store(self.root / row.image_path, self.image_size)
        masks = [(mask.label, _mask_png(mask, image)) for mask in row.masks]
        return _ReadRow(row, text, image, masks)


class _ReadRow(NamedTuple):
    row: Row
    text: str
    image: StoredImage | None
    masks: list[tuple[int, bytes]]


def _study(read: Sequence[_ReadRow]) -> Study:
    stored = {part.row.image_path: part.image for part in read if part.image is not None}
    position = {path: number for number, path in enumerate(stored)}
    views = {part.row.image_path: part.row.view for part in reversed(read)}
    first = read[0].row
    return Study(
        study_id=first.study_id,
        patient_id=first.patient_id,
        images=[image.jpeg for image in stored.values()],
        views=[views[path] for path in stored],
        report="\n\n".join(dict.fromkeys(part.text for part in read if part.text)),
        labels=_merge_labels([part.row.labels for part in read]),
        boxes=[
            Box(position[part.row.image_path], box.label, _fractions(box, part.image))
            for part in read
            if part.image is not None
            for box in part.row.boxes
        ],
        masks=[
            Mask(position[part.row.image_path], label, png)
            for part in read
            for label, png in part.masks
        ],
        attributes={k: v for part in reversed(read) for k, v in part.row.attributes.items() if v},
    )


def _merge_labels(labels: Sequence[tuple[float, ...]]) -> Float[np.ndarray, "num_labels"]:
    # fmax prefers a number to NaN, and present to absent.
    return np.fmax.reduce(np.array(labels, np.float32), axis=0)


def _fractions(box: PixelBox, image: StoredImage) -> tuple[float, float, float, float]:
    height, width = box.image_shape or (image.height, image.width)
    ymin, xmin, ymax, xmax = box.box
    corners = np.array([ymin / height, xmin / width, ymax / height, xmax / width])
    top, left, bottom, right = np.clip(corners, 0, 1).tolist()
    return top, left, bottom, right


def _mask_png(mask: RunLengthMask, image: StoredImage) -> bytes:
    """The union of the mask's parts, in the size of the stored image."""
    height, width = mask.image_shape or (image.height, image.width)
    if abs(image.width / image.height - width / height) > _RATIO_TOLERANCE:
        raise UserError(
            f"{image.width} x {image.height} pixels, but the mask is for {width} x {height}"
        )
    whole = np.zeros((height, width), np.float32)
    for runs in mask.runs:
        whole[decode_run_lengths(runs, height, width)] = 1
    stored = images.decode_gray(image.jpeg).shape
    scaled = cv2.resize(whole, stored[::-1], interpolation=cv2.INTER_AREA)
    return cv2.imencode(".png", np.where(scaled >= 0.5, 255, 0).astype(np.uint8))[1].tobytes()
