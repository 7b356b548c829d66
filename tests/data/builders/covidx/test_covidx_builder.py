"""The `covidx` builder, on made-up trees in the layout of COVID-Net's lists."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support import covidx_tree
from support.builder_case import BuilderCase
from support.source_tree import assert_prepared, read_back, read_rejected, write_image

from medclip_jax.data import build, datasets
from medclip_jax.data.builders.covidx import covidx_dataset_builder
from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError

TRAIN = ("1 a.png normal cohen", "2 b.png pneumonia cohen", "4 d.png COVID-19 sirm")
TEST = ("x c.png COVID-19 ricord",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the images a.png, … of TRAIN and TEST, and their lists."""
    for name in ("train/a.png", "train/b.png", "train/d.png", "test/c.png"):
        write_image(tmp_path / name, 100, 24, 32)
    write_lists(tmp_path, TRAIN, TEST)
    return tmp_path


def write_lists(folder: Path, train: Sequence[str], test: Sequence[str]) -> None:
    for name, lines in zip(covidx_tree.LISTS["v9a"], (train, test), strict=True):
        (folder / name).write_text("\n".join(lines))


def build_set(folder: Path, name: str = "v9a") -> str:
    return build.build(
        f"covidx/{name}", manual_dir=folder, data_dir=folder / "sets", max_rejected=0.7
    )


def studies(folder: Path, name: str = "v9a") -> dict[str, Study]:
    return {study.study_id: study for _, study in read_back(f"covidx/{name}", folder / "sets")}


def rejections(folder: Path) -> list[dict[str, str]]:
    return read_rejected("covidx/v9a", folder / "sets")


def test_a_tree_of_500_studies(tmp_path: Path) -> None:
    truth = covidx_tree.write_tree(tmp_path, 500, seed=0)
    build.build("covidx", manual_dir=tmp_path, data_dir=tmp_path / "sets", max_rejected=0)
    assert_prepared("covidx/v9a", tmp_path / "sets", truth)


@pytest.mark.parametrize("lists", ["v9b", "v4", "cxr3a", "cxr3b"])
def test_the_other_versions(tmp_path: Path, lists: str) -> None:
    truth = covidx_tree.write_tree(tmp_path, 60, seed=1, lists=lists)
    data = tmp_path / "sets"
    build.build(f"covidx/{lists}", manual_dir=tmp_path, data_dir=data, max_rejected=0)
    assert_prepared(f"covidx/{lists}", data, truth)
    binary = lists.endswith("b")
    names = ["COVID-19"] if binary else ["normal", "pneumonia", "COVID-19"]
    assert datasets.open_split(f"covidx/{lists}", "test", data).label_names == tuple(names)


def test_a_version_with_other_options(tmp_path: Path) -> None:
    truth = covidx_tree.write_tree(tmp_path, 60, seed=2, lists="v9b")
    options = {"lists": "v9b", "image_size": 20}
    data = tmp_path / "sets"
    build.build("covidx/small", manual_dir=tmp_path, data_dir=data, options=options)
    assert_prepared("covidx/small", data, truth)


class TestCovidx(BuilderCase):
    __test__ = True
    DATASET_CLASS = covidx_dataset_builder.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["v9a"]
    SPLITS = {"train": 7, "validation": 3, "test": 2}

    @classmethod
    def write_source(cls, folder: Path) -> None:
        covidx_tree.write_tree(folder, 12, seed=0)


def test_a_patient_has_images_of_two_classes(folder: Path) -> None:
    write_lists(folder, ("1 a.png normal cohen", "1 b.png COVID-19 cohen", TRAIN[2]), TEST)
    build_set(folder)
    found = studies(folder)
    assert found["a.png"].labels.tolist() == [1, 0, 0]
    assert found["b.png"].labels.tolist() == [0, 0, 1]
    assert found["a.png"].patient_id == found["b.png"].patient_id == "cohen/1"


def test_equal_ids_of_two_sources_are_two_patients(folder: Path) -> None:
    write_lists(folder, ("1 a.png normal cohen", "1 b.png normal fig1"), ("1 c.png normal sirm",))
    build_set(folder)
    assert {study.patient_id for study in studies(folder).values()} == {
        "cohen/1",
        "fig1/1",
        "sirm/1",
    }
    assert not rejections(folder)


@pytest.mark.parametrize(
    "train",
    ["x a.png normal rsna", "x a.png normal rnsa", "x a.png normal"],
)
@pytest.mark.parametrize("test", ["x c.png normal rsna", "x c.png normal"])
def test_a_torn_patient_is_left_out_of_the_training_split(
    folder: Path, train: str, test: str
) -> None:
    write_lists(folder, (train, *TRAIN[1:]), (test,))
    build_set(folder)
    assert set(studies(folder)) == {"b.png", "c.png", "d.png"}
    (rejection,) = rejections(folder)
    assert rejection["row"] == "train_COVIDx9A.txt line 1"
    assert rejection["path"] == "train/a.png"
    assert rejection["reason"] == "its patient is in the test list too, with c.png"


def test_an_image_that_is_listed_for_two_patients_counts_once(folder: Path) -> None:
    write_lists(folder, (*TRAIN, "287 a.png pneumonia cohen"), TEST)
    build_set(folder)
    assert studies(folder)["a.png"].patient_id == "cohen/1"
    (rejection,) = rejections(folder)
    assert rejection["reason"] == "the image is listed already, in row train_COVIDx9A.txt line 1"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("9 a.png", "the class is '9'"),
        ("9 a.png COVID-1", "the class is 'a.png'"),  # cut short
        ("9 a.png covid-19 cohen", "the class is 'covid-19'; it must be one of normal, pneu"),
        ("a.png normal cohen", "needs a patient, a file, a class"),
        ("9 ../test/c.png normal cohen", "has a folder in it"),
        ("9 /etc/hostname normal cohen", "has a folder in it"),
        ("9 .. normal cohen", "no such file"),
        ("9 missing.png normal cohen", "no such file"),
        ("9 with a blank.png normal cohen", "no such file"),
        ("1 damaged.png normal cohen", "not a readable image"),
    ],
)
def test_bad_lines(folder: Path, line: str, reason: str) -> None:
    (folder / "train" / "damaged.png").write_bytes(b"no image")
    write_lists(folder, (*TRAIN, line), TEST)
    build_set(folder)
    assert set(studies(folder)) == {"a.png", "b.png", "c.png", "d.png"}
    (rejection,) = rejections(folder)
    assert reason in rejection["reason"]


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace(" ", "\t").encode(),
        lambda text: f"\n{text}\n\n".encode(),
    ],
    ids=["bom", "crlf", "tabs", "blank lines"],
)
def test_other_spellings_of_the_same_list(folder: Path, encode: Callable[[str], bytes]) -> None:
    list_ = folder / "train_COVIDx9A.txt"
    list_.write_bytes(encode(list_.read_text()))
    build_set(folder)
    assert set(studies(folder)) == {"a.png", "b.png", "c.png", "d.png"}
    assert not rejections(folder)


def remove_list(folder: Path) -> None:
    (folder / "test_COVIDx9A.txt").unlink()


def empty_list(folder: Path) -> None:
    (folder / "train_COVIDx9A.txt").write_text("\n")


def list_of_other_classes(folder: Path) -> None:
    (folder / "train_COVIDx9A.txt").write_text("1 a.png negative cohen\n")


def list_of_bytes(folder: Path) -> None:
    (folder / "train_COVIDx9A.txt").write_bytes(b"\x00\x01")


def remove_images(folder: Path) -> None:
    (folder / "train").rename(folder / "training")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_list, "no test_COVIDx9A.txt; get it from https://github.com/lindawangg"),
        (empty_list, "train_COVIDx9A.txt: the list is empty"),
        (list_of_other_classes, "no line can be used; the class is 'negative'"),
        (list_of_bytes, "not UTF-8 or Latin-1"),
        (remove_images, "train: no such folder; it has the images of train_COVIDx9A.txt"),
    ],
)
def test_files_that_cannot_work(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        build_set(folder)
    assert "\n" not in str(error.value)


def test_the_published_totals_are_compared(folder: Path) -> None:
    message = build_set(folder)
    assert "images: 4 found, 30,526 fewer than the 30,530 published" in message
    assert "COVID-19: 2 found, 16,688 fewer than the 16,690 published" in message


def test_an_unknown_version(folder: Path) -> None:
    options = {"lists": "v5"}
    with pytest.raises(UserError, match="lists is 'v5'; there are: v9a, v9b, v4"):
        build.build("covidx/mine", manual_dir=folder, data_dir=folder / "sets", options=options)
