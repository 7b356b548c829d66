"""The pictures of the page: what queries found, and where a classifier was right and wrong.

The images are read again from the prepared set that the evaluation names in its protocol.
"""

import base64
import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from medclip_jax.data.datasets import StudySplit, open_split
from medclip_jax.data.images import decode_gray, encode_jpeg, fit_square
from medclip_jax.data.reports import select_sections
from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError
from medclip_jax.report.run_files import Evaluation

THUMBNAIL_SIZE = 176
_JPEG_QUALITY = 80
_MAX_TEXT = 280
_TEXT_QUERIES, _IMAGE_QUERIES = 6, 4
_EXAMPLES = 3  # of each kind of hit and miss


@dataclasses.dataclass(frozen=True)
class Picture:
    """A thumbnail: `data:` URI, alternative text, the line below it, whether it is right."""

    uri: str
    alt: str
    caption: str
    correct: bool


@dataclasses.dataclass(frozen=True)
class FoundText:
    """A text that an image query found."""

    text: str
    similarity: float
    correct: bool


@dataclasses.dataclass(frozen=True)
class TextQuery:
    """A text, the rank of its first correct image, and its best matches."""

    text: str
    rank: int
    matches: list[Picture]


@dataclasses.dataclass(frozen=True)
class ImageQuery:
    """An image, its own text, the rank of that, and its best matches."""

    picture: Picture
    text: str
    rank: int
    matches: list[FoundText]


@dataclasses.dataclass(frozen=True)
class HitsAndMisses:
    """Of one label: findings that were found, findings that were missed, and false alarms."""

    label: str
    groups: dict[str, list[Picture]]


class StudyPictures:
    """Reads the studies that an evaluation was made of, by their number in its arrays."""

    def __init__(self, evaluation: Evaluation):
        """Opens the split.

        Raises:
            UserError: the set is gone, or is not the one that was evaluated.
        """
        self._rows = evaluation.arrays["rows"]
        self._study_ids = evaluation.arrays["study_ids"]
        self._split: StudySplit = open_split(
            evaluation.dataset, evaluation.split, evaluation.protocol.get("data_dir")
        )
        self._studies: dict[int, Study] = {}
        if int(self._rows.max()) >= len(self._split):
            raise UserError(f"{evaluation.dataset} has changed since it was evaluated")
        self.study(0)

    def study(self, number: int) -> Study:
        """The study, checked to be the one that was evaluated."""
        if number not in self._studies:
            study = self._split[int(self._rows[number])]
            if study.study_id != self._study_ids[number]:
                raise UserError(f"{self._split.name} has changed since it was evaluated")
            self._studies[number] = study
        return self._studies[number]

    def text(self, number: int) -> str:
        """The findings and impression, shortened for the page."""
        text = " ".join(select_sections(self.study(number).report).split())
        return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT].rsplit(" ", 1)[0] + " …"

    def picture(self, number: int, image: int, caption: str, correct: bool, what: str) -> Picture:
        """The thumbnail of an image of a study; `what` begins its alternative text."""
        study = self.study(number)
        pixels = fit_square(decode_gray(study.images[image]), THUMBNAIL_SIZE)
        alt = f"{what}: chest X-ray of study {study.study_id}, {caption}"
        return Picture(data_uri(encode_jpeg(pixels, _JPEG_QUALITY), "jpeg"), alt, caption, correct)


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Up to `wanted` different numbers below `count`, evenly spaced: examples nobody picked."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(wanted, count)).round()})


def text_queries(evaluation: Evaluation, pictures: StudyPictures) -> list[TextQuery]:
    """Evenly spaced text queries with their five best-matching images."""
    arrays = evaluation.arrays
    image_study = arrays["image_study"]
    queries = []
    for number in evenly_spaced(len(arrays["first_study_of_text"]), _TEXT_QUERIES):
        matches = []
        for place, image in enumerate(arrays["text_to_image_neighbors"][number].tolist()):
            correct = bool(arrays["text_of_study"][image_study[image]] == number)
            similarity = arrays["text_to_image_similarities"][number, place]
            matches.append(_found_image(arrays, pictures, image, float(similarity), correct))
        text = pictures.text(int(arrays["first_study_of_text"][number]))
        queries.append(TextQuery(text, int(arrays["text_to_image_ranks"][number]), matches))
    return queries


def _found_image(
    arrays: Mapping[str, np.ndarray],
    pictures: StudyPictures,
    image: int,
    similarity: float,
    correct: bool,
) -> Picture:
    study, place = int(arrays["image_study"][image]), int(arrays["image_number"][image])
    what = "Correct match" if correct else "Wrong match"
    return pictures.picture(study, place, f"similarity {similarity:.2f}", correct, what)


def image_queries(evaluation: Evaluation, pictures: StudyPictures) -> list[ImageQuery]:
    """Evenly spaced image queries with their five best-matching texts."""
    arrays = evaluation.arrays
    queries = []
    for image in evenly_spaced(len(arrays["image_study"]), _IMAGE_QUERIES):
        study, place = int(arrays["image_study"][image]), int(arrays["image_number"][image])
        own = int(arrays["text_of_study"][study])
        found = zip(
            arrays["image_to_text_neighbors"][image].tolist(),
            arrays["image_to_text_similarities"][image].tolist(),
            strict=True,
        )
        matches = [
            FoundText(
                pictures.text(int(arrays["first_study_of_text"][text])), similarity, text == own
            )
            for text, similarity in found
        ]
        rank = int(arrays["image_to_text_ranks"][image])
        picture = pictures.picture(study, place, f"own report at rank {rank}", True, "Image query")
        queries.append(ImageQuery(picture, pictures.text(study), rank, matches))
    return queries


def hits_and_misses(evaluation: Evaluation, pictures: StudyPictures) -> list[HitsAndMisses]:
    """Of every label the surest hits, the worst misses and the worst false alarms."""
    arrays = evaluation.arrays
    shown = []
    for column, label in enumerate(arrays["label_names"].tolist()):
        scores, labels = arrays["scores"][:, column], arrays["labels"][:, column]
        kinds = {
            "Hits: present, highest scores": (_best(scores, labels == 1), True),
            "Misses: present, lowest scores": (_best(-scores, labels == 1), False),
            "False alarms: absent, highest scores": (_best(scores, labels == 0), False),
        }
        groups = {
            kind: [
                pictures.picture(
                    study, 0, f"score {scores[study]:.2f}", correct, f"{label}, {kind}"
                )
                for study in chosen.tolist()
            ]
            for kind, (chosen, correct) in kinds.items()
            if chosen.size
        }
        shown.append(HitsAndMisses(label, groups))
    return shown


def _best(
    scores: Float[np.ndarray, "studies"], among: Bool[np.ndarray, "studies"]
) -> Int[np.ndarray, "chosen"]:
    candidates = np.flatnonzero(among)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:_EXAMPLES]


def data_uri(encoded: bytes, kind: str) -> str:
    """An encoded image as the address of itself, so that the page needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
