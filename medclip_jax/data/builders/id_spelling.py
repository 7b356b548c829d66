"""Ids that differ only in how they are written: a patient may be in two splits unnoticed."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from medclip_jax.data.builders.rows import Row, split_order

_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
_ZERO_DECIMALS = re.compile(r"(\d+)\.0+")
_SEPARATORS = re.compile(r"[\s_\u2010-\u2015\u2212-]+")
_BETWEEN_LETTER_AND_DIGIT = re.compile(r"(?<=[^\W\d])-(?=\d)|(?<=\d)-(?=[^\W\d])")


class _Use(NamedTuple):
    id: str
    split: str


def spelling_warnings(rows: Sequence[Row]) -> list[str]:
    """A line if patients of two splits differ only in spelling, and one if studies do.

    Study ids that several patients share ("study1") count within a patient and are not compared.
    """
    lines = [_warning("patient", ((row.patient_id, row.split) for row in rows))]
    patients: dict[str, str] = {}
    if all(patients.setdefault(row.study_id, row.patient_id) == row.patient_id for row in rows):
        own = (row for row in rows if row.study_id != row.patient_id)
        lines.append(_warning("study", ((row.study_id, row.split) for row in own)))
    return [line for line in lines if line]


def canonical_id(text: str) -> str:
    """What ids have in common that differ only in spelling: 007 and 7.0, P-00A and p0a.

    Left out are case, width, accents' encoding, invisible characters, zeros before a number, and
    what separates letters from digits.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    visible = "".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Cc") or c == "\t")
    joined = _SEPARATORS.sub("-", visible.strip()).strip("-")
    plain = _ZEROS.sub("", _BETWEEN_LETTER_AND_DIGIT.sub("", joined))
    number = _ZERO_DECIMALS.fullmatch(plain)
    return number[1] if number else plain


def _warning(kind: str, ids: Iterable[tuple[str, str]]) -> str:
    """The line for ids with their splits, or ""."""
    uses: dict[str, list[_Use]] = {}
    for use in dict.fromkeys(_Use(*pair) for pair in ids):
        uses.setdefault(canonical_id(use.id) or use.id, []).append(use)
    pairs = [
        (same[0], other)
        for same in uses.values()
        if (other := next((use for use in same if use.split != same[0].split), None))
    ]
    if not pairs:
        return ""
    first, second = sorted(pairs[0], key=lambda use: split_order(use.split))
    others = f"; {len(pairs) - 1} more such pairs" if pairs[1:] else ""
    return (
        f"warning: {kind} {first.id!r} is in {first.split}, {kind} {second.id!r} in "
        f"{second.split}: they differ only in spelling; write the id in one way if they are the "
        f"same{others}"
    )
