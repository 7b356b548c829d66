"""Opening prepared sets and reading their studies."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from medclip_jax.data import datasets, images
from medclip_jax.data.studies import Box, Study, study_info
from medclip_jax.errors import UserError

STUDIES = [
    Study("one", "p1", [b"first", b"second"], ["PA", ""], "Text é.", np.array([1, np.nan], "f4")),
    Study("two", "p2", [], [], "", np.array([0, 1], "f4")),
    Study(
        "three",
        "p2",
        [b"\x00third\x00"],
        ["LATERAL"],
        "x\ny",
        np.array([0, 0], "f4"),
        [Box(0, 1, (0.25, 0.5, 0.75, 1.0)), Box(0, 0, (0.0, 0.0, 1.0, 0.5))],
    ),
]


class TwoConfigs(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="standard", description=""),
        tfds.core.BuilderConfig(name="other", description=""),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return study_info(self, ["a", "b"], description="Three studies.", licence="none")

    def _split_generators(self, dl_manager: object) -> dict:
        return {"train": self._generate_examples()}

    def _generate_examples(self):  # noqa: ANN202
        for study in STUDIES:
            yield study.study_id, study.to_example()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("sets")
    for config in ("standard", "other"):
        builder = TwoConfigs(config=config, data_dir=root, file_format="array_record")
        builder.download_and_prepare()
    return root


def assert_same(study: Study, expected: Study) -> None:
    for name in ("study_id", "patient_id", "report"):
        assert getattr(study, name) == getattr(expected, name)
    for name in ("images", "views", "boxes"):
        assert list(getattr(study, name)) == list(getattr(expected, name))
    np.testing.assert_array_equal(study.labels, expected.labels)


def test_studies_survive_writing_and_reading(data_dir: pathlib.Path) -> None:
    split = datasets.open_split("two_configs/other", "train", data_dir)
    assert (len(split), split.label_names) == (3, ("a", "b"))
    assert (split.name, split.split) == ("two_configs/other", "train")
    read = {study.study_id: study for study in split}
    for expected in STUDIES:
        assert_same(read[expected.study_id], expected)


def test_access_by_index_slice_and_list(data_dir: pathlib.Path) -> None:
    split = datasets.open_split("two_configs/other", "train", data_dir)
    order = [study.study_id for study in split]
    assert [split[index].study_id for index in (0, 1, 2, -1)] == [*order, order[2]]
    assert [study.study_id for study in split[1:]] == order[1:]
    assert [study.study_id for study in split.read([2, 0, 2])] == [order[2], order[0], order[2]]
    assert split.read([]) == []
    with pytest.raises(IndexError):
        split[3]


def test_a_set_without_config_opens_its_default_one(data_dir: pathlib.Path) -> None:
    builder = datasets.open_builder("two_configs", data_dir)
    assert pathlib.Path(builder.data_dir) == data_dir / "two_configs" / "standard" / "1.2.0"


def test_the_newest_version_counts(prepared, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "manifest" / "small"
    folder.mkdir(parents=True)
    original = prepared.data_dir / "manifest" / "small" / "1.0.0"
    for version in ("1.9.0", "1.10.0", "incomplete.ABC_2.0.0"):
        (folder / version).symlink_to(original)
    assert datasets.prepared_directory(folder).name == "1.10.0"


def test_the_data_dir(prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared.data_dir))
    assert len(datasets.open_split(prepared.name, "train")) == 24
    assert datasets.default_data_dir("~/x") == pathlib.Path("~/x").expanduser()
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert datasets.default_data_dir().name == "tensorflow_datasets"


def test_what_cannot_be_opened(prepared, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no split 'test'; it has: train, validation"):
        datasets.open_split(prepared.name, "test", prepared.data_dir)
    with pytest.raises(UserError, match="data build synthetic_cxr/demo --data-dir"):
        datasets.open_split("synthetic_cxr/demo", "train", tmp_path)
    with pytest.raises(UserError, match="manifest --name mine --manifest FILE.csv"):
        datasets.open_split("manifest/mine", "train", tmp_path)
    with pytest.raises(UserError, match="not prepared"):
        datasets.open_split("manifest", "train", prepared.data_dir)


def test_other_tfds_sets_are_refused(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    foreign = tmp_path / "foreign" / "1.0.0"
    foreign.mkdir(parents=True)
    for file in (data_dir / "two_configs" / "other" / "1.2.0").iterdir():
        if file.name != "metadata.json":
            (foreign / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="not a set of studies"):
        datasets.open_split("foreign", "train", tmp_path)


def test_images_stay_encoded_until_decoded(prepared) -> None:
    split = datasets.open_split(prepared.name, "train", prepared.data_dir)
    for study in split:
        number = int(study.study_id.split()[1])
        for encoded in study.images:
            assert isinstance(encoded, bytes)
            assert abs(int(images.decode_gray(encoded).mean()) - (10 * number + 15)) <= 1


def test_building_and_reading_import_no_tensorflow(prepared, tmp_path: pathlib.Path) -> None:
    (tmp_path / "m.csv").write_text("text\nThe lungs are clear.\n")
    # A TensorFlow that is there to be found, and tells when it is imported.
    (tmp_path / "tensorflow.py").write_text(f"open('{tmp_path}/imported', 'w').close()")
    script = f"""
from medclip_jax.data import build, datasets, info, pipeline
build.build_manifest("one", "{tmp_path}/m.csv", "{tmp_path}", data_dir="{tmp_path}")
print(datasets.open_split("manifest/one", "train", "{tmp_path}")[0].report)
print(info.describe("{prepared.name}", "{prepared.data_dir}"))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert "The lungs are clear." in run.stdout and "patients" in run.stdout
    assert not (tmp_path / "imported").exists()


def test_a_split_whose_file_has_gone_is_one_line(toy_data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(toy_data, copy)
    split = datasets.open_split("manifest/toy", "test", copy)
    (shard,) = (copy / "manifest" / "toy").rglob("manifest-test.array_record*")
    shard.unlink()
    with pytest.raises(UserError, match=rf"^{re.escape(str(shard))} cannot be read"):
        list(split)
