"""Cells of a manifest: nothing in many spellings, labels, lists of labels."""

import math

import numpy as np
import pytest

from medclip_jax.data.builders.manifest.cells import parse_label, split_labels, without_nothing

# What pandas takes for missing (`na_values` of `read_csv`), and how it writes what is missing.
PANDAS = (
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan"
    "|null|NaT"
)


@pytest.mark.parametrize("cell", PANDAS.split("|"))
def test_what_pandas_takes_for_nothing_is_nothing(cell: str) -> None:
    assert without_nothing(cell) == ""


@pytest.mark.parametrize("text", ["None.", "No", "NAD", "nan seen", "0", "Nancy", "-"])
def test_texts_that_say_something(text: str) -> None:
    assert without_nothing(text) == text


@pytest.mark.parametrize(
    ("cell", "value"),
    [("1", 1), ("1.0", 1), ("1,0", 1), ("0", 0), ("0,00", 0), ("", math.nan), ("-1", math.nan)]
    + [(cell, math.nan) for cell in ("NA", "nan", "None", "<NA>", "#N/A", "-1,0")],
)
def test_values_of_labels(cell: str, value: float) -> None:
    assert str(float(parse_label(cell))) == str(float(value))


@pytest.mark.parametrize("cell", ["2", "0,5", "yes", "1,0,0", "inf"])
def test_what_is_no_label(cell: str) -> None:
    assert parse_label(cell) is None


@pytest.mark.parametrize(
    "cell",
    [
        "effusion|pleural mass",
        " effusion | pleural mass | ",
        str(["effusion", "pleural mass"]),
        str(("effusion", "pleural mass")),
        "{'effusion', 'pleural mass'}",
        str(np.array(["effusion", "pleural mass"])),
        '["effusion", "pleural mass", null]',
        '[["effusion"], ["pleural mass"]]',
        "[effusion, pleural mass]",
        "[effusion; pleural mass]",
    ],
)
def test_lists_of_labels(cell: str) -> None:
    assert sorted(split_labels(cell)) == ["effusion", "pleural mass"]


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("", []),
        ("[]", []),
        ("['nan']", []),
        ("['Alzheimer\\'s', \"x's\"]", ["Alzheimer's", "x's"]),
        ('["\\u00c9panchement"]', ["Épanchement"]),
        ("mass (suspected)", ["mass (suspected)"]),
        ("(suspected)", ["(suspected)"]),
        ("a, b", ["a, b"]),
        ("[1, 2]", ["1", "2"]),
        ("(4,5)", ["4", "5"]),
        ("(4, 5, )", ["4", "5"]),
        ("mass (left", ["mass (left"]),
        ("[mass]|effusion", ["[mass]", "effusion"]),
        ("[" * 100_000 + "a" + "]" * 100_000, ["[" * 99_999 + "a" + "]" * 99_999]),
    ],
)
def test_what_else_is_in_such_a_column(cell: str, labels: list[str]) -> None:
    assert split_labels(cell) == labels


UNREADABLE = ['{"effusion": 1, "mass": 0}', "{'effusion': 0}", "['a', 'b]", "{[1]: 2}"]
CUT_SHORT = [
    "['a','b'",
    "['a','b",
    "('a', 'b'",
    "'a','b']",
    "'a', 'b')",
    '{"a"',
    '["a" "b"',
    "[a; b",
]


@pytest.mark.parametrize("cell", UNREADABLE + CUT_SHORT)
def test_what_cannot_be_read_as_a_list(cell: str) -> None:
    assert split_labels(cell) is None


def test_another_separator() -> None:
    assert split_labels("a; b", ";") == ["a", "b"]
