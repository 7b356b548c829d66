"""The TFDS builder `synthetic_cxr`: phantom frontal chest radiographs with findings and reports.

Every patient follows from the configuration's seed and the patient's number alone, so the set is
the same wherever and in whatever order it is built.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from medclip_jax.data.builders.study_builder import StudyBuilder
from medclip_jax.data.builders.synthetic_cxr.findings import LABEL_NAMES, NO_FINDING
from medclip_jax.data.builders.synthetic_cxr.patients import Visit, sample_visits
from medclip_jax.data.builders.synthetic_cxr.render import render
from medclip_jax.data.builders.synthetic_cxr.report_writer import write_report
from medclip_jax.data.images import encode_jpeg
from medclip_jax.data.studies import Box, Study, study_info

_DESCRIPTION = """
Phantom frontal chest radiographs drawn from simple anatomy, each with zero to three kinds of
findings of known side, zone and severity, and a report in MIMIC-CXR's layout. Images, reports and
patients are invented; no real patient's data is in the set.
"""


@dataclasses.dataclass(kw_only=True)
class SyntheticCxrConfig(tfds.core.BuilderConfig):
    """One size of the set.

    Attributes:
        image_size: side of the square images in pixels.
        num_train: patients for training.
        num_validation: patients for validation.
        num_test: patients for testing.
        seed: seed of everything.
    """

    image_size: int
    num_train: int
    num_validation: int
    num_test: int
    seed: int = 0

    @property
    def patients(self) -> dict[str, range]:
        """The patients' numbers, by split."""
        first_test = self.num_train + self.num_validation
        return {
            "train": range(self.num_train),
            "validation": range(self.num_train, first_test),
            "test": range(first_test, first_test + self.num_test),
        }


class Builder(StudyBuilder):
    """Synthetic chest X-rays with findings, boxes and reports."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        SyntheticCxrConfig(
            name="default",
            description="5,000 patients, images of 256 pixels.",
            image_size=256,
            num_train=4000,
            num_validation=400,
            num_test=600,
        ),
        SyntheticCxrConfig(
            name="demo",
            description="2,400 patients, images of 128 pixels; built in a minute.",
            image_size=128,
            num_train=1800,
            num_validation=200,
            num_test=400,
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return study_info(self, LABEL_NAMES, description=_DESCRIPTION, licence="Apache-2.0")

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {
            split: self._generate_examples(patients)
            for split, patients in self.builder_config.patients.items()
        }

    def _generate_examples(self, patients: range) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        for patient in patients:
            for study in generate_studies(config.seed, patient, config.image_size):
                yield study.study_id, study.to_example()


def generate_studies(seed: int, patient: int, image_size: int) -> list[Study]:
    """All studies of one patient; depends on the arguments alone.

    Args:
        seed: the set's seed.
        patient: the patient's number.
        image_size: side of the images in pixels.

    Returns:
        One to three studies, in order of time.
    """
    visits = sample_visits(seed, patient)
    return [
        _make_study(
            visit,
            f"p{patient:06d}",
            number,
            np.random.default_rng([seed, patient, number]),
            image_size,
        )
        for number, visit in enumerate(visits, 1)
    ]


def _make_study(
    visit: Visit, patient_id: str, number: int, rng: np.random.Generator, image_size: int
) -> Study:
    labels = visit.labels or {NO_FINDING}
    images, boxes = [], []
    for index, acquisition in enumerate(visit.acquisitions):
        image, marked = render(visit.anatomy, acquisition, visit.findings, image_size)
        images.append(encode_jpeg(image))
        boxes += [Box(index, LABEL_NAMES.index(m.finding.label), m.box) for m in marked]
    return Study(
        study_id=f"{patient_id}-s{number}",
        patient_id=patient_id,
        images=images,
        views=[acquisition.view for acquisition in visit.acquisitions],
        report=write_report(visit, rng),
        labels=np.array([name in labels for name in LABEL_NAMES], np.float32),
        boxes=boxes,
    )
