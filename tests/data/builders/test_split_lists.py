"""Lists of splits as MRM and MaCo, and as BenchX, publish them."""

from pathlib import Path

import pytest

from medclip_jax.data.builders.split_lists import find_split_lists, given_path, read_split_lists
from medclip_jax.errors import UserError

MRM = {"train_list.txt": "a/1.png 0 1", "val_list.txt": "2.png\n\n3.png 1", "test_list.txt": "4"}


def write(folder: Path, lists: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in lists.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("suffix", ["_list.txt", ".txt"])
def test_lines_with_their_split_and_place(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, {name.replace("_list.txt", suffix): text for name, text in MRM.items()})
    assert read_split_lists(find_split_lists(tmp_path)) == [
        (f"train{suffix}:1", "train", "a/1.png", ("0", "1")),
        (f"val{suffix}:1", "validation", "2.png", ()),
        (f"val{suffix}:2", "validation", "3.png", ("1",)),
        (f"test{suffix}:1", "test", "4", ()),
    ]


def test_a_missing_and_an_empty_list(tmp_path: Path) -> None:
    write(tmp_path, MRM | {"test_list.txt": " \n"})
    with pytest.raises(UserError, match="test_list.txt: the list is empty"):
        read_split_lists(find_split_lists(tmp_path))
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(UserError, match=r"no test list; one of these is needed: test_list.txt, t"):
        find_split_lists(tmp_path)


def test_paths_are_in_the_manual_folder_or_anywhere(tmp_path: Path) -> None:
    inside, outside = write(tmp_path / "manual", {"a": ""}), write(tmp_path / "b", {})
    assert given_path(inside, "a") == inside / "a"
    assert given_path(inside, str(outside)) == outside
    with pytest.raises(UserError, match="c: no such file or folder, neither here nor in"):
        given_path(inside, "c")
