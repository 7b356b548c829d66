"""The lines of COVIDx's lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medclip_jax.data.builders.covidx.lists import ListedImage, parse_line, torn_patients

TWO = ("negative", "positive")
THREE = ("normal", "pneumonia", "COVID-19")
# What no blank and no class is; a file's name has no "/" either.
WORDS = st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"]), min_size=1).filter(
    lambda word: word not in THREE
)
FILES = WORDS.filter(lambda word: "/" not in word and word.strip("."))


def nothing_exists(file: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("line", "classes", "expected"),
    [
        # Lines as the published lists have them.
        ("3 SARS-10-Fig8a.jpeg pneumonia cohen", THREE, ("3", "SARS-10-Fig8a.jpeg", "cohen")),
        ("8 SARS-10-Fig5.jpeg pneumonia", THREE, ("8", "SARS-10-Fig5.jpeg", "")),
        ("COVID-19(69) COVID-19(69).png COVID-19 sirm", THREE, None),
        ("210 16745_2_1.PNG negative cohen", TWO, ("210", "16745_2_1.PNG", "cohen")),
        ("c56b c56b.png negative rnsa", TWO, ("c56b", "c56b.png", "rsna")),
    ],
)
def test_lines(line: str, classes: tuple[str, ...], expected: tuple[str, str, str] | None) -> None:
    patient, file, source = expected or ("COVID-19(69)", "COVID-19(69).png", "sirm")
    image = parse_line(line, classes, nothing_exists)
    assert isinstance(image, ListedImage)
    assert (image.patient, image.file, image.source) == (patient, file, source)
    assert image.label in classes


def test_blanks_in_names_are_told_apart_by_the_files_that_exist() -> None:
    line = "COVID 19 5 COVID 19 5 (0).png positive sirm"
    image = parse_line(line, TWO, {"COVID 19 5 (0).png"}.__contains__)
    assert image == ListedImage("COVID 19 5", "COVID 19 5 (0).png", "positive", "sirm")


@given(WORDS, FILES, st.sampled_from(THREE), WORDS | st.just(""))
def test_a_line_that_is_written_is_read(patient: str, file: str, label: str, source: str) -> None:
    image = parse_line(f"{patient} {file} {label} {source}", THREE, nothing_exists)
    assert image == ListedImage(patient, file, label, "rsna" if source == "rnsa" else source)


@given(st.text())
def test_any_line_is_read_or_has_a_reason(line: str) -> None:
    image = parse_line(line, TWO, nothing_exists)
    assert isinstance(image, ListedImage) or image


@pytest.mark.parametrize(
    ("train", "test", "torn"),
    [
        ("cohen", "cohen", True),
        ("cohen", "fig1", False),  # another patient
        ("cohen", "", True),
        ("", "cohen", True),
        ("", "", True),
    ],
)
def test_patients_in_both_lists(train: str, test: str, torn: bool) -> None:
    first = ListedImage("3", "a.png", "normal", train)
    other = ListedImage("4", "b.png", "normal", train)
    tested = ListedImage("3", "c.png", "normal", test)
    assert torn_patients([first, other], [tested]) == ({first: tested} if torn else {})
