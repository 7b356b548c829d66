"""What the `rsna_pneumonia` builder does with rows, lines and files that it cannot use."""

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from support import rsna_pneumonia_tree as tree
from support.nih_chestxray14_tree import edit
from support.rsna_pneumonia_tree import BOXES, CLASSES, TEST, TRAIN, build_tree, rejected
from support.source_tree import TrueStudy

from medclip_jax.errors import UserError

Tree = tuple[Path, list[TrueStudy]]
OTHER = str(uuid.UUID(int=7, version=4))


@pytest.fixture
def small(tmp_path: Path) -> Tree:
    return tmp_path, tree.write_tree(tmp_path, 40, seed=1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"{OTHER},,,,,2", "Target is '2'; it must be 0 or 1"),
        (f"{OTHER},,,,,", "Target is ''; it must be 0 or 1"),
        (f"{OTHER},1.0,2.0,3", "2 fewer cells than the header has names"),
        (f"{OTHER},1,2,3,4,0", "a box where Target is 0"),
        (f"{OTHER},,,,,1", "the box is not four numbers"),
        (f"{OTHER},1,2,x,4,1", "the box is not four numbers"),
        (f"{OTHER},1,2,nan,4,1", "the box has no area, or begins outside of the image"),
        (f"{OTHER},1,2,0,4,1", "the box has no area, or begins outside of the image"),
        (f"{OTHER},-1,2,3,4,1", "the box has no area, or begins outside of the image"),
        (f"{OTHER},1,2,3,4,1,5", "1 more cells than the header has names"),
        (f"{OTHER},,,,,0", f"not in {CLASSES}"),
        (",,,,,0", "the patientId is '', which is none of the challenge's ids"),
        ("../../etc/passwd,,,,,0", "the patientId is '../../etc/passwd', which is none of"),
        (f"{OTHER[:-1]},,,,,0", f"the patientId is '{OTHER[:-1]}', which is none of"),
    ],
)
def test_a_bad_row_is_rejected(small: Tree, row: str, reason: str) -> None:
    folder, truth = small
    edit(folder / BOXES, lambda lines: [*lines, row])
    number = len((folder / BOXES).read_text().splitlines())
    assert len(build_tree(folder, max_rejected=0.1)) == 35
    (bad,) = rejected(folder)
    assert bad["row"] == str(number) and bad["reason"].startswith(reason)


def test_rows_that_repeat_or_contradict_earlier_ones_are_rejected(small: Tree) -> None:
    folder, _ = small
    rows = (folder / BOXES).read_text().splitlines()
    positive = next(n for n, row in enumerate(rows) if row.endswith(",1"))
    negative = next(n for n, row in enumerate(rows) if row.endswith(",0"))
    image_id = rows[positive].split(",")[0]
    edit(
        folder / BOXES,
        lambda lines: [*lines, rows[positive], rows[negative], f"{image_id},,,,,0"],
    )
    found = build_tree(folder, max_rejected=0.1)
    assert len(found) == 35 and found[image_id].labels[0] == 1
    assert [row["reason"] for row in rejected(folder)] == [
        f"says what row {positive + 1} says",
        f"says what row {negative + 1} says",
        f"Target is 0, but 1 in row {positive + 1}",
    ]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Normal", "normal", "gives it the class 'normal'"),
        ("Normal", "Lung Opacity", "Target is 0, but its class 'Lung Opacity'"),
        ("Lung Opacity", "Normal", "Target is 1, but its class 'Normal'"),
        ("Normal", "", "not in stage_2_detailed_class_info.csv"),
    ],
)
def test_classes_that_are_unknown_or_contradict_are_rejected(
    small: Tree, old: str, new: str, reason: str
) -> None:
    folder, truth = small
    image_id = next(
        line.split(",")[0]
        for line in (folder / CLASSES).read_text().splitlines()
        if line.endswith(f",{old}")
    )
    edit(
        folder / CLASSES,
        lambda lines: [f"{image_id},{new}" if line[:36] == image_id else line for line in lines],
    )
    assert len(build_tree(folder, max_rejected=0.1)) == 34
    (row,) = rejected(folder)
    assert row["path"] == image_id and reason in row["reason"]


def test_an_image_of_two_classes_is_rejected(small: Tree) -> None:
    folder, truth = small
    edit(folder / CLASSES, lambda lines: [*lines, *(f"{lines[1][:36]},{c}" for c in tree.LABELS)])
    build_tree(folder, max_rejected=0.1)
    (row,) = rejected(folder)
    assert "several classes: " in row["reason"]


def _line(text: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines, text]


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("train_list.txt", "../../etc/passwd 0", "names no image of the challenge"),
        ("train_list.txt", f"stage_1_train_images/{OTHER}.dcm 0", "names no image of the"),
        ("train_list.txt", f"{TRAIN}/{OTHER}.dcm 0", f"no usable row in {BOXES}"),
        ("test_list.txt", f"{TEST}/{OTHER}.dcm 0", "no such file"),
        ("test_list.txt", f"{TEST}/{OTHER}.dcm", "the list has no label for this test image"),
        ("test_list.txt", f"{TEST}/{OTHER}.dcm 2", "its label is '2'"),
        ("test_list.txt", f"{TEST}/{OTHER}.dcm 0 1", "its label is '0 1'"),
    ],
)
def test_a_bad_line_of_a_list_is_rejected(small: Tree, name: str, line: str, reason: str) -> None:
    folder, truth = small
    tree.write_lists(folder / "mrm", truth)
    edit(folder / "mrm" / name, _line(line))
    number = len((folder / "mrm" / name).read_text().splitlines())
    assert len(build_tree(folder, "mrm", max_rejected=0.1)) == 40
    (row,) = rejected(folder, "mrm")
    assert row["row"] == f"{name}:{number}" and row["reason"].startswith(reason)


def test_a_list_must_agree_with_the_table_and_name_images_once(small: Tree) -> None:
    folder, truth = small
    tree.write_lists(folder / "mrm", truth)
    path = folder / "mrm" / "train_list.txt"
    first, second, *_ = path.read_text().splitlines()
    wrong = f"{first.split()[0]} {1 - int(first.split()[1])}"
    edit(path, lambda lines: [wrong, *lines[1:], second])
    build_tree(folder, "mrm", max_rejected=0.1)
    reasons = [row["reason"] for row in rejected(folder, "mrm")]
    assert len(reasons) == 2
    assert f"but Target is {first.split()[1]} in {BOXES}" in reasons[0]
    assert reasons[1] == "the image is listed already, in row train_list.txt:2"


def test_missing_and_damaged_images_are_rejected(small: Tree) -> None:
    folder, truth = small
    (folder / TRAIN / f"{truth[0].study_id}.dcm").unlink()
    (folder / TRAIN / f"{truth[1].study_id}.dcm").write_bytes(b"\0" * 128 + b"DICM not so")
    path = folder / TRAIN / f"{truth[2].study_id}.dcm"
    path.write_bytes(path.read_bytes()[:-500])
    found = build_tree(folder, max_rejected=0.2)
    assert found.keys() == {s.study_id for s in truth[3:] if s.split == "train"}
    rows = {row["path"]: row["reason"] for row in rejected(folder)}
    assert rows.keys() == {f"{TRAIN}/{study.study_id}.dcm" for study in truth[:3]}
    assert rows[f"{TRAIN}/{truth[0].study_id}.dcm"] == "no such file"


def test_an_image_without_nihs_name_is_rejected(small: Tree) -> None:
    folder, truth = small
    path = folder / "mapping.json"
    path.write_text(json.dumps(json.loads(path.read_text())[1:]))
    options = {"nih_mapping": str(path)}
    found = build_tree(folder, "mapped", options=options, max_rejected=0.1)
    assert truth[0].study_id not in found and len(found) == 34
    (row,) = rejected(folder, "mapped")
    assert row["reason"] == "not in the mapping to NIH's images"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "not JSON, or cut short"),
        (lambda text: "[" * 200_000, "not JSON, or cut short"),
        (lambda text: "{}", "not an array of objects with subset_img_id and img_id"),
        (lambda text: "[]", "not an array of objects"),
        (lambda text: "[1]", "entry 1 has no subset_img_id and img_id"),
        (lambda text: text.replace("img_id", "image"), "entry 1 has no"),
        (lambda text: text.replace("_000.png", "_000.jpg"), "not like 00000001_000.png"),
        (
            lambda text: json.dumps([e | {"subset_img_id": "x"} for e in json.loads(text)]),
            "x is 00000010_000.png and 00000010_001.png",
        ),
    ],
)
def test_a_damaged_mapping_is_one_line(
    small: Tree, change: Callable[[str], str], message: str
) -> None:
    folder, _ = small
    path = folder / "mapping.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message) as caught:
        build_tree(folder, "mapped", options={"nih_mapping": "mapping.json"}, max_rejected=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / BOXES).unlink(), rf"{BOXES}: cannot be read"),
        (lambda d: (d / CLASSES).unlink(), rf"{CLASSES}: cannot be read"),
        (
            lambda d: edit(d / BOXES, lambda x: [x[0].replace("width", "w"), *x[1:]]),
            "no column width",
        ),
        (
            lambda d: edit(d / CLASSES, lambda x: [x[0].replace("class", "c"), *x[1:]]),
            "no column class",
        ),
        (lambda d: shutil.rmtree(d / TRAIN), "35 of 35 rows were rejected|no study is left"),
        (lambda d: edit(d / CLASSES, lambda x: x[:20]), "no study is left|rows were rejected"),
    ],
)
def test_a_missing_or_wrong_file_is_one_line(
    small: Tree, break_it: Callable[[Path], object], message: str
) -> None:
    folder, _ = small
    break_it(folder)
    with pytest.raises(UserError, match=message) as caught:
        build_tree(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("00000010_000.png\n0000001", "train_val_list.txt:2 is '0000001', not like"),
        ("", "the list is empty"),
    ],
)
def test_a_damaged_list_of_nihs_is_one_line(small: Tree, text: str, message: str) -> None:
    folder, _ = small
    (folder / "train_val_list.txt").write_text(text)
    options = {"nih_mapping": "mapping.json", "nih_lists": "train_val_list.txt"}
    with pytest.raises(UserError, match=message):
        build_tree(folder, "clean", options=options)
