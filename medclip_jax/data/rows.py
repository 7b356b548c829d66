"""The rows of training batches: which study each row shows, and which image and text of it.

A row is known by its position in an endless sequence. What it shows follows from (seed, position)
alone, so a batch is the same however many threads, processes or restarts lie behind it.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import grain
import numpy as np
from jaxtyping import Float

from medclip_jax.data import reports
from medclip_jax.data.datasets import StudySplit
from medclip_jax.data.studies import Study
from medclip_jax.data.texts import report_texts

Drawn = TypeVar("Drawn")

MODALITIES = ("both", "image", "text")


class Row(NamedTuple):
    """What one row of a batch shows.

    Attributes:
        image: the encoded image, or None if the study has none.
        text: a sentence or a whole report, or "" if the study has none.
        study_hash: int32, equal for rows of one study.
        text_hash: int32, equal for rows whose texts say the same.
        labels: 1 present, 0 absent, NaN unknown; of all sets' labels, or of those asked for.
    """

    image: bytes | None
    text: str
    study_hash: int
    text_hash: int
    labels: Float[np.ndarray, "num_labels"]


@dataclasses.dataclass(frozen=True)
class MixedSet:
    """A set of a mixture.

    Attributes:
        studies: its studies.
        weight: its share of the rows, relative to the other sets.
        modality: "both", or "image" or "text" to show only these.
    """

    studies: StudySplit
    weight: float = 1.0
    modality: str = "both"

    @property
    def name(self) -> str:
        """The set's name, with the modality if it is not both: each has an order of its own."""
        suffix = "" if self.modality == "both" else f":{self.modality}"
        return self.studies.name + suffix


@dataclasses.dataclass(frozen=True)
class RowOptions:
    """What a row shows of its study.

    Attributes:
        sections: sections of the report to take.
        text: "sentence" or "section" draws one, "report" is the whole text.
        views_per_study: rows in succession that show one study, each another image and text of it
            where there are several (CXR-CLIP, arXiv 2310.13292).
        remove_priors: leaves out what refers to earlier studies.
        labels: names of the labels to show; none named is all that the sets have.
    """

    sections: tuple[str, ...]
    text: str = "sentence"
    views_per_study: int = 1
    remove_priors: bool = False
    labels: tuple[str, ...] = ()


class RowSequence:
    """An endless sequence of rows over one or more sets, mixed by weight.

    Each set is gone through once in a random order, then again in another one. Each row draws one
    image of its study and, unless whole reports are asked for, one sentence (ConVIRT, arXiv
    2010.00747) or section.
    """

    def __init__(self, sets: Sequence[MixedSet], *, seed: int, options: RowOptions) -> None:
        self._sets = sets
        self._seed = seed
        self._options = options
        self._order = _mixed_order(sets, seed)
        names = [name for mixed in sets for name in mixed.studies.label_names]
        chosen = options.labels or tuple(dict.fromkeys(names))
        self._columns = [_columns(mixed.studies, chosen) for mixed in sets]

    def read(self, positions: Sequence[int]) -> list[Row]:
        """The rows at these positions; each set's studies are read at once."""
        views = self._options.views_per_study
        places = [self._order[position // views] for position in positions]
        studies: dict[tuple[int, int], Study] = {}
        for number, mixed in enumerate(self._sets):
            indices = sorted({index for of_set, index in places if of_set == number})
            found = zip(indices, mixed.studies.read(indices), strict=True)
            studies |= {(number, index): study for index, study in found}
        return [
            self._row(position, place[0], studies[place])
            for position, place in zip(positions, places, strict=True)
        ]

    def _row(self, position: int, number: int, study: Study) -> Row:
        # The views of a study begin at one draw and go on from there, so that they differ.
        first, view = divmod(position, self._options.views_per_study)
        random = np.random.default_rng([self._seed, first])
        modality = self._sets[number].modality
        image = _draw(study.images, random, view) if modality != "text" else None
        text = _draw(self._texts(study.report), random, view) if modality != "image" else None
        # A row without text must not be the sibling of another one for that.
        same_text = reports.normalize_sentence(text) if text else f"\0no text in row {position}"
        name = self._sets[number].studies.name
        known = np.append(study.labels, np.float32(np.nan))
        return Row(
            image=image,
            text=text or "",
            study_hash=_hash("\0".join((name, study.patient_id, study.study_id))),
            text_hash=_hash(same_text),
            labels=known[self._columns[number]],
        )

    def _texts(self, report: str) -> Sequence[str]:
        options = self._options
        return report_texts(report, options.sections, options.text, options.remove_priors)


def _draw(items: Sequence[Drawn], random: np.random.Generator, view: int) -> Drawn | None:
    return items[(int(random.integers(len(items))) + view) % len(items)] if items else None


def _columns(studies: StudySplit, names: Sequence[str]) -> list[int]:
    """For each name its column in the set's labels, or the one after the last."""
    own = list(studies.label_names)
    return [own.index(name) if name in own else len(own) for name in names]


def _mixed_order(sets: Sequence[MixedSet], seed: int) -> grain.MapDataset[tuple[int, int]]:
    """Position to (number of the set, index in the set)."""
    orders = []
    for number, mixed in enumerate(sets):
        # Sets of equal length must not be shuffled alike.
        own_seed = zlib.crc32(f"{seed}/{mixed.name}".encode())
        order = grain.MapDataset.range(len(mixed.studies)).shuffle(seed=own_seed).repeat()
        orders.append(order.map(_Numbered(number)))
    return grain.MapDataset.mix(orders, [mixed.weight for mixed in sets])


class _Numbered(NamedTuple):
    number: int

    def __call__(self, index: int) -> tuple[int, int]:
        return self.number, index


def _hash(text: str) -> int:
    """A signed 32-bit hash that is the same in every process."""
    return zlib.crc32(text.encode()) - 2**31
