"""What is counted in a set's studies because training would suffer from it unnoticed."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from medclip_jax.data import reports
from medclip_jax.data.studies import Study


class _Place(NamedTuple):
    split: str
    patient_id: str
    study_id: str

    def __str__(self) -> str:
        return f"{self.split} study {self.study_id} of patient {self.patient_id}"


class StudyChecks:
    """Counts reports that give no text, and images that are in two splits.

    Two images are the same if they are stored as the same bytes, which equal files are, and files
    with equal pixels too.
    """

    def __init__(self) -> None:
        self._num_studies = 0
        self._num_reports = 0
        self._num_silent = 0
        self._first_silent: _Place | None = None
        self._images: dict[bytes, _Place] = {}
        self._num_equal = 0
        self._first_equal: tuple[_Place, _Place] | None = None

    def add(self, split: str, study: Study) -> None:
        """Counts a study of this split."""
        place = _Place(split, study.patient_id, study.study_id)
        self._num_studies += 1
        self._num_reports += bool(study.report)
        if study.report and not reports.report_sentences(study.report):
            self._num_silent += 1
            self._first_silent = self._first_silent or place
        for image in study.images:
            digest = hashlib.blake2b(image, digest_size=16).digest()
            first = self._images.setdefault(digest, place)
            if first.split != split:
                self._num_equal += 1
                self._first_equal = self._first_equal or (first, place)

    def watch(self, split: str, studies: Iterable[Study]) -> Iterator[Study]:
        """The same studies, each counted as it goes by."""
        for study in studies:
            self.add(split, study)
            yield study

    def lines(self) -> list[str]:
        """What there is to say, a line each."""
        lines = []
        if 0 < self._num_reports < self._num_studies:
            missing = self._num_studies - self._num_reports
            lines.append(f"{missing:,} of {self._num_studies:,} studies have no report")
        if self._num_silent:
            lines.append(
                f"warning: {self._num_silent:,} of {self._num_reports:,} reports give no text: no "
                f"findings and no impression were found in them (the first: {self._first_silent})"
            )
        if self._first_equal:
            first, second = self._first_equal
            lines.append(
                f"warning: images that are the same as one of another split: {self._num_equal:,} "
                f"(the first: {second}, as {first})"
            )
        return lines
