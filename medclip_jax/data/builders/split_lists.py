"""Text files that name the images of each split, one a line, as the field's protocols ship them."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from medclip_jax.data.table import read_lines
from medclip_jax.errors import UserError

# How MRM and MaCo (… _list.txt) and BenchX call the lists; others write "valid".
_FILES = {
    "train": ("train_list.txt", "train.txt"),
    "validation": ("val_list.txt", "val.txt", "valid_list.txt", "valid.txt"),
    "test": ("test_list.txt", "test.txt"),
}


class ListedImage(NamedTuple):
    """A line of a list: `IMAGE LABEL LABEL …`, or only the image.

    Attributes:
        where: the list and the line, "val_list.txt:3"; empty lines are not counted.
        name: the image as the list names it, with or without folder and suffix.
        labels: what else is on the line.
    """

    where: str
    split: str
    name: str
    labels: tuple[str, ...]


def given_path(manual_dir: Path, name: str) -> Path:
    """A file or folder that an option names: in the manual folder, or anywhere.

    Raises:
        UserError: it is in neither place.
    """
    for path in (manual_dir / name, Path(name).expanduser()):
        if path.exists():
            return path
    raise UserError(f"{name}: no such file or folder, neither here nor in {manual_dir}")


def find_split_lists(folder: Path) -> dict[str, Path]:
    """The lists of the three splits in a folder, by split.

    Raises:
        UserError: one is missing.
    """
    lists = {}
    for split, names in _FILES.items():
        found = [folder / name for name in names if (folder / name).is_file()]
        if not found:
            raise UserError(
                f"{folder}: no {split} list; one of these is needed: {', '.join(names)}"
            )
        lists[split] = found[0]
    return lists


def read_split_lists(lists: Mapping[str, Path]) -> list[ListedImage]:
    """The lines of these lists, by split.

    Raises:
        UserError: a list is missing, empty, or no text.
    """
    listed = []
    for split, path in lists.items():
        lines = read_lines(path)
        if not lines:
            raise UserError(f"{path}: the list is empty")
        for number, line in enumerate(lines, start=1):
            name, *labels = line.split()
            listed.append(ListedImage(f"{path.name}:{number}", split, name, tuple(labels)))
    return listed
