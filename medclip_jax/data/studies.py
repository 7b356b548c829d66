"""The schema that every builder writes and every reader expects: one example is one study.

A study is what a radiologist reports on: one or more images and one report. Images are kept as
encoded 8-bit grey JPEG or PNG, so that neither writing nor reading needs TensorFlow.
"""

import dataclasses
from collections.abc import Sequence
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
    def from_record(cls, record: bytes) -> "Study":
        """The inverse of `to_example`, from the record that TFDS wrote; the images stay encoded.

        TFDS's own decoding, general in the features, takes more than twice as long and holds the
        interpreter's lock, which the threads of the input pipeline share.
        """
        fields = tf_example_pb2.Example.FromString(record).features.feature
        corners = iter(fields["boxes/box"].float_list.value)
        return cls(
            study_id=_text(fields["study_id"]),
            patient_id=_text(fields["patient_id"]),
            images=list(fields["images"].bytes_list.value),
            views=[view.decode() for view in fields["views"].bytes_list.value],
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
        )


def _text(field: Any) -> str:
    return field.bytes_list.value[0].decode()


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
