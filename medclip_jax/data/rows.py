"""The rows of training batches: which study each row shows, and which image and text of it.

A row is known by its position in an endless sequence. What it shows follows from (seed, position)
alone, so a batch is the same however many threads, processes or restarts lie behind it.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import grain
import numpy as np

from medclip_jax.data import reports
from medclip_jax.data.datasets import StudySplit
from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError

Drawn = TypeVar("Drawn")


class Row(NamedTuple):
    """What one row of a batch shows.

    Attributes:
        image: the encoded image, or None if the study has none.
        text: a sentence or a whole report, or "" if the study has none.
        study_hash: int32, equal for rows of one study.
        text_hash: int32, equal for rows whose texts say the same.
    """

    image: bytes | None
    text: str
    study_hash: int
    text_hash: int


class RowSequence:
    """An endless sequence of rows over one or more sets, mixed by weight.

    Each set is gone through once in a random order, then again in another one. Each row draws one
    image of its study and, unless whole reports are asked for, one sentence (ConVIRT, arXiv
    2010.00747).
    """

    def __init__(
        self,
        sets: Sequence[StudySplit],
        weights: Sequence[float],
        *,
        seed: int,
        sections: Sequence[str],
        whole_reports: bool,
    ) -> None:
        self._sets = sets
        self._seed = seed
        self._sections = tuple(sections)
        self._whole_reports = whole_reports
        self._order = _mixed_order([(s.name, len(s)) for s in sets], weights, seed)

    def read(self, positions: Sequence[int]) -> list[Row]:
        """The rows at these positions; each set's studies are read at once."""
        places = [self._order[position] for position in positions]
        studies: dict[tuple[int, int], Study] = {}
        for number, split in enumerate(self._sets):
            indices = sorted({index for of_set, index in places if of_set == number})
            found = zip(indices, split.read(indices), strict=True)
            studies |= {(number, index): study for index, study in found}
        return [
            self._row(position, self._sets[place[0]].name, studies[place])
            for position, place in zip(positions, places, strict=True)
        ]

    def _row(self, position: int, set_name: str, study: Study) -> Row:
        random = np.random.default_rng([self._seed, position])
        image = _draw(study.images, random) if study.images else None
        text = self._text(study.report, random)
        # A row without text must not be the sibling of another one for that.
        same_text = reports.normalize_sentence(text) if text else f"\0no text in row {position}"
        return Row(
            image=image,
            text=text,
            study_hash=_hash("\0".join((set_name, study.patient_id, study.study_id))),
            text_hash=_hash(same_text),
        )

    def _text(self, report: str, random: np.random.Generator) -> str:
        if self._whole_reports:
            return " ".join(reports.select_sections(report, self._sections).split())
        sentences = reports.report_sentences(report, self._sections)
        return _draw(sentences, random) if sentences else ""


def _draw(items: Sequence[Drawn], random: np.random.Generator) -> Drawn:
    return items[int(random.integers(len(items)))]


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises `UserError` unless every set has a weight above 0."""
    for name, weight in weights.items():
        if not weight > 0:
            raise UserError(f"config.data.mixture: the weight of {name} must be above 0: {weight}")


def _mixed_order(
    lengths: Sequence[tuple[str, int]], weights: Sequence[float], seed: int
) -> grain.MapDataset[tuple[int, int]]:
    """Position to (number of the set, index in the set), for sets given by name and length."""
    orders = []
    for number, (name, length) in enumerate(lengths):
        # Sets of equal length must not be shuffled alike.
        own_seed = zlib.crc32(f"{seed}/{name}".encode())
        order = grain.MapDataset.range(length).shuffle(seed=own_seed).repeat()
        orders.append(order.map(_Numbered(number)))
    return grain.MapDataset.mix(orders, weights)


class _Numbered(NamedTuple):
    number: int

    def __call__(self, index: int) -> tuple[int, int]:
        return self.number, index


def _hash(text: str) -> int:
    """A signed 32-bit hash that is the same in every process."""
    return zlib.crc32(text.encode()) - 2**31
