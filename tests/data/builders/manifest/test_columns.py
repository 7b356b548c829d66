"""Columns that are not read: named, and refused where they are almost certainly meant to be."""

from pathlib import Path

import pytest

from medclip_jax.data.builders.manifest.columns import suggest, unused_columns, unused_lines
from medclip_jax.data.table import Table, TableRow
from medclip_jax.errors import UserError

ALL = ("image_path", "text", "patient_id", "study_id", "split", "view")


PATIENTS = (
    "participant_id participant subject_no subject_number subjid patients patient_key patient_num "
    "anon_patient_id study_patient_id medical_record_number"
)
# Columns of published tables, and of ordinary ones.
OTHERS = (
    "patient_age PatientSex age sex modality manufacturer StudyDate study_description reporter "
    "report_date image_width file_size image_url mask_path labels Finding_Labels source license "
    "site hospital name text_length split_seed setting race subject_age"
)


def table(columns: list[str], *values: list[str]) -> Table:
    rows = [TableRow(n, dict(zip(columns, cells, strict=True))) for n, cells in enumerate(values)]
    return Table(tuple(columns), rows)


def lines(columns: list[str], *values: list[str], used: tuple[str, ...] = ()) -> list[str]:
    return unused_lines(unused_columns(Path("m.csv"), table(columns, *values), used))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PatientID", "patient_id"),
        ("Patient ID", "patient_id"),
        ("patient", "patient_id"),
        ("subject_id", "patient_id"),
        ("SubjectID", "patient_id"),
        ("pateint_id", "patient_id"),
        ("StudyID", "study_id"),
        ("study", "study_id"),
        ("Accession Number", "study_id"),
        ("Split", "split"),
        ("path", "image_path"),
        ("filename", "image_path"),
        ("Image Path", "image_path"),
        ("report", "text"),
        ("findings", "text"),
        ("Impression", "text"),
        ("View", "view"),
        *((name, "patient_id") for name in PATIENTS.split()),
        *((name, "image_path") for name in ("jpg_path", "image_filepath", "relative_path")),
        *((name, "text") for name in ("report_en", "clean_report", "Radiology Report")),
        *((name, "study_id") for name in ("study_no", "StudyKey", "accession_num")),
    ],
)
def test_a_name_for_a_column_that_is_missing(name: str, meant: str) -> None:
    others = [column for column in ALL if column != meant]
    with pytest.raises(UserError, match=f"did you mean {meant} for '{name}'") as error:
        lines([*others, name], [""] * 6)
    assert "\n" not in str(error.value)
    # Beside the column itself, it is one that is not used.
    assert lines([*ALL, name], [""] * 7) == [f"columns that are not used: {name}"]
    # A label is used.
    assert lines([*others, name], [""] * 6, used=(name,)) == []


def test_all_of_them_in_a_line() -> None:
    columns = ["image_path", "findings", "impression", "subject_id", "set"]
    with pytest.raises(UserError, match=r"text for 'findings' and 'impression', patient_id for "):
        lines(columns, ["a.png", "x", "y", "1", "train"])


@pytest.mark.parametrize("name", OTHERS.split())
def test_a_name_for_something_else(name: str) -> None:
    assert lines(["text", name], ["a", "x"], ["b", "y"]) == [f"columns that are not used: {name}"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (name, values)
        for name in ("train_test_split", "split_type", "dataset_type", "data_split", "subset", "Z")
        for values in (["train", "train", "holdout"], ["Train", "", "val", "train", "x"])
    ],
)
def test_a_column_of_which_most_cells_name_splits(name: str, values: list[str]) -> None:
    with pytest.raises(UserError, match=f"did you mean split for '{name}'"):
        lines(["text", name], *(["a", value] for value in values))


@pytest.mark.parametrize("values", [["test", "test", "control"], ["train"] * 3, ["val", "a", "b"]])
def test_a_column_with_a_word_that_names_a_split(values: list[str]) -> None:
    assert lines(["text", "arm"], *(["a", value] for value in values)) == [
        "columns that are not used: arm"
    ]


@pytest.mark.parametrize("name", ["set", "fold", "phase", "Usage of row"])
def test_a_column_of_split_names_is_the_split(name: str) -> None:
    with pytest.raises(UserError, match=f"did you mean split for '{name}'"):
        lines(["text", name], ["a", "Train"], ["b", "VAL"], ["c", "testing"])


@pytest.mark.parametrize(
    ("name", "values", "meant"),
    [
        ("fold", "01", "split"),
        ("set", ["NIH", "train"], "split"),
        ("ViewPosition", ["PA", "AP"], "view"),
        ("notes", "ab", ""),
        ("hospital_patient_id", "ab", "patient_id"),
        ("official_split", "01", "split"),
        ("processed_png_path", "ab", "image_path"),
    ],
)
def test_what_may_mean_something_else_is_asked(name: str, values: list[str], meant: str) -> None:
    found = lines(["text", name], *(["a", value] for value in values))
    question = f"; did you mean {meant} for '{name}'?" if meant else ""
    assert found == [f"{'warning: ' * bool(meant)}columns that are not used: {name}{question}"]


def test_other_columns_are_named() -> None:
    assert lines([*ALL, "license", "source", ""], [""] * 9) == [
        "columns that are not used: license, source"
    ]
    assert lines([*ALL], [""] * 6) == []


def test_a_remark_where_neither_image_nor_text_is_there() -> None:
    assert suggest(["path", "report", "x"]) == (
        " (did you mean image_path for 'path', text for 'report'?)"
    )
    assert suggest(["x"]) == ""
