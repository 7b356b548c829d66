"""The `rsna_pneumonia` builder: on made-up trees in the challenge's layout."""

import collections
import csv
import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from support import rsna_pneumonia_tree as tree
from support.builder_case import BuilderCase
from support.nih_chestxray14_tree import edit, reordered
from support.rsna_pneumonia_tree import (
    BOXES,
    CLASSES,
    NAME,
    TRAIN,
    build_tree,
    rejected,
    split_of,
    without_mapping,
)
from support.source_tree import TrueStudy, assert_prepared

from medclip_jax.data import build
from medclip_jax.data.builders.rsna_pneumonia import rsna_pneumonia_dataset_builder
from medclip_jax.errors import UserError

Tree = tuple[Path, list[TrueStudy]]


@pytest.fixture
def small(tmp_path: Path) -> Tree:
    return tmp_path, tree.write_tree(tmp_path, 40, seed=1)


class TestRsnaPneumonia(BuilderCase):
    __test__ = True
    DATASET_CLASS = rsna_pneumonia_dataset_builder.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["default"]
    SPLITS = {"train": 9, "validation": 1, "test": 1}

    @classmethod
    def write_source(cls, folder: Path) -> None:
        tree.write_tree(folder, 12, seed=0)


def test_holds_what_the_files_say(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 500, seed=0)
    build_tree(tmp_path)
    assert rejected(tmp_path) == []
    splits = split_of(tmp_path)
    training = [study for study in truth if study.split == "train"]
    expected = [without_mapping(study, splits[study.study_id]) for study in training]
    assert_prepared(f"{NAME}/default", tmp_path / "sets", expected)
    counts = collections.Counter(splits.values())
    assert 0.6 < counts["train"] / len(training) < 0.8
    assert 0.1 < counts["validation"] / len(training) < 0.2
    assert any(len(study.boxes) > 1 for study in expected)  # several rows an image


def test_the_mapping_makes_patients_nihs_and_keeps_them_in_one_split(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 200, seed=5)
    build_tree(tmp_path, "mapped", options={"nih_mapping": "mapping.json"})
    splits = split_of(tmp_path, "mapped")
    training = [study for study in truth if study.split == "train"]
    expected = [dataclasses.replace(s, split=splits[s.study_id]) for s in training]
    assert_prepared(f"{NAME}/mapped", tmp_path / "sets", expected)
    of_patient = collections.defaultdict(set)
    for study in expected:
        of_patient[study.patient_id].add(study.split)
    assert len(of_patient) < len(expected) and {len(s) for s in of_patient.values()} == {1}
    build_tree(tmp_path)  # by the image's id alone they are torn
    splits = split_of(tmp_path)
    torn = collections.defaultdict(set)
    for study in training:
        torn[study.patient_id].add(splits[study.study_id])
    assert max(map(len, torn.values())) > 1


def test_the_mapping_may_be_a_table(small: Tree) -> None:
    folder, truth = small
    entries = json.loads((folder / "mapping.json").read_text())
    with (folder / "mapping.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, entries[0].keys())
        table.writeheader()
        table.writerows(entries)
    found = build_tree(folder, "table", options={"nih_mapping": "mapping.csv"})
    patients = {study.study_id: study.patient_id for study in truth if study.split == "train"}
    assert {study_id: study.patient_id for study_id, study in found.items()} == patients


def test_takes_published_lists_with_labels_of_the_test_images(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 80, seed=3)
    splits = tree.write_lists(tmp_path / "mrm", truth)
    build_tree(tmp_path, "mrm")
    assert rejected(tmp_path, "mrm") == []
    expected = [without_mapping(study, splits[study.study_id]) for study in truth]
    assert_prepared(f"{NAME}/mrm", tmp_path / "sets", expected)
    assert {study.labels[0] for study in expected if study.split == "test"} == {0, 1}


def test_takes_lists_of_ids(small: Tree) -> None:
    folder, truth = small
    (folder / "benchx").mkdir()
    parts = {"train": truth[:20], "val": truth[20:25], "test": truth[25:30]}
    for name, part in parts.items():
        text = "\n".join(study.study_id for study in part)
        (folder / "benchx" / f"{name}.txt").write_text(text)
    build_tree(folder, "benchx")
    names = {"train": "train", "val": "validation", "test": "test"}
    expected = [without_mapping(s, names[name]) for name, part in parts.items() for s in part]
    assert_prepared(f"{NAME}/benchx", folder / "sets", expected)
    assert rejected(folder, "benchx") == []


def test_with_the_mapping_lists_lose_what_training_shows_of_a_patient(small: Tree) -> None:
    folder, truth = small
    # Patients have two images each, in this order.
    parts = {"train": truth[0:21], "val": truth[21:25], "test": truth[25:30]}
    (folder / "lists").mkdir()
    for name, part in parts.items():
        text = "".join(f"{TRAIN}/{s.study_id}.dcm {s.labels[0]:.0f}\n" for s in part)
        (folder / "lists" / f"{name}.txt").write_text(text)
    build_tree(folder, "own", options={"lists": "lists", "nih_mapping": "mapping.json"})
    names = {"train": "train", "val": "validation", "test": "test"}
    left_out = {truth[21].study_id: "train", truth[24].study_id: "test"}
    expected = [
        dataclasses.replace(study, split=names[name])
        for name, part in parts.items()
        for study in part
        if study.study_id not in left_out
    ]
    assert_prepared(f"{NAME}/own", folder / "sets", expected)
    assert [(row["path"], row["reason"]) for row in rejected(folder, "own")] == [
        (f"{TRAIN}/{s.study_id}.dcm", f"NIH's patient {s.patient_id} is in {where} too")
        for s, where in ((truth[21], "train"), (truth[24], "test"))
    ]


def test_what_nihs_training_list_has_is_left_out_of_the_evaluation(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 200, seed=5)
    options = {"nih_mapping": "mapping.json"}
    build_tree(tmp_path, "mapped", options=options)
    splits = split_of(tmp_path, "mapped")
    # The first image of every third patient; the second is of a patient that is on the list.
    listed = {s.attributes["nih_image"] for s in truth if int(s.patient_id) % 3 == 0}
    listed = {name for name in listed if name.endswith("_000.png")}
    (tmp_path / "train_val_list.txt").write_text("\n".join(sorted(listed)))
    # More than the share of errors that is allowed, but these are none.
    build_tree(tmp_path, "clean", options=options | {"nih_lists": "train_val_list.txt"})
    expected, reasons = {}, {}
    for study in truth:
        split = splits.get(study.study_id)
        if split in ("validation", "test") and int(study.patient_id) % 3 == 0:
            image = study.attributes["nih_image"]
            what = "" if image in listed else "its patient is "
            reasons[f"{TRAIN}/{study.study_id}.dcm"] = (
                f"{what}in NIH's training list (train_val_list.txt, {image})"
            )
        elif split:
            expected[study.study_id] = split
    assert split_of(tmp_path, "clean") == expected
    assert {row["path"]: row["reason"] for row in rejected(tmp_path, "clean")} == reasons
    assert len(reasons) > 10 and len({reason.split("(")[0] for reason in reasons.values()}) == 2


def test_nihs_list_needs_the_mapping(small: Tree) -> None:
    with pytest.raises(UserError, match="nih_lists needs nih_mapping"):
        build_tree(small[0], "clean", options={"nih_lists": "train_val_list.txt"})


def test_reads_kaggles_archive(small: Tree) -> None:
    folder, truth = small
    expected = [without_mapping(s, "") for s in truth if s.split == "train"]
    archive = folder / "download" / "rsna-pneumonia-detection-challenge.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        for path in [folder / BOXES, folder / CLASSES, *folder.glob("stage_2_*/*.dcm")]:
            file.write(path, path.relative_to(folder))
    build.build(NAME, manual_dir=archive.parent, data_dir=folder / "sets")
    splits = split_of(folder)
    expected = [dataclasses.replace(s, split=splits[s.study_id]) for s in expected]
    assert_prepared(f"{NAME}/default", folder / "sets", expected)


def test_without_header_fields_the_view_is_frontal(small: Tree) -> None:
    folder, truth = small
    path = folder / TRAIN / f"{truth[0].study_id}.dcm"
    header = pydicom.dcmread(path)
    del header.ViewPosition, header.PatientAge
    header.PatientSex = ""
    header.save_as(path)
    study = build_tree(folder)[truth[0].study_id]
    assert study.views == ["FRONTAL"] and study.attributes == {}
    assert len(build_tree(folder, "frontal", options={"views": "frontal"})) == 35


def test_ages_that_are_errors_are_left_out(small: Tree) -> None:
    folder, truth = small
    tree.set_header(folder / TRAIN / f"{truth[0].study_id}.dcm", "PA", "148", "F")
    assert build_tree(folder)[truth[0].study_id].attributes == {"sex": "F"}


def test_published_totals_are_those_of_the_protocol() -> None:
    cls = rsna_pneumonia_dataset_builder.Builder

    def published(**options) -> dict[str, int]:
        config = dataclasses.replace(cls.builder_configs["default"], name="own", **options)
        return dict(cls(config=config).published)

    default = dict(cls(config="default").published)
    assert sum(default[label] for label in tree.LABELS) == default["images"] == 26684
    assert default["images PA"] + default["images AP"] == 26684
    benchx = dict(cls(config="benchx").published)
    assert sum(benchx.values()) == 26684 and benchx["test images"] == 4003
    mrm = dict(cls(config="mrm").published)
    assert mrm["train images"] + mrm["validation images"] == 26684
    assert published(nih_mapping="m") == default
    assert published(lists="other") == published(nih_mapping="m", nih_lists="l") == {}


@pytest.mark.parametrize("change", [reordered, lambda lines: [f"{line}\r" for line in lines]])
def test_columns_are_found_by_name(small: Tree, change: Callable) -> None:
    folder, truth = small
    for name in (BOXES, CLASSES):
        edit(folder / name, change)
        (folder / name).write_text("\ufeff" + (folder / name).read_text())
    build_tree(folder)
    splits = split_of(folder)
    training = [study for study in truth if study.split == "train"]
    expected = [without_mapping(study, splits[study.study_id]) for study in training]
    assert_prepared(f"{NAME}/default", folder / "sets", expected)
