"""The TFDS builder `covidx`: COVID-Net's lists of chest radiographs of many collections."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from medclip_jax.data.builders.covidx.lists import ListedImage, parse_line, torn_patients
from medclip_jax.data.builders.row_builder import RowBuilder, RowConfig, option
from medclip_jax.data.builders.rows import Rejection, Row, Source, hash_split
from medclip_jax.data.table import read_lines
from medclip_jax.errors import UserError

_LISTS_URL = "https://github.com/lindawangg/COVID-Net/tree/master/labels"
_THREE = ("normal", "pneumonia", "COVID-19")
_TWO = ("negative", "positive")


class _Lists(NamedTuple):
    """A pair of lists: their file names, the classes in them and what their authors count."""

    train: str
    test: str
    classes: tuple[str, ...]
    published: Mapping[str, int]

    @property
    def label_names(self) -> tuple[str, ...]:
        """Each class a label; two classes are one label, which "positive" has."""
        return self.classes if self.classes == _THREE else ("COVID-19",)

    def labels(self, label: str) -> tuple[float, ...]:
        """The labels of an image of the class `label`."""
        if self.classes == _TWO:
            return (float(label == "positive"),)
        return tuple(float(name == label) for name in self.classes)


# Counted in the lists for v4 and v9; docs/COVIDx.md of COVID-Net for CXR-3.
_VERSIONS = {
    "v9a": _Lists(
        "train_COVIDx9A.txt",
        "test_COVIDx9A.txt",
        _THREE,
        {
            "images": 30_530,
            "test images": 400,
            "normal": 8_185,
            "pneumonia": 5_655,
            "COVID-19": 16_690,
        },
    ),
    "v9b": _Lists(
        "train_COVIDx9B.txt",
        "test_COVIDx9B.txt",
        _TWO,
        {"images": 30_882, "test images": 400, "COVID-19": 16_690},
    ),
    "v4": _Lists(
        "train_COVIDx4.txt",
        "test_COVIDx4.txt",
        _THREE,
        {
            "images": 14_198,
            "test images": 300,
            "normal": 8_066,
            "pneumonia": 5_559,
            "COVID-19": 573,
        },
    ),
    "cxr3a": _Lists(
        "train_COVIDx_CXR-3A.txt",
        "test_COVIDx_CXR-3A.txt",
        _THREE,
        {
            "patients": 16_802,
            "images": 30_034,
            "test images": 400,
            "normal": 8_185,
            "pneumonia": 5_655,
            "COVID-19": 16_194,
        },
    ),
    "cxr3b": _Lists(
        "train_COVIDx_CXR-3B.txt",
        "test_COVIDx_CXR-3B.txt",
        _TWO,
        {"patients": 17_026, "images": 30_386, "test images": 400, "COVID-19": 16_194},
    ),
}


@dataclasses.dataclass(eq=False, kw_only=True)
class CovidxConfig(RowConfig):
    """The options of `covidx`."""

    lists: str = dataclasses.field(
        default="v9a",
        metadata=option(
            "the version of the lists; A and v4: three classes, B: two", list(_VERSIONS)
        ),
    )


def _config(lists: str, description: str) -> CovidxConfig:
    return CovidxConfig(name=lists, lists=lists, description=description)


class Builder(RowBuilder):
    """An image is a study: a patient's images are of several days, and at times of two classes."""

    DESCRIPTION = """
    Chest radiographs that COVID-Net gathered from public collections, each with one class: normal,
    pneumonia or COVID-19, or else negative or positive for COVID-19. An image is a study. The
    test split is the official one; training images of patients who are in it too are left out;
    10 % of the other training patients, by a hash of the patient, are the validation split. The
    class goes with the collection (attribute "source": normal images are RSNA's, as is most other
    pneumonia, and no COVID-19 image is), so that a model can tell classes by the collection:
    report results by source too. The lists of version 9 hold some abdominal images (stonybrook's,
    as COVID-19).
    """
    LICENCE = (
        "Each collection has its own, among them RICORD (CC BY-NC 4.0) and RSNA (research and "
        "education only)"
    )
    HOMEPAGE = "https://github.com/lindawangg/COVID-Net/blob/master/docs/COVIDx.md"
    CITATION = (
        "Wang et al., COVID-Net, Scientific Reports 2020, "
        "https://doi.org/10.1038/s41598-020-76550-z; Pavlova et al., COVIDx CXR-3, arXiv 2206.03671"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    Put into it the folders train and test with the images (from
    https://www.kaggle.com/datasets/andyczhao/covidx-cxr2, or as COVID-Net's scripts make them) and
    the two lists of the version from {_LISTS_URL}, such as
    train_COVIDx9A.txt and test_COVIDx9A.txt. Kaggle's train.txt and test.txt do not say which
    version they are; rename them so if you know it.
    """
    # First what public code for images and reports reads (MGCA and those after it); v4 is
    # ConVIRT's.
    BUILDER_CONFIGS = [
        _config("v9a", "Lists 9A: normal, pneumonia, COVID-19."),
        _config("v9b", "Lists 9B: negative or positive for COVID-19."),
        _config("v4", "Lists 4 (June 2020), as ConVIRT uses them: three classes."),
        _config("cxr3a", "Lists CXR-3 A: 9A without images that are no typical radiographs."),
        _config("cxr3b", "Lists CXR-3 B: 9B without images that are no typical radiographs."),
    ]
    builder_config: CovidxConfig

    @property
    def label_names(self) -> tuple[str, ...]:
        """The three classes, or "COVID-19" alone."""
        return self._lists.label_names

    @property
    def published(self) -> Mapping[str, int]:
        """What the lists of the version count."""
        return self._lists.published

    @property
    def _lists(self) -> _Lists:
        return _VERSIONS[self.builder_config.lists]

    def read_source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """The images of both lists, each a study of its own."""
        root, lists = Path(dl_manager.manual_dir), self._lists
        train = _read_list(root, "train", lists.train, lists.classes)
        test = _read_list(root, "test", lists.test, lists.classes)
        return self.checked(root, _rows(train, test, lists))


class _List(NamedTuple):
    """The images of a list by their place in it, and the lines that cannot be used."""

    images: dict[str, ListedImage]
    rejected: list[Rejection]


def _read_list(root: Path, part: str, name: str, classes: tuple[str, ...]) -> _List:
    folder = root / part
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it has the images of {name}")
    if not (root / name).is_file():
        raise UserError(f"{root}: no {name}; get it from {_LISTS_URL}")
    lines = read_lines(root / name)
    if not lines:
        raise UserError(f"{root / name}: the list is empty; download it again")
    images, rejected = {}, []
    for number, line in enumerate(lines, start=1):
        place = f"{name} line {number}"
        image = parse_line(line, classes, lambda file: (folder / file).is_file())
        if isinstance(image, str):
            rejected.append(Rejection(place, line, image))
        else:
            images[place] = image
    if not images:
        raise UserError(f"{root / name}: no line can be used; {rejected[0].reason}")
    return _List(images, rejected)


def _rows(train: _List, test: _List, lists: _Lists) -> Iterator[Row | Rejection]:
    yield from train.rejected
    yield from test.rejected
    torn = torn_patients(train.images.values(), test.images.values())
    for place, image in train.images.items():
        if image in torn:
            reason = f"its patient is in the test list too, with {torn[image].file}"
            yield Rejection(place, f"train/{image.file}", reason)
        else:
            # The source is no part of the key, so that lines with and without a source agree.
            split = hash_split(image.patient, validation=0.1)
            yield _row(place, "train", split, image, lists)
    for place, image in test.images.items():
        yield _row(place, "test", "test", image, lists)


def _row(place: str, part: str, split: str, image: ListedImage, lists: _Lists) -> Row:
    return Row(
        number=place,
        split=split,
        patient_id=image.patient_id,
        study_id=image.file,
        image_path=f"{part}/{image.file}",
        labels=lists.labels(image.label),
        attributes={"source": image.source},
    )
