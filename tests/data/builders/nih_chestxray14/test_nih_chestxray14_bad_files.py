"""What the `nih_chestxray14` builder does with rows, images and files that it cannot use."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import nih_chestxray14_tree as tree
from support.nih_chestxray14_tree import BOXES, TABLE, build_tree, edit, rejected
from support.source_tree import TrueStudy

from medclip_jax.errors import UserError


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, list[TrueStudy]]:
    return tmp_path, tree.write_tree(tmp_path, 12, seed=1)


def _cell(index: int, value: str) -> Callable[[str], str]:
    def change(line: str) -> str:
        cells = line.split(",")
        return ",".join([*cells[:index], value, *cells[index + 1 :]])

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_cell(1, "Effusions"), "unknown finding 'Effusions'"),
        (_cell(1, ""), "unknown finding ''"),
        (_cell(1, "No Finding|Mass"), "No Finding beside findings: No Finding|Mass"),
        (_cell(3, "99999"), "the patient is '99999', which the image's name contradicts"),
        (_cell(3, ""), "the patient is '', which the image's name contradicts"),
        (_cell(6, "LL"), "the view is 'LL'; it must be PA or AP"),
        (lambda line: line.replace(",", ",,", 1), "the patient is "),
        (lambda line: line[:18], "the patient is ''"),
        (lambda line: line[: line.index(",2500") - 1], "the view is "),
    ],
)
def test_a_bad_row_is_rejected(
    small: tuple[Path, list[TrueStudy]], change: Callable[[str], str], reason: str
) -> None:
    folder, truth = small
    edit(folder / TABLE, lambda lines: [*lines[:-1], change(lines[-1])])
    studies = build_tree(folder, max_rejected=0.2)
    assert studies.keys() == {study.study_id for study in truth[:-1]}
    (row,) = rejected(folder)
    assert row["row"] == "13" and row["reason"].startswith(reason)


@pytest.mark.parametrize("name", ["../00000001_000.png", "/etc/passwd", "00000001_000.jpg", ""])
def test_a_name_that_is_none_of_the_sets_is_rejected(
    small: tuple[Path, list[TrueStudy]], name: str
) -> None:
    folder, truth = small
    edit(folder / TABLE, lambda lines: [*lines, _cell(0, name)(lines[1])])
    studies = build_tree(folder, max_rejected=0.2)
    assert studies.keys() == {study.study_id for study in truth}
    (row,) = rejected(folder)
    assert (row["row"], row["reason"]) == (
        "14",
        f"the image is called {name!r}, not like 00000001_000.png",
    )


def test_a_row_of_an_image_that_an_earlier_row_has_is_rejected(
    small: tuple[Path, list[TrueStudy]],
) -> None:
    folder, truth = small
    edit(folder / TABLE, lambda lines: [*lines, lines[1]])
    assert len(build_tree(folder, max_rejected=0.2)) == len(truth)
    assert [row["reason"] for row in rejected(folder)] == ["the image is listed already, in row 2"]


def test_lists_and_table_must_name_the_same_images(small: tuple[Path, list[TrueStudy]]) -> None:
    folder, truth = small
    listed = (folder / "train_val_list.txt").read_text().split()
    edit(folder / "train_val_list.txt", lambda lines: [*lines[1:], lines[-1], "0000000"])
    build_tree(folder, max_rejected=0.4)
    reasons = {(row["row"], row["path"]): row["reason"] for row in rejected(folder)}
    last = len(listed) - 1
    assert reasons == {
        ("2", listed[0]): "in neither train_val_list.txt nor test_list.txt",
        (f"train_val_list.txt:{last + 1}", listed[-1]): (
            f"the image is listed already, in train_val_list.txt:{last}"
        ),
        (f"train_val_list.txt:{last + 2}", "0000000"): "Data_Entry_2017.csv has no such image",
    }


def test_a_table_cut_short_is_noticed(small: tuple[Path, list[TrueStudy]]) -> None:
    folder, _ = small
    edit(folder / TABLE, lambda lines: lines[:8])
    with pytest.raises(UserError, match=r"rows were rejected .*rejected\.csv"):
        build_tree(folder)


def test_missing_and_damaged_images_are_rejected(small: tuple[Path, list[TrueStudy]]) -> None:
    folder, truth = small
    first, second = (next(folder.rglob(f"{study.study_id}.png")) for study in truth[:2])
    first.unlink()
    second.write_bytes(second.read_bytes()[:60])
    studies = build_tree(folder, max_rejected=0.4)
    assert studies.keys() == {study.study_id for study in truth[2:]}
    rows = rejected(folder)
    assert [(row["row"], Path(row["path"]).name) for row in rows] == [
        ("2", first.name),
        ("3", second.name),
    ]
    assert rows[0]["reason"] == "no such file"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{name},Infiltrates,1,2,3,4,,,", "unknown finding 'Infiltrates'"),
        ("{name},No Finding,1,2,3,4,,,", "unknown finding 'No Finding'"),
        ("{name},Mass,1,2,x,4,,,", "the box is not four numbers"),
        ("{name},Mass,1,2", "the box is not four numbers"),
        ("{name},Mass,1,2,nan,4,,,", "the box has no area, or begins outside of the image"),
        ("{name},Mass,1,2,0,4,,,", "the box has no area, or begins outside of the image"),
        ("{name},Mass,-1,2,3,4,,,", "the box has no area, or begins outside of the image"),
        ("99999999_000.png,Mass,1,2,3,4,,,", "a box of an image that the table of findings"),
        ("{name},Mass,,1,2,3,4,,,", "the box is not four numbers"),
    ],
)
def test_a_bad_box_is_rejected_and_its_image_kept(
    small: tuple[Path, list[TrueStudy]], row: str, reason: str
) -> None:
    folder, truth = small
    image = f"{truth[0].study_id}.png"
    (folder / BOXES).write_text(f"{tree.BOX_HEADER}\n{row.format(name=image)}\n")
    studies = build_tree(folder, max_rejected=0.2)
    assert len(studies) == len(truth) and not studies[truth[0].study_id].boxes
    (bad,) = rejected(folder)
    assert bad["row"] == f"{BOXES}:2" and bad["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / TABLE).unlink(), r"no table; .*Data_Entry_2017_v2020\.csv"),
        (lambda d: (d / "test_list.txt").unlink(), r"test_list\.txt: cannot be read"),
        (lambda d: (d / "test_list.txt").write_text("\n"), r"test_list\.txt: the list is empty"),
        (lambda d: [shutil.rmtree(p) for p in d.glob("images_*")], "no images; the folder images"),
        (
            lambda d: edit(d / TABLE, lambda x: [x[0].replace("View", "Vue"), *x[1:]]),
            "no column View Position",
        ),
        (
            lambda d: edit(d / BOXES, lambda x: [x[0].replace("[x,y", "[y,x"), *x[1:]]),
            r"no column Bbox \[x, y",
        ),
        (lambda d: edit(d / TABLE, lambda x: x[:1]), "the file has no rows"),
        (lambda d: (d / TABLE).write_bytes(b"\0\1"), "not UTF-8"),
    ],
)
def test_a_missing_or_wrong_file_is_one_line(
    small: tuple[Path, list[TrueStudy]], break_it: Callable[[Path], object], message: str
) -> None:
    folder, _ = small
    break_it(folder)
    with pytest.raises(UserError, match=message) as caught:
        build_tree(folder, max_rejected=1)
    assert "\n" not in str(caught.value)


def test_a_damaged_archive_is_one_line(small: tuple[Path, list[TrueStudy]]) -> None:
    folder, _ = small
    for source in folder.glob("images_*"):
        shutil.rmtree(source)
    (folder / "images_001.tar.gz").write_bytes(b"\x1f\x8bnot an archive")
    with pytest.raises(UserError, match=r"images_001\.tar\.gz: damaged or cut short"):
        build_tree(folder)
