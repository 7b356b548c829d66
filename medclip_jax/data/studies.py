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
from tensorflow_datasets.proto import tf_example_pb2


@dataclasses.dataclass(frozen=True)
class Box:
    """A finding's place on one image; `box` is (ymin, xmin, ymax, xmax), fractions of the sides."""

    image: int
    label: int
    box: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Mask:
    """A finding's pixels on one image: a PNG of the image's size, 255 inside and 0 outside."""

    image: int
    label: int
    png: bytes


@dataclasses.dataclass(frozen=True)
class Study:
    """One study: its encoded images, their views, the report, labels, boxes and masks.

    Attributes:
        labels: float32 `[num_labels]`; 1 present, 0 absent, NaN unknown.
        attributes: what else the source says of the study, by name: "age", "sex", "source", …
    """

    study_id: str
    patient_id: str
    images: Sequence[bytes]
    views: Sequence[str]
    report: str
    labels: Float[np.ndarray, "num_labels"]
    boxes: Sequence[Box] = ()
    masks: Sequence[Mask] = ()
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells the study from all others of its set."""
        return f"{self.patient_id}\t{self.study_id}"

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
            "masks": [{"image": m.image, "label": m.label, "mask": m.png} for m in self.masks],
            "attributes": [{"name": n, "value": v} for n, v in self.attributes.items()],
        }

    @classmethod
    def from_record(cls, record: bytes) -> "Study":
        """The inverse of `to_example`, from the record that TFDS wrote; the images stay encoded.

        TFDS's own decoding, general in the features, takes more than twice as long and holds the
        interpreter's lock, which the threads of the input pipeline share.
        """
        fields = tf_example_pb2.Example.FromString(record).features.feature
        corners = iter(fields["boxes/box"].float_list.value)
        names, values = (_texts(fields[f"attributes/{part}"]) for part in ("name", "value"))
        return cls(
            study_id=_text(fields["study_id"]),
            patient_id=_text(fields["patient_id"]),
            images=list(fields["images"].bytes_list.value),
            views=_texts(fields["views"]),
            report=_text(fields["report"]),
            labels=np.array(fields["labels"].float_list.value, np.float32),
            boxes=[
                Box(image, label, (next(corners), next(corners), next(corners), next(corners)))
                for image, label in zip(
                    fields["boxes/image"].int64_list.value,
                    fields["boxes/label"].int64_list.value,
                    strict=True,
                )
            ],
            masks=[
                Mask(image, label, png)
                for image, label, png in zip(
                    fields["masks/image"].int64_list.value,
                    fields["masks/label"].int64_list.value,
                    fields["masks/mask"].bytes_list.value,
                    strict=True,
                )
            ],
            attributes=dict(zip(names, values, strict=True)),
        )


def _text(field: Any) -> str:
    return _texts(field)[0]


def _texts(field: Any) -> list[str]:
    return [value.decode() for value in field.bytes_list.value]


def study_features(num_labels: int) -> tfds.features.FeaturesDict:
    """The TFDS features of one study with `num_labels` labels."""
    text, encoded = tfds.features.Text(), tfds.features.Scalar(np.object_)
    return tfds.features.FeaturesDict(
        {
            "study_id": text,
            "patient_id": text,
            # Encoded files, because tf.data cannot stack images of different sizes.
            "images": tfds.features.Sequence(encoded),
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
            "masks": tfds.features.Sequence(
                {
                    "image": np.int32,
                    "label": np.int32,
                    "mask": encoded,
                }
            ),
            "attributes": tfds.features.Sequence({"name": text, "value": text}),
        }
    )


def study_info(
    builder: tfds.core.DatasetBuilder,
    label_names: Sequence[str],
    *,
    description: str,
    licence: str,
    homepage: str = "",
    citation: str = "",
    **metadata: Any,
) -> tfds.core.DatasetInfo:
    """The `DatasetInfo` of a study set; label names, licence and `metadata` travel as metadata."""
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=study_features(len(label_names)),
        homepage=homepage,
        citation=citation,
        license=licence,
        metadata=tfds.core.MetadataDict(label_names=list(label_names), licence=licence, **metadata),
    )
