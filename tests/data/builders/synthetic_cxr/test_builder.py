"""The builder through TFDS: what was written is what was generated, without TensorFlow."""

import hashlib
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from medclip_jax.data.builders.synthetic_cxr.findings import LABEL_NAMES, NO_FINDING
from medclip_jax.data.builders.synthetic_cxr.synthetic_cxr_dataset_builder import (
    Builder,
    generate_studies,
)

_ROUND_TRIP = """
import hashlib, json, sys
from medclip_jax.data.builders.synthetic_cxr import synthetic_cxr_dataset_builder as module
from medclip_jax.data.studies import Study

config = module.SyntheticCxrConfig(
    name="tiny", image_size=64, num_train=12, num_validation=5, num_test=6, seed=4
)
builder = module.Builder(config=config, data_dir=sys.argv[1], file_format="array_record")
builder.download_and_prepare()
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
found = {"name": builder.name, "labels": list(builder.info.metadata["label_names"]), "splits": {}}
for split in builder.info.splits:
    records = builder.as_data_source(split).data_source
    studies = [Study.from_record(records[i]) for i in range(len(records))]
    for study, general in zip(studies, builder.as_data_source(split), strict=True):
        boxes = general["boxes"]
        assert study.study_id == general["study_id"].decode()
        assert study.patient_id == general["patient_id"].decode()
        assert study.report == general["report"].decode()
        assert study.views == [view.decode() for view in general["views"]]
        assert study.labels.tolist() == general["labels"].tolist()
        assert study.images == list(general["images"])
        assert [box.image for box in study.boxes] == [int(x) for x in boxes["image"]]
        assert [box.label for box in study.boxes] == [int(x) for x in boxes["label"]]
        assert [list(box.box) for box in study.boxes] == [x.tolist() for x in boxes["box"]]
    found["splits"][split] = {
        "patients": sorted({study.patient_id for study in studies}),
        "studies": {
            study.study_id: {
                "report": study.report,
                "labels": study.labels.tolist(),
                "views": study.views,
                "images": [hashlib.sha256(image).hexdigest() for image in study.images],
                "boxes": [[box.image, box.label, *box.box] for box in study.boxes],
            }
            for study in studies
        },
    }
assert "tensorflow" not in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a process without TensorFlow wrote and read back."""
    directory = tmp_path_factory.mktemp("tfds")
    command = [sys.executable, "-c", _ROUND_TRIP, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_name_and_label_names(prepared: dict) -> None:
    assert prepared["name"] == "synthetic_cxr"
    assert tuple(prepared["labels"]) == LABEL_NAMES


def test_splits_are_disjoint_by_patient_and_complete(prepared: dict) -> None:
    patients = {split: set(part["patients"]) for split, part in prepared["splits"].items()}
    assert {split: len(names) for split, names in patients.items()} == {
        "train": 12,
        "validation": 5,
        "test": 6,
    }
    assert len(set.union(*patients.values())) == 23


def test_what_was_written_is_what_is_generated_again_here(prepared: dict) -> None:
    read = {k: v for part in prepared["splits"].values() for k, v in part["studies"].items()}
    generated = [study for patient in range(23) for study in generate_studies(4, patient, 64)]
    assert set(read) == {study.study_id for study in generated}
    for study in generated:
        found = read[study.study_id]
        assert found["report"] == study.report
        assert found["labels"] == study.labels.tolist()
        assert found["views"] == list(study.views)
        assert found["images"] == [hashlib.sha256(image).hexdigest() for image in study.images]
        boxes = [[box.image, box.label, *box.box] for box in study.boxes]
        np.testing.assert_allclose(np.array(found["boxes"]), np.array(boxes), atol=1e-6)


@pytest.mark.parametrize("patient", range(20))
def test_a_study_is_whole(patient: int) -> None:
    for number, study in enumerate(generate_studies(0, patient, 96), 1):
        assert study.study_id == f"{study.patient_id}-s{number}"
        assert len(study.images) == len(study.views) in (1, 2)
        images = [cv2.imdecode(np.frombuffer(i, np.uint8), -1) for i in study.images]
        assert all(image.shape == (96, 96) and image.std() > 20 for image in images)
        present = {name for name, label in zip(LABEL_NAMES, study.labels, strict=True) if label}
        assert present and (NO_FINDING in present) == (present == {NO_FINDING})
        for image in range(len(study.images)):
            boxed = {LABEL_NAMES[box.label] for box in study.boxes if box.image == image}
            assert boxed == present - {NO_FINDING}


def test_two_images_of_a_study_differ() -> None:
    studies = [study for patient in range(40) for study in generate_studies(0, patient, 48)]
    pairs = [study.images for study in studies if len(study.images) == 2]
    assert len(pairs) > 5
    assert all(first != second for first, second in pairs)


def test_another_seed_is_another_set() -> None:
    first, other = generate_studies(0, 3, 48)[0], generate_studies(1, 3, 48)[0]
    assert first.report != other.report and first.images[0] != other.images[0]


def test_size_changes_the_pixels_and_nothing_else() -> None:
    small, large = generate_studies(0, 1, 64), generate_studies(0, 1, 128)
    for a, b in zip(small, large, strict=True):
        assert a.report == b.report
        np.testing.assert_array_equal(a.labels, b.labels)
        assert [box.label for box in a.boxes] == [box.label for box in b.boxes]
        for box, other in zip(a.boxes, b.boxes, strict=True):
            np.testing.assert_allclose(box.box, other.box, atol=0.04)


def test_configs() -> None:
    configs = Builder.builder_configs
    assert set(configs) == {"default", "demo"}
    assert configs["default"].image_size == 256 and configs["demo"].image_size == 128
    for config in configs.values():
        numbers = [number for part in config.patients.values() for number in part]
        assert len(numbers) == len(set(numbers)) == len(range(max(numbers) + 1))
    assert sum(len(part) for part in configs["default"].patients.values()) == 5000
    assert {split: len(part) for split, part in configs["demo"].patients.items()} == {
        "train": 1800,
        "validation": 200,
        "test": 400,
    }
