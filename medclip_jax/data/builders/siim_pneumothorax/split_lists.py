"""The lists of images that published comparisons train, validate and test on."""

from pathlib import Path
from typing import NamedTuple

from medclip_jax.data.table import read_lines
from medclip_jax.errors import UserError

# The first of each as MRM and MaCo name their lists, the second as BenchX does. In the order in
# which they count: the images that others report on stay, and are not trained on.
_FILES = {
    "test": ("test_list.txt", "test.txt"),
    "validation": ("val_list.txt", "val.txt"),
    "train": ("train_list.txt", "train.txt"),
}


class Listed(NamedTuple):
    """An image's split, and all lists that name the image, the one that counts first."""

    split: str
    files: tuple[str, ...]


def read_split_lists(folder: Path) -> dict[str, Listed]:
    """The images that the lists in a folder name.

    A line is the image's name, with or without a path, a suffix, or more words behind it. The lists
    of MRM and MaCo name some images in two lists, as if the rows of SIIM-ACR's table had been
    divided and not its images. Such an image is in the test split if that list has it, else in the
    validation split.

    Raises:
        UserError: a list is missing or empty.
    """
    images: dict[str, Listed] = {}
    for split, names in _FILES.items():
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise UserError(f"{folder}: no list of the {split} images ({' or '.join(names)})")
        lines = read_lines(path)
        if not lines:
            raise UserError(f"{path}: the list is empty")
        for name in dict.fromkeys(map(_image_name, lines)):
            earlier = images.get(name, Listed(split, ()))
            images[name] = earlier._replace(files=(*earlier.files, path.name))
    return images


def _image_name(line: str) -> str:
    # Names are full of dots, so only what is known to be a suffix may be cut off.
    name = line.split()[0].rpartition("/")[2]
    return name.removesuffix(".png").removesuffix(".dcm")
