"""The `vindr_cxr` builder on made-up trees of both releases, whole and spoilt."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support import vindr_cxr_tree as tree
from support.builder_case import BuilderCase
from support.source_tree import assert_prepared, read_back, read_rejected, write_image

from medclip_jax.data import datasets
from medclip_jax.data.build import build
from medclip_jax.data.builders.vindr_cxr import vindr_cxr_dataset_builder
from medclip_jax.data.builders.vindr_cxr.readings import KAGGLE_LABELS, PHYSIONET_LABELS
from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError

LABELS = "annotations/image_labels_train.csv"
BOXES = "annotations/annotations_train.csv"


class TestVinDrCXR(BuilderCase):
    __test__ = True
    DATASET_CLASS = vindr_cxr_dataset_builder.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["default", "any_reader", "all_readers"]
    SPLITS = {"train": 9, "validation": 1, "test": 2}

    @classmethod
    def write_source(cls, folder: Path) -> None:
        tree.write_tree(folder, 12, seed=0)


class TestKaggle(BuilderCase):
    __test__ = True
    DATASET_CLASS = vindr_cxr_dataset_builder.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["kaggle"]
    SPLITS = {"train": 11, "validation": 1}

    @classmethod
    def write_source(cls, folder: Path) -> None:
        tree.write_kaggle_tree(folder, 12, seed=0)


def prepare(source: Path, config: str = "", **options) -> str:
    name = f"vindr_cxr/{config}" if config else "vindr_cxr"
    return build(name, manual_dir=source, data_dir=source / "sets", **options)


def studies(source: Path, config: str = "default") -> dict[str, tuple[str, Study]]:
    found = read_back(f"vindr_cxr/{config}", source / "sets")
    return {study.study_id: (split, study) for split, study in found}


def rejections(source: Path, config: str = "default") -> list[dict[str, str]]:
    return read_rejected(f"vindr_cxr/{config}", source / "sets")


def change(path: Path, function: Callable[[str], str]) -> None:
    path.write_text(function(path.read_text()))


def change_line(number: int, function: Callable[[str], str]) -> Callable[[str], str]:
    """Changes one line; 0 is the header."""

    def changed(text: str) -> str:
        lines = text.splitlines(keepends=True)
        lines[number] = function(lines[number])
        return "".join(lines)

    return changed


@pytest.mark.parametrize(
    ("config", "rule"), [("default", "majority"), ("any_reader", "any"), ("all_readers", "all")]
)
def test_a_whole_tree(tmp_path: Path, config: str, rule: str) -> None:
    size = 500 if config == "default" else 100
    truth = tree.write_tree(tmp_path, size, seed=1, consensus=rule)
    prepare(tmp_path, config)
    assert_prepared(f"vindr_cxr/{config}", tmp_path / "sets", truth)
    assert rejections(tmp_path, config) == []
    assert {study.split for study in truth} == {"train", "validation", "test"}
    assert any(study.boxes for study in truth)


def test_names_and_counts(tmp_path: Path) -> None:
    tree.write_tree(tmp_path, 30, seed=1)
    message = prepare(tmp_path)
    assert "warning: images: 30 found, 17,970 fewer than the 18,000 published" in message
    assert "warning: test images: 5 found" in message
    assert list(PHYSIONET_LABELS) == [*tree.LOCAL, *tree.GLOBAL, "No finding"]
    assert list(KAGGLE_LABELS) == tree.KAGGLE


def test_kaggle(tmp_path: Path) -> None:
    truth = tree.write_kaggle_tree(tmp_path, 300, seed=2)
    write_image(tmp_path / "test" / "unlabelled.png", 100)
    prepare(tmp_path, "kaggle")
    assert_prepared("vindr_cxr/kaggle", tmp_path / "sets", truth)
    assert rejections(tmp_path, "kaggle") == []
    assert datasets.split_names("vindr_cxr/kaggle", tmp_path / "sets") == ("train", "validation")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_images_of_another_size(tmp_path: Path, suffix: str) -> None:
    truth = tree.write_kaggle_tree(tmp_path, 40, seed=3, suffix=suffix, side=48)
    prepare(tmp_path, "kaggle")
    assert_prepared("vindr_cxr/kaggle", tmp_path / "sets", truth)


def test_sizes_in_columns_of_the_table(tmp_path: Path) -> None:
    truth = tree.write_kaggle_tree(tmp_path, 40, seed=3, suffix=".png", side=48)
    (tmp_path / "train_meta.csv").unlink()
    rows = tree.read_rows(tmp_path / "train.csv")
    sizes = {"width": tree.WIDTH, "height": tree.HEIGHT}
    tree.write_rows(tmp_path / "train.csv", [row | sizes for row in rows])
    prepare(tmp_path, "kaggle")
    assert_prepared("vindr_cxr/kaggle", tmp_path / "sets", truth)


def test_physionet_as_png(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 40, seed=4)
    for part in ("train", "test"):
        sizes = []
        for path in sorted((tmp_path / part).glob("*.dicom")):
            level = next(study.levels[0] for study in truth if study.study_id == path.stem)
            path.unlink()
            write_image(path.with_suffix(".png"), level, 40, 40)
            sizes.append([path.stem, tree.HEIGHT, tree.WIDTH])
        tree.write_table(tmp_path / f"{part}_meta.csv", ["image_id", "dim0", "dim1"], sizes)
    prepare(tmp_path)
    assert_prepared("vindr_cxr/default", tmp_path / "sets", truth)


def test_sizes_are_needed_where_images_are_not_dicom(tmp_path: Path) -> None:
    tree.write_kaggle_tree(tmp_path, 12, seed=3, suffix=".png", side=48)
    (tmp_path / "train_meta.csv").unlink()
    with pytest.raises(UserError, match=r"train_meta\.csv is needed"):
        prepare(tmp_path, "kaggle")


def test_an_image_without_size_is_rejected(tmp_path: Path) -> None:
    tree.write_kaggle_tree(tmp_path, 12, seed=3, suffix=".png", side=48)
    rows = tree.read_rows(tmp_path / "train_meta.csv")
    tree.write_rows(tmp_path / "train_meta.csv", rows[1:])
    prepare(tmp_path, "kaggle", max_rejected=0.1)
    (rejected,) = rejections(tmp_path, "kaggle")
    assert "size of the original image" in rejected["reason"]
    assert rows[0]["image_id"] in rejected["path"]


def test_sizes_of_dicom_files_are_their_own(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 30, seed=4)
    sizes = [[study.study_id, 1, 1] for study in truth]
    tree.write_table(tmp_path / "train_meta.csv", ["image_id", "dim0", "dim1"], sizes)
    prepare(tmp_path)
    assert_prepared("vindr_cxr/default", tmp_path / "sets", truth)


def test_other_pictures_do_not_matter(tmp_path: Path) -> None:
    """They need no sizes."""
    truth = tree.write_tree(tmp_path, 12, seed=5)
    write_image(tmp_path / "train" / "overview.png", 100)
    prepare(tmp_path, max_rejected=0.1)
    assert_prepared("vindr_cxr/default", tmp_path / "sets", truth)
    assert [row["path"] for row in rejections(tmp_path)] == ["train/overview.png"]


def test_dicom_comes_before_png(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 12, seed=5)
    for path in sorted((tmp_path / "train").glob("*.dicom")):
        write_image(path.with_suffix(".png"), 255, 30, 30)
    prepare(tmp_path)
    assert_prepared("vindr_cxr/default", tmp_path / "sets", truth)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda rows: [dict(reversed(row.items())) for row in rows],
        lambda rows: [{"more": "x", **row, "most": "y"} for row in rows],
    ],
    ids=["reordered", "extra"],
)
def test_columns_go_by_name(tmp_path: Path, rewrite) -> None:
    truth = tree.write_tree(tmp_path, 30, seed=6)
    for path in sorted((tmp_path / "annotations").glob("*.csv")):
        tree.write_rows(path, rewrite(tree.read_rows(path)))
    prepare(tmp_path)
    assert_prepared("vindr_cxr/default", tmp_path / "sets", truth)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: raw.replace(b"\n", b"\r\n"),
        lambda raw: raw.rstrip(b"\n"),
    ],
    ids=["byte order mark", "CRLF", "no last line end"],
)
def test_forms_of_text(tmp_path: Path, rewrite) -> None:
    truth = tree.write_tree(tmp_path, 30, seed=6)
    for path in sorted((tmp_path / "annotations").glob("*.csv")):
        path.write_bytes(rewrite(path.read_bytes()))
    prepare(tmp_path)
    assert_prepared("vindr_cxr/default", tmp_path / "sets", truth)


def test_labels_as_floats(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 30, seed=6)
    rows = tree.read_rows(tmp_path / LABELS)
    floats = {"0": "0.0", "1": "1.0"}
    tree.write_rows(tmp_path / LABELS, [{k: floats.get(v, v) for k, v in r.items()} for r in rows])
    prepare(tmp_path)
    assert_prepared("vindr_cxr/default", tmp_path / "sets", truth)


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        (LABELS, lambda p: p.unlink(), "image_labels_train.csv"),
        ("annotations/annotations_test.csv", lambda p: p.unlink(), "annotations_test.csv"),
        (LABELS, lambda p: change(p, lambda t: t.replace("rad_id", "reader")), "no column rad_id"),
        (LABELS, lambda p: change(p, lambda t: t.replace("COPD", "X")), "no column COPD"),
        (
            LABELS,
            lambda p: change(p, lambda t: t.replace("Other diseases", "X")),
            "no column Other diseases",
        ),
        (BOXES, lambda p: change(p, lambda t: t.replace("x_max", "x")), "no column x_max"),
        (LABELS, lambda p: p.write_text(""), "no column image_id"),
        (LABELS, lambda p: change(p, lambda t: t.splitlines()[0]), "no rows"),
        ("train", lambda p: p.rename(p.parent / "images"), "no such folder"),
        ("test", lambda p: [image.unlink() for image in p.iterdir()], "no images"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, file: str, spoil, message: str) -> None:
    tree.write_tree(tmp_path, 12, seed=7)
    spoil(tmp_path / file)
    with pytest.raises(UserError, match=message) as caught:
        prepare(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (change_line(1, lambda line: line.replace(",0", ",2", 1)), "must be 0 or 1"),
        (change_line(1, lambda line: line.replace(",0", ",", 1)), "is ''; it must be a number"),
        (change_line(1, lambda line: "," + line.split(",", 1)[1]), "no image_id"),
        (change_line(2, lambda line: line.replace(line.split(",")[1], "")), "no rad_id"),
        (change_line(3, lambda line: line.replace(",R", ",,R")), "more cells"),
        (change_line(3, lambda line: line[:-30] + "\n"), "fewer cells"),
        (change_line(3, lambda line: 2 * line), "has a row for this image already"),
    ],
)
def test_label_rows_that_cannot_be_used(tmp_path: Path, edit, reason: str) -> None:
    """The image is left out: what is left of its readers is not their consensus."""
    truth = tree.write_tree(tmp_path, 12, seed=8)
    change(tmp_path / LABELS, edit)
    prepare(tmp_path, max_rejected=0.5)
    (rejected,) = [row for row in rejections(tmp_path) if reason in row["reason"]]
    assert rejected["row"].startswith("image_labels_train.csv:")
    assert set(studies(tmp_path)) == {study.study_id for study in truth[1:]}


def test_a_table_that_is_cut_short(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 12, seed=8)
    change(tmp_path / LABELS, lambda text: text[:-30])
    prepare(tmp_path, max_rejected=0.5)
    last = truth[9].study_id
    assert last in {row["path"] for row in rejections(tmp_path)}
    assert set(studies(tmp_path)) == {study.study_id for study in truth} - {last}


def box_line(path: Path) -> int:
    """The first line that has a box; 0 is the header."""
    lines = path.read_text().splitlines()
    return next(i for i, line in enumerate(lines) if i and not line.endswith(",,,,"))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda cells: [*cells[:2], "Hernia", *cells[3:]], "unknown class_name 'Hernia'"),
        (lambda cells: [*cells[:3], "", *cells[4:]], "x_min is ''"),
        (lambda cells: [*cells[:3], "nan", *cells[4:]], "x_min is 'nan'"),
        (lambda cells: [*cells[:5], cells[3], cells[6]], "the box is empty"),
        (lambda cells: [*cells[:5], "-7", cells[6]], "the box is empty"),
        (lambda cells: [cells[0], "R99", *cells[2:]], "no row for this image and reader"),
        (lambda cells: ["0" * 32, *cells[1:]], "no row for this image and reader"),
    ],
)
def test_boxes_that_cannot_be_used(tmp_path: Path, edit, reason: str) -> None:
    tree.write_tree(tmp_path, 12, seed=9)
    path = tmp_path / BOXES
    number = box_line(path)
    change(path, change_line(number, lambda line: ",".join(edit(line.strip().split(","))) + "\n"))
    prepare(tmp_path, max_rejected=0.5)
    (rejected,) = rejections(tmp_path)
    assert rejected["row"] == f"annotations_train.csv:{number + 1}"
    assert reason in rejected["reason"]
    assert rejected["path"] not in studies(tmp_path)


def test_a_box_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 30, seed=9)
    path = tmp_path / BOXES
    number = box_line(path)
    change(path, change_line(number, lambda line: 2 * line))
    prepare(tmp_path)
    assert_prepared("vindr_cxr/default", tmp_path / "sets", truth)


def test_boxes_without_the_consensus_are_left_out(tmp_path: Path) -> None:
    """A box that one reader of three drew is there under "any", and not by majority."""
    tree.write_tree(tmp_path, 60, seed=10)
    prepare(tmp_path)
    prepare(tmp_path, "any_reader")
    by_majority, by_any = studies(tmp_path), studies(tmp_path, "any_reader")
    num_boxes = [
        sum(len(study.boxes) for _, study in found.values()) for found in (by_majority, by_any)
    ]
    assert 0 < num_boxes[0] < num_boxes[1]
    for _, study in by_majority.values():
        assert all(study.labels[box.label] == 1 for box in study.boxes)


def test_an_image_with_too_few_readers_is_rejected(tmp_path: Path) -> None:
    """So is the last image of a table that is cut short between two lines."""
    tree.write_tree(tmp_path, 12, seed=8)
    change(tmp_path / LABELS, lambda text: "".join(text.splitlines(keepends=True)[:-1]))
    boxes = tree.read_rows(tmp_path / BOXES)
    labels = tree.read_rows(tmp_path / LABELS)
    known = {(row["image_id"], row["rad_id"]) for row in labels}
    kept = [row for row in boxes if (row["image_id"], row["rad_id"]) in known]
    tree.write_rows(tmp_path / BOXES, kept)
    prepare(tmp_path, max_rejected=0.2)
    (rejected,) = rejections(tmp_path)
    assert rejected["reason"] == "2 readers; a training image has 3"
    assert labels[-1]["image_id"] in rejected["path"]


def test_an_image_in_both_parts_is_an_error(tmp_path: Path) -> None:
    tree.write_tree(tmp_path, 12, seed=8)
    image = tree.read_rows(tmp_path / LABELS)[0]["image_id"]
    for kind in ("image_labels", "annotations"):
        path = tmp_path / "annotations" / f"{kind}_test.csv"
        rows = tree.read_rows(path)
        old = rows[0]["image_id"]
        change(path, lambda text, old=old: text.replace(old, image))
    tree.write_dicom(tmp_path / "test" / f"{image}.dicom", 90)
    with pytest.raises(UserError, match="is in train and test"):
        prepare(tmp_path, max_rejected=0.5)


def test_missing_damaged_strange_and_outer_images(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 36, seed=11)
    images = [study.study_id for study in truth if study.split == "train"]
    missing, damaged, outer = images[:3]
    (tmp_path / "train" / f"{missing}.dicom").unlink()
    path = tmp_path / "train" / f"{damaged}.dicom"
    path.write_bytes(path.read_bytes()[:300])
    for table in (LABELS, BOXES):
        change(tmp_path / table, lambda text: text.replace(outer, "../../etc/hosts"))
    prepare(tmp_path, max_rejected=0.2)
    reasons = {row["path"]: row["reason"] for row in rejections(tmp_path)}
    assert reasons.pop(f"train/{missing}.dicom") == "no such file"
    assert "DICOM" in reasons.pop(f"train/{damaged}.dicom")
    assert reasons.pop("train/../../etc/hosts.dicom") == "the path leaves the image root"
    assert reasons == {f"train/{outer}.dicom": "no row of the tables names this image"}
    assert set(studies(tmp_path)) == {study.study_id for study in truth} - {*images[:3]}


def test_no_header_field_leaves_a_file(tmp_path: Path) -> None:
    tree.write_tree(tmp_path, 12, seed=12)
    prepare(tmp_path)
    for _, study in studies(tmp_path).values():
        assert "Not^ForTheSet" not in repr(study)
