"""Sets in ArrayRecord, read by `tf.data` for whoever has TensorFlow."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.builder_case import WITH_TENSORFLOW
from support.source_tree import grey_image

from medclip_jax.data import build, images
from medclip_jax.data.builders.manifest.manifest_dataset_builder import Builder, ManifestConfig

if not WITH_TENSORFLOW:
    pytest.skip("run by test_with_tensorflow.py", allow_module_level=True)

import tensorflow as tf  # noqa: E402

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """Twenty studies, each of an image that is wide and one that is high."""
    rows = ["image_path,study_id,patient_id"]
    for number in range(20):
        for name, shape in (("wide", (40, 80)), ("high", (80, 40))):
            path = f"{number}-{name}.png"
            cv2.imwrite(str(tmp_path / path), grey_image(10 * number, *shape))
            rows.append(f"{path},{number},{number}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    build.build_manifest("mine", tmp_path / "m.csv", tmp_path, data_dir=tmp_path / "sets")
    config = ManifestConfig(name="mine", manifest=tmp_path / "m.csv", image_root=tmp_path)
    return Builder(config=config, data_dir=tmp_path / "sets", file_format="array_record")


def test_studies_with_images_of_different_sizes(builder: Builder) -> None:
    dataset = builder.as_dataset(split="train")
    assert len(dataset) == 20
    for example in dataset:
        # TensorFlow's default is the fast transform, whose rounding differs between processors.
        wide, high = (
            tf.io.decode_jpeg(image, channels=1, dct_method="INTEGER_ACCURATE").numpy()
            for image in example["images"]
        )
        assert wide.shape == (40, 80, 1) and high.shape == (80, 40, 1)
        level = 10 * int(example["study_id"].numpy())
        assert abs(int(wide.mean()) - level) <= 1
        decoded = images.decode_gray(example["images"][1].numpy())
        np.testing.assert_array_equal(high[..., 0], decoded)


def test_parts_of_a_split_and_shuffling(builder: Builder) -> None:
    def ids(**options: object) -> list[bytes]:
        return [example["study_id"].numpy() for example in builder.as_dataset(**options)]

    whole = ids(split="train")
    assert ids(split="train[:25%]") == whole[:5]
    shuffled = ids(split="train", shuffle_files=True)
    assert shuffled != whole and sorted(shuffled) == sorted(whole)
