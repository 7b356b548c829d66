"""The `siim_pneumothorax` builder on made-up trees, whole and spoilt."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from support import siim_pneumothorax_tree as tree
from support.builder_case import BuilderCase
from support.source_tree import TrueStudy, assert_prepared, read_back, read_rejected, write_image

from medclip_jax.data import images
from medclip_jax.data.build import build
from medclip_jax.data.builders.siim_pneumothorax import siim_pneumothorax_dataset_builder
from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError

NAME = "siim_pneumothorax/default"
TABLE = "train-rle.csv"
# One image of each split by the hash of its name, with rectangles of pneumothorax.
IMAGES = [
    tree.DrawnImage("1.2.0", 60, []),
    tree.DrawnImage("1.2.1", 90, [(64, 512, 320, 960)]),
    tree.DrawnImage("1.2.2", 120, [(0, 0, 512, 128), (512, 256, 1024, 320)]),
    tree.DrawnImage("1.2.3", 150, []),
]


class TestSiim(BuilderCase):
    __test__ = True
    DATASET_CLASS = siim_pneumothorax_dataset_builder.Builder
    SPLITS = {"train": 7, "validation": 3, "test": 2}

    @classmethod
    def write_source(cls, folder: Path) -> None:
        tree.write_tree(folder, 12, seed=0)


def write_images(folder: Path, drawn: Sequence[tree.DrawnImage] = IMAGES) -> None:
    for image in drawn:
        write_image(tree.dicom_path(folder, image.image_id), image.level, 64, 64)
    tree.write_runs(folder / TABLE, drawn)


def truths(drawn: Sequence[tree.DrawnImage] = IMAGES) -> list[TrueStudy]:
    return [image.truth(tree.split_of(image.image_id)) for image in drawn]


def prepare(source: Path, name: str = "siim_pneumothorax", **options) -> str:
    return build(name, manual_dir=source, data_dir=source / "sets", **options)


def assert_built(source: Path, truth: Sequence[TrueStudy], name: str = NAME) -> None:
    assert_prepared(name, source / "sets", truth)


def studies(source: Path, name: str = NAME) -> dict[str, Study]:
    return {study.study_id: study for _, study in read_back(name, source / "sets")}


def rejections(source: Path, name: str = NAME) -> list[tuple[str, str, str]]:
    return [tuple(row.values()) for row in read_rejected(name, source / "sets")]


def change(path: Path, function: Callable[[str], str]) -> None:
    path.write_text(function(path.read_text()))


def test_a_whole_tree(tmp_path: Path) -> None:
    truth = tree.write_tree(tmp_path, 500, seed=1)
    prepare(tmp_path)
    assert_built(tmp_path, truth)
    assert rejections(tmp_path) == []
    assert 0.1 < np.mean([study.labels[0] for study in truth]) < 0.6
    assert {study.split for study in truth} == {"train", "validation", "test"}


def test_counts_are_compared(tmp_path: Path) -> None:
    write_images(tmp_path)
    message = prepare(tmp_path)
    assert "warning: images: 4 found, 12,043 fewer than the 12,047 published" in message
    assert "warning: Pneumothorax: 2 found, 2,667 fewer than the 2,669 published" in message


@pytest.mark.parametrize("side", [tree.SIDE, 300])
def test_masks_lie_where_they_were_drawn(tmp_path: Path, side: int) -> None:
    """All parts of an image are one mask, counted down the columns."""
    drawn = IMAGES[1:3]
    for image in drawn:
        write_image(tree.dicom_path(tmp_path, image.image_id), image.level, side, side)
    tree.write_runs(tmp_path / TABLE, drawn)
    prepare(tmp_path)
    for image in drawn:
        expected = np.zeros((tree.SIDE, tree.SIDE), bool)
        for top, left, bottom, right in image.parts:
            expected[top:bottom, left:right] = True
        (mask,) = studies(tmp_path)[image.image_id].masks
        found = images.decode_gray(mask.png) > 127
        assert found.shape == (256, 256)
        assert np.mean(found != expected[2::4, 2::4]) < 0.004


@pytest.mark.parametrize("value", [" -1", "-1", " -1 "])
@pytest.mark.parametrize("header", ["ImageId, EncodedPixels", "ImageId,EncodedPixels"])
def test_minus_one_is_no_pneumothorax(tmp_path: Path, value: str, header: str) -> None:
    write_images(tmp_path)
    text = (tmp_path / TABLE).read_text()
    changed = text.replace(", -1", f",{value}").replace("ImageId, EncodedPixels", header)
    (tmp_path / TABLE).write_text(changed)
    prepare(tmp_path)
    assert_built(tmp_path, truths())


def test_stage_2_comes_first(tmp_path: Path) -> None:
    """Its table names the images of stage 1's test too."""
    write_images(tmp_path)
    tree.write_runs(tmp_path / TABLE, IMAGES[:2])
    late = tree.DrawnImage("1.2.9", 180, [(0, 0, 256, 256)])
    test = tmp_path / "dicom-images-test" / "1" / "2"
    write_image(test / f"{late.image_id}.dcm", late.level, 64, 64)
    tree.write_runs(tmp_path / "stage_2_train.csv", [*IMAGES, late])
    prepare(tmp_path)
    assert_built(tmp_path, truths([*IMAGES, late]))


@pytest.mark.parametrize("folder", ["train_images", "train", "png_images"])
@pytest.mark.parametrize("side", [256, 100])
def test_png_files(tmp_path: Path, folder: str, side: int) -> None:
    for image in IMAGES:
        write_image(tmp_path / folder / f"{image.image_id}.png", image.level, side, side)
        write_image(tmp_path / "masks" / f"{image.image_id}.png", 255, side, side)
    tree.write_runs(tmp_path / TABLE, IMAGES)
    prepare(tmp_path)
    assert_built(tmp_path, truths())


def test_dicom_comes_before_png(tmp_path: Path) -> None:
    write_images(tmp_path)
    for image in IMAGES:
        write_image(tmp_path / "png_images" / f"{image.image_id}.png", 250, 64, 64)
    prepare(tmp_path)
    assert_built(tmp_path, truths())


def test_a_png_that_is_no_square(tmp_path: Path) -> None:
    """Without a mask its shape does not matter."""
    for image in IMAGES:
        path = tmp_path / "train_images" / f"{image.image_id}.png"
        write_image(path, image.level, 64, 80 if image is not IMAGES[2] else 64)
    tree.write_runs(tmp_path / TABLE, IMAGES)
    prepare(tmp_path, max_rejected=0.3)
    reason = "80 x 64 pixels, but the mask is for 1024 x 1024"
    assert rejections(tmp_path) == [("3", "train_images/1.2.1.png", reason)]
    assert_built(tmp_path, truths([image for image in IMAGES if image is not IMAGES[1]]))


def write_renamed(folder: Path) -> dict[str, str]:
    """PNG files with new names, and the tables that tell them; the new name of each image."""
    new_names = {}
    for number, image in enumerate(IMAGES):
        stage = "test" if number == 3 else "train"
        name = f"{number}_{stage}_{int(bool(image.parts))}_"
        new_names[image.image_id] = name
        write_image(folder / "png_images" / f"{name}.png", image.level, 64, 64)
        table = folder / f"stage_1_{stage}_images.csv"
        if not table.exists():
            table.write_text("new_filename,ImageId,has_pneumo\n")
        row = f"{name}.png,{image.image_id},{name[-2]}\n"
        change(table, lambda text, row=row: text + row)
    tree.write_runs(folder / TABLE, IMAGES)
    return new_names


def test_files_that_are_named_anew(tmp_path: Path) -> None:
    write_renamed(tmp_path)
    prepare(tmp_path)
    assert_built(tmp_path, truths())


def test_new_names_that_cannot_be_used(tmp_path: Path) -> None:
    write_renamed(tmp_path)
    table = tmp_path / "stage_1_train_images.csv"
    change(table, lambda text: text + ",1.2.7,0\n" + "x.png,1.2.8,0,0\n")
    prepare(tmp_path, max_rejected=0.5)
    assert [row[0] for row in rejections(tmp_path)] == [f"{table.name}:5", f"{table.name}:6"]
    assert_built(tmp_path, truths())


def write_lists(folder: Path, names: dict[str, list[str]]) -> str:
    folder.mkdir()
    for name, lines in names.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder)


def listed(image: tree.DrawnImage, split: str, *files: str) -> TrueStudy:
    return dataclasses.replace(image.truth(split), attributes={"lists": "|".join(files)})


def test_lists_by_image_id(tmp_path: Path) -> None:
    """Images in no list are left out."""
    write_images(tmp_path)
    names = {"train_list.txt": ["1.2.3"], "val_list.txt": ["1.2.1"], "test_list.txt": ["1.2.0"]}
    lists = write_lists(tmp_path / "lists", names)
    prepare(tmp_path, "siim_pneumothorax/maco", options={"lists": lists})
    expected = [
        listed(IMAGES[0], "test", "test_list.txt"),
        listed(IMAGES[1], "validation", "val_list.txt"),
        listed(IMAGES[3], "train", "train_list.txt"),
    ]
    assert_built(tmp_path, expected, "siim_pneumothorax/maco")
    assert rejections(tmp_path, "siim_pneumothorax/maco") == []


def test_images_in_two_lists_are_not_trained_on(tmp_path: Path) -> None:
    """Nor is a tested image validated on."""
    write_images(tmp_path)
    names = {
        "train_list.txt": ["1.2.0", "1.2.1", "1.2.2", "1.2.0"],
        "val_list.txt": ["1.2.1", "1.2.3"],
        "test_list.txt": ["1.2.2", "1.2.3", "1.2.3"],
    }
    lists = write_lists(tmp_path / "lists", names)
    prepare(tmp_path, "siim_pneumothorax/maco", options={"lists": lists})
    expected = [
        listed(IMAGES[0], "train", "train_list.txt"),
        listed(IMAGES[1], "validation", "val_list.txt", "train_list.txt"),
        listed(IMAGES[2], "test", "test_list.txt", "train_list.txt"),
        listed(IMAGES[3], "test", "test_list.txt", "val_list.txt"),
    ]
    assert_built(tmp_path, expected, "siim_pneumothorax/maco")
    assert rejections(tmp_path, "siim_pneumothorax/maco") == []


def test_lists_by_new_name(tmp_path: Path) -> None:
    new = write_renamed(tmp_path)
    names = {
        "train.txt": [new["1.2.0"], new["1.2.2"]],
        "val.txt": [new["1.2.1"]],
        "test.txt": [new["1.2.3"]],
    }
    lists = write_lists(tmp_path / "lists", names)
    prepare(tmp_path, "siim_pneumothorax/benchx", options={"lists": lists})
    expected = [
        listed(IMAGES[0], "train", "train.txt"),
        listed(IMAGES[1], "validation", "val.txt"),
        listed(IMAGES[2], "train", "train.txt"),
        listed(IMAGES[3], "test", "test.txt"),
    ]
    assert_built(tmp_path, expected, "siim_pneumothorax/benchx")


def test_listed_images_without_a_row(tmp_path: Path) -> None:
    write_images(tmp_path)
    names = {
        "train_list.txt": ["1.2.3", "1.2.77"],
        "val_list.txt": ["1.2.1"],
        "test_list.txt": ["1.2.0"],
    }
    lists = write_lists(tmp_path / "lists", names)
    prepare(tmp_path, "siim_pneumothorax/l", options={"lists": lists}, max_rejected=0.5)
    (rejected,) = rejections(tmp_path, "siim_pneumothorax/l")
    assert rejected[:2] == ("train_list.txt", "1.2.77")


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: raw.replace(b"\n", b"\r\n"),
        lambda raw: raw.rstrip(b"\n"),
        lambda raw: b"\n".join(b", ".join(line.split(b",")[::-1]) for line in raw.splitlines()),
        lambda raw: b"\n".join(b"x," + line + b",y" for line in raw.splitlines()),
    ],
    ids=["byte order mark", "CRLF", "no last line end", "reordered", "extra columns"],
)
def test_forms_of_the_table(tmp_path: Path, rewrite) -> None:
    write_images(tmp_path)
    path = tmp_path / TABLE
    raw = rewrite(path.read_bytes())
    path.write_bytes(raw.replace(b"x,ImageId", b"a,ImageId").replace(b"Pixels,y", b"Pixels,b"))
    prepare(tmp_path)
    assert_built(tmp_path, truths())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / TABLE).unlink(), "stage_2_train.csv or train-rle.csv is needed"),
        (lambda f: change(f / TABLE, lambda t: t.replace("Pixels", "")), "no column EncodedPixels"),
        (lambda f: change(f / TABLE, lambda t: t.replace("ImageId", "Id")), "no column ImageId"),
        (lambda f: (f / TABLE).write_text("ImageId, EncodedPixels\n"), "no rows"),
        (lambda f: (f / "dicom-images-train").rename(f / "other"), "no images"),
        (
            lambda f: (f / "stage_1_train_images.csv").write_text("new_filename\na.png\n"),
            "stage_1_train_images.csv: no column ImageId",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, spoil, message: str) -> None:
    write_images(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        prepare(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_of_lists(tmp_path: Path) -> None:
    write_images(tmp_path)
    with pytest.raises(UserError, match="none: no such file or folder, neither here nor in"):
        prepare(tmp_path, "siim_pneumothorax/x", options={"lists": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1.2.1,", "no EncodedPixels"),
        ("1.2.1", "fewer cells than the header"),
        ("1.2.1, -1", "-1 and a mask for the same image"),
        ("1.2.1, 5 7, 3", "more cells than the header"),
        ("1.2.1, yes", "pairs of whole numbers"),
        ("1.2.1, 5 7 3", "pairs of whole numbers"),
        ("1.2.1, 1048570 7", "leave the image"),
    ],
)
def test_an_image_with_a_row_that_cannot_be_used_is_left_out(tmp_path, row, reason) -> None:
    """Neither is it without pneumothorax nor is what is left of its mask its mask."""
    write_images(tmp_path)
    change(tmp_path / TABLE, lambda text: text + row + "\n")
    prepare(tmp_path, max_rejected=0.5)
    (rejected,) = rejections(tmp_path)
    assert reason in rejected[2]
    assert_built(tmp_path, truths([image for image in IMAGES if image is not IMAGES[1]]))


def test_a_mask_after_minus_one(tmp_path: Path) -> None:
    write_images(tmp_path)
    change(tmp_path / TABLE, lambda text: text + "1.2.0, 5 7\n")
    prepare(tmp_path, max_rejected=0.5)
    assert rejections(tmp_path) == [("7", "1.2.0", "-1 and a mask for the same image")]
    assert_built(tmp_path, truths(IMAGES[1:]))


def test_a_row_without_an_image(tmp_path: Path) -> None:
    write_images(tmp_path)
    change(tmp_path / TABLE, lambda text: text + ", -1\n")
    prepare(tmp_path, max_rejected=0.5)
    assert rejections(tmp_path) == [("7", "", "no ImageId")]
    assert_built(tmp_path, truths())


def test_repeated_rows(tmp_path: Path) -> None:
    write_images(tmp_path)
    change(tmp_path / TABLE, lambda text: text + "".join(text.splitlines(keepends=True)[1:4]))
    prepare(tmp_path, max_rejected=0.5)
    assert [row[0] for row in rejections(tmp_path)] == ["7", "8", "9"]
    assert {row[2] for row in rejections(tmp_path)} == {"the same as an earlier row"}
    assert_built(tmp_path, truths())


def test_missing_damaged_unnamed_and_outer_images(tmp_path: Path) -> None:
    drawn = [*IMAGES, tree.DrawnImage("1.2.4", 100, [(0, 0, 99, 99)])]
    write_images(tmp_path, drawn)
    tree.dicom_path(tmp_path, "1.2.0").unlink()
    tree.dicom_path(tmp_path, "1.2.4").unlink()
    damaged = tree.dicom_path(tmp_path, "1.2.1")
    damaged.write_bytes(damaged.read_bytes()[:200])
    write_image(tree.dicom_path(tmp_path, "1.2.5"), 100, 64, 64)
    change(tmp_path / TABLE, lambda text: text + "../outer, -1\n../outer2, 5 7\n")
    prepare(tmp_path, max_rejected=0.9)
    reasons = {row[1]: row[2] for row in rejections(tmp_path)}
    assert reasons.pop("1.2.0.dcm") == reasons.pop("1.2.4.dcm") == "no such file"
    assert "DICOM file" in reasons.pop(str(damaged.relative_to(tmp_path)))
    unnamed = str(tree.dicom_path(Path(), "1.2.5"))
    assert reasons.pop(unnamed) == "no row of train-rle.csv names this image"
    leaves = "the path leaves the image root"
    assert reasons == {"../outer.dcm": leaves, "../outer2.dcm": leaves}
    assert_built(tmp_path, truths(IMAGES[2:]))


def test_no_header_field_leaves_a_file(tmp_path: Path) -> None:
    write_images(tmp_path)
    prepare(tmp_path)
    assert all("Not^ForTheSet" not in repr(study) for study in studies(tmp_path).values())
