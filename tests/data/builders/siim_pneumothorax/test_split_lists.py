"""Lists of splits as MRM and MaCo, and as BenchX, publish them."""

from pathlib import Path

import pytest

from medclip_jax.data.builders.siim_pneumothorax.split_lists import read_split_lists
from medclip_jax.errors import UserError

MRM = {"train_list.txt": "1.2.30", "val_list.txt": "1.2.31", "test_list.txt": "1.2.32"}


def write(folder: Path, lists: dict[str, str]) -> Path:
    for name, text in lists.items():
        (folder / name).write_text(text)
    return folder


def test_names_of_files(tmp_path: Path) -> None:
    expected = {"1.2.30": "train", "1.2.31": "validation", "1.2.32": "test"}
    found = read_split_lists(write(tmp_path, MRM))
    assert {name: listed.split for name, listed in found.items()} == expected
    assert found["1.2.31"].files == ("val_list.txt",)
    other = tmp_path / "benchx"
    other.mkdir()
    write(other, {name.replace("_list", ""): text for name, text in MRM.items()})
    found = read_split_lists(other)
    assert {name: listed.split for name, listed in found.items()} == expected


@pytest.mark.parametrize(
    "line", ["1.2.641603", "1.2.641603 1", "images/1.2.641603.png 0", "  a/b/1.2.641603.dcm\r"]
)
def test_forms_of_lines(tmp_path: Path, line: str) -> None:
    """The last number of an id is no suffix."""
    write(tmp_path, MRM | {"train_list.txt": f"\ufeff{line}\n\n{line}\n"})
    assert read_split_lists(tmp_path)["1.2.641603"] == ("train", ("train_list.txt",))


def test_images_in_two_lists_are_in_the_later_of_train_validation_and_test(tmp_path: Path) -> None:
    write(tmp_path, {"train.txt": "a\nb\nc", "val.txt": "b\nd\nb", "test.txt": "c\nd"})
    found = read_split_lists(tmp_path)
    assert found["a"] == ("train", ("train.txt",))
    assert found["b"] == ("validation", ("val.txt", "train.txt"))
    assert found["c"] == ("test", ("test.txt", "train.txt"))
    assert found["d"] == ("test", ("test.txt", "val.txt"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_list.txt": " \n"}, "the list is empty"),
        ({"test_list.txt": None}, r"no list of the test images \(test_list\.txt or test\.txt\)"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, changes, message: str) -> None:
    write(tmp_path, {name: text for name, text in (MRM | changes).items() if text is not None})
    with pytest.raises(UserError, match=message):
        read_split_lists(tmp_path)
