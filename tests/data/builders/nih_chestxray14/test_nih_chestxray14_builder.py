"""The `nih_chestxray14` builder: on made-up trees in its layout, and on real images."""

import collections
import csv
import dataclasses
import math
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
from support import nih_chestxray14_tree as tree
from support.builder_case import BuilderCase
from support.nih_chestxray14_tree import (
    BOXES,
    NAME,
    TABLE,
    build_tree,
    edit,
    prepared,
    rejected,
    reordered,
)
from support.real_data import real
from support.source_tree import TrueStudy, assert_prepared

from medclip_jax.data import build
from medclip_jax.data.builders.nih_chestxray14 import nih_chestxray14_dataset_builder
from medclip_jax.data.builders.nih_chestxray14.ages import age_in_years
from medclip_jax.errors import UserError

DEFAULT = f"{NAME}/default"


def with_validation(folder: Path, truth: list[TrueStudy]) -> list[TrueStudy]:
    """The truth with the patients that the builder chose for validation."""
    chosen = {study.patient_id for split, study in prepared(folder) if split == "validation"}
    training = {study.patient_id for study in truth if study.split == "train"}
    assert chosen < training
    return [
        dataclasses.replace(study, split="validation") if study.patient_id in chosen else study
        for study in truth
    ]


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, list[TrueStudy]]:
    return tmp_path, tree.write_tree(tmp_path, 12, seed=1)


class TestNihChestXray14(BuilderCase):
    __test__ = True
    DATASET_CLASS = nih_chestxray14_dataset_builder.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["default"]
    SPLITS = {"train": 5, "validation": 3, "test": 4}

    @classmethod
    def write_source(cls, folder: Path) -> None:
        tree.write_tree(folder, 12, seed=12)


def test_holds_what_the_files_say(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 500, seed=0)
    build_tree(tmp_path)
    assert rejected(tmp_path) == []
    truth = with_validation(tmp_path, truth)
    assert_prepared(DEFAULT, tmp_path / "sets", truth)
    patients = {study.split: set() for study in truth}
    for study in truth:
        patients[study.split].add(study.patient_id)
    share = len(patients["validation"]) / len(patients["train"] | patients["validation"])
    assert 0.04 < share < 0.18


def test_validation_patients_do_not_depend_on_the_other_patients(tmp_path: Path) -> None:
    tree.write_tree(tmp_path / "all", 200, seed=3)
    build_tree(tmp_path / "all")
    splits = {study.study_id: split for split, study in prepared(tmp_path / "all")}
    tree.write_tree(tmp_path / "half", 200, seed=3)
    dropped = {name for name in splits if int(name[:8]) % 2}
    for file in (TABLE, "train_val_list.txt", "test_list.txt", BOXES):
        edit(tmp_path / "half" / file, lambda lines: [x for x in lines if x[:12] not in dropped])
    build_tree(tmp_path / "half")
    found = {study.study_id: split for split, study in prepared(tmp_path / "half")}
    assert found == {name: split for name, split in splits.items() if name not in dropped}
    assert set(found.values()) == {"train", "validation", "test"}


def test_takes_the_lists_of_the_benchmark(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 150, seed=3)
    splits = tree.write_lists(tmp_path / "mrm", truth)
    build_tree(tmp_path, "mrm")
    of_lists = [dataclasses.replace(s, split=splits[s.study_id]) for s in truth]
    assert_prepared(f"{NAME}/mrm", tmp_path / "sets", of_lists)


def test_takes_lists_from_elsewhere_without_labels(
    small: tuple[Path, list[TrueStudy]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, truth = small
    lists = tmp_path_factory.mktemp("benchx")
    for name, index in (("train", 0), ("val", -1)):
        (lists / f"{name}.txt").write_text(f"{truth[index].study_id}.png\n")
    (lists / "test.txt").write_text(f"images_001/{truth[-4].study_id}.png")
    build_tree(folder, "few", options={"lists": str(lists)})
    found = {(split, study.study_id) for split, study in prepared(folder, "few")}
    listed = [("train", 0), ("validation", -1), ("test", -4)]
    assert found == {(split, truth[index].study_id) for split, index in listed}
    assert rejected(folder, "few") == []  # images that these lists do not name are no errors


def test_a_patient_in_two_lists_is_refused(small: tuple[Path, list[TrueStudy]]) -> None:
    folder, truth = small
    tree.write_lists(folder / "mrm", truth)
    counts = collections.Counter(study.patient_id for study in truth)
    name = next(s.study_id for s in truth if counts[s.patient_id] > 1)
    for path in (folder / "mrm").iterdir():
        edit(path, lambda lines: [line for line in lines if not line.startswith(name)])
    other = next(s.study_id for s in truth if s.study_id != name and s.study_id[:8] == name[:8])
    lists = {path.name: path for path in (folder / "mrm").iterdir()}
    holder = next(n for n, path in lists.items() if other in path.read_text())
    with lists["test_list.txt" if holder != "test_list.txt" else "train_list.txt"].open(
        "a"
    ) as file:
        file.write(f"{name}.png 0\n")
    with pytest.raises(UserError, match=f"patient '{int(name[:8])}' is in"):
        build_tree(folder, "mrm")


def test_the_config_of_the_benchmark_says_which_lists_it_needs(
    small: tuple[Path, list[TrueStudy]],
) -> None:
    folder, truth = small
    with pytest.raises(UserError, match="mrm: no such file or folder"):
        build_tree(folder, "mrm")
    tree.write_lists(folder / "mrm", truth)
    (folder / "mrm" / "val_list.txt").unlink()
    with pytest.raises(UserError, match=r"no validation list; .*val_list\.txt, val\.txt"):
        build_tree(folder, "mrm")


def test_published_totals_are_those_of_the_protocol() -> None:
    configs = nih_chestxray14_dataset_builder.Builder.builder_configs

    def published(config: object) -> dict[str, int]:
        return dict(nih_chestxray14_dataset_builder.Builder(config=config).published)

    default, mrm = published(configs["default"]), published(configs["mrm"])
    assert default["test images"] == 25596 and "validation images" not in default
    splits = [mrm[f"{split} images"] for split in ("train", "validation", "test")]
    assert splits == [78468, 11219, 22433] and sum(splits) == default["images"]
    own = nih_chestxray14_dataset_builder.NihChestXray14Config(name="own", lists="own")
    assert published(own) == {}
    assert set(tree.LABELS) < default.keys()


@pytest.mark.parametrize("unpacked", ["images", "archives", "short archive names"])
def test_images_may_lie_in_one_folder_or_in_archives(
    small: tuple[Path, list[TrueStudy]], unpacked: str
) -> None:
    folder, truth = small
    for source in sorted(folder.glob("images_*")):
        for image in (source / "images").iterdir():
            image.rename(folder / image.name)
        shutil.rmtree(source)
    images = sorted(folder.glob("*.png"))
    if unpacked == "images":
        (folder / "images").mkdir()
    for number, image in enumerate(images):
        if unpacked == "images":
            image.rename(folder / "images" / image.name)
        else:
            part = f"{number + 1:02d}" if "short" in unpacked else f"{number + 1:03d}"
            with tarfile.open(folder / f"images_{part}.tar.gz", "w:gz") as archive:
                archive.add(image, f"images/{image.name}")
            image.unlink()
    build_tree(folder)
    assert_prepared(DEFAULT, folder / "sets", with_validation(folder, truth))


def test_without_boxes_there_are_none(small: tuple[Path, list[TrueStudy]]) -> None:
    folder, truth = small
    assert any(study.boxes for study in truth)
    (folder / BOXES).unlink()
    assert not any(study.boxes for study in build_tree(folder).values())


def test_reads_the_second_version_of_the_table(small: tuple[Path, list[TrueStudy]]) -> None:
    folder, truth = small
    text = (folder / TABLE).read_text().replace(",\n", "\n").replace("Gender", "Sex")
    (folder / "Data_Entry_2017_v2020.csv").write_text(text)
    (folder / TABLE).write_text("the older table, which is not read\n")
    build_tree(folder)
    assert_prepared(DEFAULT, folder / "sets", with_validation(folder, truth))


@pytest.mark.parametrize("header", ["", ","])
@pytest.mark.parametrize("row", ["", ","])
def test_commas_at_the_end_mean_nothing(
    small: tuple[Path, list[TrueStudy]], header: str, row: str
) -> None:
    folder, truth = small
    for table, times in ((TABLE, 1), (BOXES, 3)):
        edit(
            folder / table,
            lambda lines, times=times: [
                line.rstrip(",") + (row if number else header) * times
                for number, line in enumerate(lines)
            ],
        )
    build_tree(folder)
    assert_prepared(DEFAULT, folder / "sets", with_validation(folder, truth))
    assert any(study.boxes for study in truth)


@pytest.mark.parametrize("change", [reordered, lambda lines: [f"{line}\r" for line in lines]])
def test_columns_are_found_by_name(
    small: tuple[Path, list[TrueStudy]], change: Callable[[list[str]], list[str]]
) -> None:
    folder, truth = small
    edit(folder / TABLE, change)
    (folder / TABLE).write_text("\ufeff" + (folder / TABLE).read_text())
    for name in ("train_val_list.txt", "test_list.txt"):
        edit(folder / name, lambda lines: [f"{line}\r" for line in lines])
        (folder / name).write_text("\ufeff" + (folder / name).read_text())
    build_tree(folder)
    assert_prepared(DEFAULT, folder / "sets", with_validation(folder, truth))


@hypothesis.given(st.integers(0, 120), st.integers(0, 11))
def test_ages_are_whole_years_however_they_are_written(years: int, months: int) -> None:
    texts = [str(years), f"{years:03d}Y", f"{years:03d}y", f" {years} "]
    assert {age_in_years(text) for text in texts} == {str(years)}
    if 12 * years + months < 1000:
        assert age_in_years(f"{12 * years + months:03d}M") == str(years)


@hypothesis.given(st.text(max_size=6) | st.integers(121, 999).map(str))
def test_other_ages_are_unknown(text: str) -> None:
    age = age_in_years(text)
    assert age == "" or 0 <= int(age) <= 120
    if text.strip().isdecimal() and int(text.strip()) > 120:
        assert age == ""


def test_the_real_images_are_as_their_table_says(tmp_path: Path) -> None:
    source = real(NAME)
    build.build(NAME, manual_dir=source, data_dir=tmp_path / "sets")
    assert rejected(tmp_path) == []
    found = prepared(tmp_path)
    with (source / TABLE).open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    names = {split: (source / f"{split}_list.txt").read_text().split() for split in LISTS}
    true_labels = collections.Counter(label for row in rows for label in row[1].split("|"))
    labels = collections.Counter(
        name
        for _, study in found
        for name, value in zip(tree.LABELS, study.labels, strict=True)
        if value
    )
    assert labels == true_labels and len(found) == len(rows) == 506
    views = collections.Counter(view for _, study in found for view in study.views)
    assert views == collections.Counter(row[6] for row in rows)
    patients: dict[str, set[str]] = collections.defaultdict(set)
    images: dict[str, set[str]] = collections.defaultdict(set)
    for split, study in found:
        patients[split].add(study.patient_id)
        images[split].add(f"{study.study_id}.png")
    assert images["test"] == set(names["test"])
    assert images["train"] | images["validation"] == set(names["train_val"])
    assert sum(map(len, patients.values())) == len({row[3] for row in rows})
    assert all(not math.isnan(value) for _, study in found for value in study.labels)


LISTS = ("train_val", "test")
