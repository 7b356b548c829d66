"""The schema that every builder writes and every reader expects: one example is one study.

A study is what a radiologist reports on: one or more images and one report. Images are kept as
encoded 8-bit grey JPEG or PNG, so that neither writing nor reading needs TensorFlow.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Box:
    """A finding's place on one image; `box` is (ymin, xmin, ymax, xmax), fractions of the sides."""

    image: int
    label: int
    box: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Study:
    """One study: its encoded images, their views, the report, labels and boxes.

    Attributes:
        labels: float32 `[num_labels]`; 1 present, 0 absent, NaN unknown.
    """

    study_id: str
    patient_id: str
    images: Sequence[bytes]
    views: Sequence[str]
    report: str
    labels: Float[np.ndarray, "num_labels"]
    boxes: Sequence[Box] = ()

    def to_example(self) -> dict[str, Any]:
        """The study as a TFDS example of `study_features`."""
        return {
            "study_id": self.study_id,
            "patient_id": self.patient_id,
            "images": list(self.images),
            "views": list(self.views),
            "report": self.report,
            "labels": np.asarray(self.labels, np.float32),
            "boxes": [
                {"image": b.image, "label": b.label, "box": np.asarray(b.box, np.float32)}
                for b in self.boxes
            ],
        }

    @classmethod
    def from_example(cls, example: Mapping[str, Any]) -> "Study":
        """The inverse of `to_example`, for an example read with its images still encoded."""
        boxes = example["boxes"]
        return cls(
            study_id=example["study_id"].decode(),
            patient_id=example["patient_id"].decode(),
            images=list(example["images"]),
            views=[view.decode() for view in example["views"]],
            report=example["report"].decode(),
            labels=example["labels"],
            boxes=[
                Box(int(image), int(label), tuple(float(x) for x in box))  # type: ignore[arg-type]
                for image, label, box in zip(
                    boxes["image"], boxes["label"], boxes["box"], strict=True
                )
            ],
        )


def study_features(num_labels: int) -> tfds.features.FeaturesDict:
    """The TFDS features of one study with `num_labels` labels."""
    text = tfds.features.Text()
    return tfds.features.FeaturesDict(
        {
            "study_id": text,
            "patient_id": text,
            "images": tfds.features.Sequence(
                tfds.features.Image(shape=(None, None, 1), encoding_format="jpeg")
            ),
            "views": tfds.features.Sequence(text),
            "report": text,
            "labels": tfds.features.Tensor(shape=(num_labels,), dtype=np.float32),
            "boxes": tfds.features.Sequence(
                {
                    "image": np.int32,
                    "label": np.int32,
                    "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
                }
            ),
        }
    )


class EncodedImages(tfds.decode.SkipDecoding):
    """Leaves a study's images encoded; TFDS's own `SkipDecoding` lacks the NumPy batch path."""

    def decode_batch_example_np(self, serialized_images: np.ndarray) -> np.ndarray:
        """The encoded images as they were stored."""
        return serialized_images


def study_info(
    builder: tfds.core.DatasetBuilder,
    label_names: Sequence[str],
    *,
    description: str,
    licence: str,
    homepage: str = "",
    citation: str = "",
) -> tfds.core.DatasetInfo:
    """The `DatasetInfo` of a study set; label names and licence travel as metadata."""
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=study_features(len(label_names)),
        homepage=homepage,
        citation=citation,
        license=licence,
        metadata=tfds.core.MetadataDict(label_names=list(label_names), licence=licence),
    )
