"""Ids that differ only in spelling, over splits."""

import pytest

from medclip_jax.data.builders.id_spelling import canonical_id, spelling_warnings
from medclip_jax.data.builders.rows import Row


def row(patient: str, study: str, split: str) -> Row:
    return Row(number=1, split=split, patient_id=patient, study_id=study)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("007", "7"),
        ("7.0", "7"),
        ("P00A", "p00a"),
        ("P007", "P7"),
        ("P 7", "P7"),
        ("P-07", "p_7"),
        ("patient  1", "patient 1"),
        ("7\u200b", "7"),
        ("\ufeff7", "7"),
        ("P\u20117", "P-7"),
        ("\uff10\uff17", "7"),  # full width
        ("Jos\u00e9", "Jose\u0301"),
        ("STRASSE", "straße"),
    ],
)
def test_the_same_id_in_two_spellings(one: str, other: str) -> None:
    assert canonical_id(one) == canonical_id(other)
    (line,) = spelling_warnings([row(one, "a", "test"), row(other, "b", "train")])
    assert line.startswith(f"warning: patient {other!r} is in train, patient {one!r} in test: ")


@pytest.mark.parametrize(
    ("one", "other"),
    [("7", "70"), ("P1", "P11"), ("1-23", "12-3"), ("7.5", "75"), ("1.2.3", "1.23"), ("0", "00A")],
)
def test_ids_that_differ(one: str, other: str) -> None:
    assert spelling_warnings([row(one, "a", "test"), row(other, "b", "train")]) == []


def test_in_one_split_nothing_leaks() -> None:
    assert spelling_warnings([row("007", "a", "train"), row("7", "b", "train")]) == []


def test_further_pairs_are_counted() -> None:
    rows = [row(f"{'0' * (s == 'test')}{n}", f"{n}{s}", s) for n in range(5) for s in ("test", "x")]
    (line,) = spelling_warnings(rows)
    assert line.endswith("; 4 more such pairs")


def test_studies_whose_ids_are_of_their_own() -> None:
    (line,) = spelling_warnings([row("A", "S01", "train"), row("B", "s1", "validation")])
    assert line.startswith("warning: study 'S01' is in train, study 's1' in validation")


def test_studies_that_count_within_their_patient() -> None:
    rows = [row("A", "study1", "train"), row("B", "study1", "test"), row("B", "study01", "test")]
    assert spelling_warnings(rows) == []
