"""The `mura` builder, on made-up trees in the layout of MURA v1.1."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support import mura_tree
from support.builder_case import BuilderCase
from support.source_tree import assert_prepared, read_back, read_rejected, write_image

from medclip_jax.data import build
from medclip_jax.data.builders.mura import mura_dataset_builder
from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError

TRAIN = "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive"
VALID = "MURA-v1.1/valid/XR_HAND/patient00004/study1_negative"
TABLES = {
    "train_labeled_studies.csv": (f"{TRAIN}/,1",),
    "train_image_paths.csv": (f"{TRAIN}/image1.png", f"{TRAIN}/image2.png"),
    "valid_labeled_studies.csv": (f"{VALID}/,0",),
    "valid_image_paths.csv": (f"{VALID}/image1.png",),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """MURA-v1.1 with a study of two images in train and one of one image in valid."""
    for path in (f"{TRAIN}/image1.png", f"{TRAIN}/image2.png", f"{VALID}/image1.png"):
        write_image(tmp_path / path, 100, 24, 32)
    for name in TABLES:
        add_lines(tmp_path, name)
    return tmp_path


def add_lines(folder: Path, name: str, *lines: str) -> None:
    (folder / "MURA-v1.1" / name).write_text("\n".join([*TABLES[name], *lines]))


def build_set(folder: Path, name: str = "mura", **options: object) -> str:
    return build.build(
        name, manual_dir=folder, data_dir=folder / "sets", max_rejected=0.7, options=options
    )


def studies(folder: Path, name: str = "mura/default") -> dict[str, Study]:
    return {
        f"{split} {study.patient_id} {study.study_id}": study
        for split, study in read_back(name, folder / "sets")
    }


def rejections(folder: Path) -> list[dict[str, str]]:
    return read_rejected("mura/default", folder / "sets")


def test_a_tree_of_500_studies(tmp_path: Path) -> None:
    truth = mura_tree.write_tree(tmp_path, 500, seed=0)
    build.build("mura", manual_dir=tmp_path, data_dir=tmp_path / "sets", max_rejected=0)
    assert_prepared("mura/default", tmp_path / "sets", truth)


@pytest.mark.parametrize("part", [part.lower() for part in mura_tree.PARTS])
def test_one_part_of_the_body(tmp_path: Path, part: str) -> None:
    truth = mura_tree.write_tree(tmp_path, 80, seed=1)
    data = tmp_path / "sets"
    build.build(f"mura/{part}", manual_dir=tmp_path, data_dir=data, max_rejected=0)
    assert_prepared(f"mura/{part}", data, [s for s in truth if s.attributes["part"] == part])


def test_a_part_with_other_options(tmp_path: Path) -> None:
    truth = mura_tree.write_tree(tmp_path, 60, seed=2)
    options = {"part": "hand", "image_size": 20}
    data = tmp_path / "sets"
    build.build("mura/small", manual_dir=tmp_path, data_dir=data, options=options)
    assert_prepared("mura/small", data, [s for s in truth if s.attributes["part"] == "hand"])


class TestMura(BuilderCase):
    __test__ = True
    DATASET_CLASS = mura_dataset_builder.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["default"]
    SPLITS = {"train": 6, "validation": 2, "test": 4}

    @classmethod
    def write_source(cls, folder: Path) -> None:
        mura_tree.write_tree(folder, 12, seed=0)


def test_the_folder_itself_and_the_archive(tmp_path: Path) -> None:
    truth = mura_tree.write_tree(tmp_path, 40, seed=3)
    data = tmp_path / "sets"
    build.build("mura", manual_dir=tmp_path / "MURA-v1.1", data_dir=data)
    assert_prepared("mura/default", data, truth)

    (tmp_path / "archive").mkdir()
    shutil.make_archive(str(tmp_path / "archive" / "MURA-v1.1"), "zip", tmp_path, "MURA-v1.1")
    data = tmp_path / "others"
    build.build("mura", manual_dir=tmp_path / "archive", data_dir=data)
    assert_prepared("mura/default", data, truth)


def test_a_patient_with_studies_of_two_parts(folder: Path) -> None:
    other = TRAIN.replace("WRIST", "FOREARM").replace("positive", "negative")
    write_image(folder / other / "image1.png", 100, 24, 32)
    add_lines(folder, "train_labeled_studies.csv", f"{other}/,0")
    add_lines(folder, "train_image_paths.csv", f"{other}/image1.png")
    build_set(folder)
    split = mura_tree.true_split("patient00001")
    found = studies(folder)
    wrist = found[f"{split} patient00001 wrist/study1"]
    forearm = found[f"{split} patient00001 forearm/study1"]
    assert (len(wrist.images), wrist.labels.tolist()) == (2, [1])
    assert (len(forearm.images), forearm.labels.tolist()) == (1, [0])


def test_a_patient_in_both_lists_fails(folder: Path) -> None:
    other = VALID.replace("patient00004", "patient00001")
    write_image(folder / other / "image1.png", 100, 24, 32)
    add_lines(folder, "valid_labeled_studies.csv", f"{other}/,0")
    add_lines(folder, "valid_image_paths.csv", f"{other}/image1.png")
    with pytest.raises(UserError, match="patient 'patient00001' is in .* and test"):
        build_set(folder)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"{TRAIN}/image1.png", "the image is listed already, in row train_image_paths.csv line 1"),
        (f"{TRAIN}/image3.png", "no such file"),
        (f"{TRAIN}/damaged.png", "not a readable image"),
        (f"{TRAIN.replace('study1', 'study2')}/image1.png", "no usable label in train_labeled"),
        (f"{TRAIN}/../../../../../x.png", "no path like"),
        ("/etc/hostname", "no path like"),
        (f"{TRAIN}/im", "no such file"),  # cut short
        ("MURA-v1.1/train/XR_WRI", "no path like"),
        (f"{TRAIN.replace('WRIST', 'SKULL')}/image1.png", "no path like"),
        (f"{VALID}/image1.png", "the path is of valid, in a table of train"),
    ],
)
def test_bad_lines_of_images(folder: Path, line: str, reason: str) -> None:
    (folder / TRAIN / "damaged.png").write_bytes(b"no image")
    add_lines(folder, "train_image_paths.csv", line)
    build_set(folder)
    (rejection,) = rejections(folder)
    assert rejection["row"] == "train_image_paths.csv line 3"
    assert reason in rejection["reason"]
    assert [len(study.images) for study in studies(folder).values()] == [2, 1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"{TRAIN}/,1", "the study is listed already"),
        (f"{TRAIN.replace('study1', 'study2')}/,1", "no image in train_image_paths.csv"),
        (f"{TRAIN.replace('study1', 'study2')}/,2", "the label is '2'; it must be 1 or 0"),
        (f"{TRAIN.replace('study1', 'study2')}/,", "the label is ''"),
        (f"{TRAIN.replace('study1', 'study2')}/,0", "the label is 0, but the path says positive"),
        (f"{VALID}/,0", "the path is of valid"),
        ("MURA-v1.1/train/XR_WR", "no path like"),  # cut short
        ("Img_Path,Label", "no path like"),  # a header that some copies have
    ],
)
def test_bad_lines_of_labels(folder: Path, line: str, reason: str) -> None:
    add_lines(folder, "train_labeled_studies.csv", line)
    build_set(folder)
    (rejection,) = rejections(folder)
    assert rejection["row"] == "train_labeled_studies.csv line 2"
    assert reason in rejection["reason"]
    assert [study.labels.tolist() for study in studies(folder).values()] == [[1], [0]]


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("/,", ",").encode(),
        lambda text: text.replace(",", " , ").encode(),
        lambda text: f"\n{text}\n\n".encode(),
    ],
    ids=["bom", "crlf", "no slash", "blanks", "blank lines"],
)
def test_other_spellings_of_the_same_tables(folder: Path, encode: Callable[[str], bytes]) -> None:
    for name in TABLES:
        table = folder / "MURA-v1.1" / name
        table.write_bytes(encode(table.read_text()))
    build_set(folder)
    assert [len(study.images) for study in studies(folder).values()] == [2, 1]
    assert not rejections(folder)


def remove_folder(folder: Path) -> None:
    (folder / "MURA-v1.1").rename(folder / "MURA")


def remove_table(folder: Path) -> None:
    (folder / "MURA-v1.1" / "valid_image_paths.csv").unlink()


def empty_table(folder: Path) -> None:
    (folder / "MURA-v1.1" / "train_labeled_studies.csv").write_text("\n")


def damaged_archive(folder: Path) -> None:
    archive = folder / "MURA-v1.1.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("MURA-v1.1/train_image_paths.csv", TRAIN)
    archive.write_bytes(archive.read_bytes().replace(b"WRIST", b"WRONG", 1))
    (folder / "MURA-v1.1").rename(folder / "MURA")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_folder, "no images and tables of MURA; one of these is needed: MURA-v1.1, "),
        (remove_table, "MURA-v1.1: no valid_image_paths.csv; it is in MURA-v1.1.zip"),
        (empty_table, "train_labeled_studies.csv: the file is empty"),
        (damaged_archive, "damaged or cut short; download it again"),
    ],
)
def test_files_that_cannot_work(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        build_set(folder)
    assert "\n" not in str(error.value)


def test_an_unknown_part(folder: Path) -> None:
    with pytest.raises(UserError, match="part is 'skull'; there are: all, elbow"):
        build_set(folder, "mura/mine", part="skull")


def test_the_published_totals_are_compared(folder: Path) -> None:
    message = build_set(folder)
    assert "studies: 2 found, 14,654 fewer than the 14,656 published" in message
    assert "test images: 1 found, 3,196 fewer than the 3,197 published" in message
    assert "than the" not in build_set(folder, "mura/hand")
