"""The lists of images that COVID-Net publishes: a line for each image, cells parted by blanks.

A line is "patient file class source"; older lists leave the source out, from some lines or all.
"""

from collections.abc import Callable, Collection, Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

# The lists of version 9 name the RSNA challenge in two ways.
_SAME_SOURCE = {"rnsa": "rsna"}


class ListedImage(NamedTuple):
    """A line of a list.

    Attributes:
        patient: the patient's id, which counts within its source.
        file: the image's file name.
        label: its class, as the list spells it.
        source: the collection that it is from, or "".
    """

    patient: str
    file: str
    label: str
    source: str

    @property
    def patient_id(self) -> str:
        """The id with its source, since sources count their patients each for itself."""
        return f"{self.source}/{self.patient}" if self.source else self.patient


def parse_line(
    line: str, classes: Collection[str], exists: Callable[[str], bool]
) -> ListedImage | str:
    """The image of a line, or why the line cannot be used.

    Args:
        line: the line.
        classes: the classes of the list.
        exists: whether there is an image of this file name; asked only where blanks in a name
            leave it open where the patient's id ends.
    """
    cells = line.split()
    source = "" if not cells or cells[-1] in classes else cells.pop()
    label = cells.pop() if cells else ""
    if label not in classes:
        return f"the class is {label!r}; it must be one of {', '.join(classes)}"
    if len(cells) < 2:
        return "the line needs a patient, a file, a class and, in most lists, a source"
    splits = [(" ".join(cells[:i]), " ".join(cells[i:])) for i in range(1, len(cells))]
    patient, file = splits[0]
    if len(splits) > 1:
        patient, file = next((split for split in splits if exists(split[1])), splits[0])
    if PurePosixPath(file).name != file:
        return "the file's name has a folder in it"
    return ListedImage(patient, file, label, _SAME_SOURCE.get(source, source))


def torn_patients(
    train: Iterable[ListedImage], test: Iterable[ListedImage]
) -> dict[ListedImage, ListedImage]:
    """The training images whose patient is in the test list too, each with an image from there.

    Where one of two lines names no source, equal ids are taken for the same patient.
    """
    tested: dict[str, list[ListedImage]] = {}
    for image in test:
        tested.setdefault(image.patient, []).append(image)
    torn = {}
    for image in train:
        for other in tested.get(image.patient, ()):
            if not image.source or not other.source or image.source == other.source:
                torn[image] = other
    return torn
