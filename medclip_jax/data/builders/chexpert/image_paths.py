"""CheXpert's paths, which name patient, study and view.

Such as CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg.
"""

import re
from typing import NamedTuple

# The top folder differs between the small set and the full one; CheXpert Plus has none.
_STUDY = r"(?:[^/]+/)?(?P<folder>train|valid|test)/(?P<patient>patient\d+)/(?P<study>study\d+)"
_STUDY_PATH = re.compile(_STUDY, re.ASCII)
_IMAGE_PATH = re.compile(
    rf"{_STUDY}/(?P<view>view\d+_(?:frontal|lateral))(?P<suffix>\.(?:jpg|png))", re.ASCII
)


class StudyPath(NamedTuple):
    """A study's folder without the top folder: "train", "patient00001", "study1"."""

    folder: str
    patient: str
    study: str

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def key(self) -> tuple[str, str]:
        """Patient and study, which are the same in every edition of the set."""
        return self.patient, self.study


class ImagePath(NamedTuple):
    """An image's path without the top folder: `view` is "view1_frontal", `suffix` is ".jpg"."""

    study: StudyPath
    view: str
    suffix: str

    def __str__(self) -> str:
        return f"{self.study}/{self.view}{self.suffix}"

    @property
    def projection(self) -> str:
        """FRONTAL or LATERAL, which is all that the name tells."""
        return self.view.partition("_")[2].upper()


def parse_study_path(path: str) -> StudyPath | None:
    """The parts of a study's path, or None if it is none."""
    match = _STUDY_PATH.fullmatch(path)
    return StudyPath(match["folder"], match["patient"], match["study"]) if match else None


def parse_image_path(path: str) -> ImagePath | None:
    """The parts of an image's path, or None if it is none."""
    match = _IMAGE_PATH.fullmatch(path)
    if match is None:
        return None
    study = StudyPath(match["folder"], match["patient"], match["study"])
    return ImagePath(study, match["view"], match["suffix"])
