"""Manifests as spreadsheets and scripts write them, good and bad."""

import csv
import gzip
import io
import json
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medclip_jax.data.table import Table, read_table
from medclip_jax.errors import UserError

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SHARED_FOLDER = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def table_of(folder: pathlib.Path, content: bytes | str, suffix: str = ".csv") -> Table:
    path = folder / f"manifest{suffix}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path)


def plain(text: str) -> str:
    """A cell as it is read: without white space around it, line ends as one character."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


@pytest.mark.parametrize(
    "content",
    [
        "image_path,text\na.png,Größe 3 cm\n",
        "\ufeffimage_path,text\r\na.png,Größe 3 cm\r\n",  # a spreadsheet's UTF-8
        "image_path,text\ra.png,Größe 3 cm",  # old line ends, none after the last row
        ' image_path , text\n"a.png" , Größe 3 cm \n',
        "image_path,text\n\n,\na.png,Größe 3 cm\n\n",
        "image_path,text\na.png,Größe 3 cm\n".encode("latin-1"),
    ],
)
def test_encodings_and_line_ends(tmp_path: pathlib.Path, content: bytes | str) -> None:
    table = table_of(tmp_path, content)
    assert table.columns == ("image_path", "text")
    (row,) = table.rows
    assert row.cells == {"image_path": "a.png", "text": "Größe 3 cm"} and not row.problem


def test_rows_count_as_in_a_spreadsheet(tmp_path: pathlib.Path) -> None:
    table = table_of(tmp_path, 'text,x\n"two\nlines",1\n\nthird,2\n')
    assert [(row.number, row.cells["text"]) for row in table.rows] == [
        (2, "two\nlines"),
        (4, "third"),
    ]


def test_quotes_long_cells_and_odd_separators(tmp_path: pathlib.Path) -> None:
    long = "word " * 40_000
    table = table_of(tmp_path, f'text\n"He said ""clear"", twice"\n{long}\nleft\u2028\x0bright\n')
    assert [row.cells["text"] for row in table.rows] == [
        'He said "clear", twice',
        long.strip(),
        "left\u2028\x0bright",
    ]


def test_too_few_cells_are_empty_and_too_many_a_problem(tmp_path: pathlib.Path) -> None:
    table = table_of(tmp_path, "image_path,text\na.png\nb.png,x,y,z\n")
    assert table.rows[0].cells == {"image_path": "a.png", "text": ""}
    assert table.rows[1].problem == "2 more cells than the header has names"


@SHARED_FOLDER
@given(rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=4))
def test_what_the_csv_module_writes_is_read(tmp_path: pathlib.Path, rows: list) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerows([["text", "b", "c"], *rows, ["the", "last", "row"]])
    table = table_of(tmp_path, buffer.getvalue())
    expected = [[plain(cell) for cell in row] for row in rows]
    read = [list(row.cells.values()) for row in table.rows]
    assert read == [*[row for row in expected if any(row)], ["the", "last", "row"]]


@SHARED_FOLDER
@given(rows=st.lists(st.dictionaries(CELLS, CELLS, max_size=3), min_size=1, max_size=4))
def test_what_the_json_module_writes_is_read(tmp_path: pathlib.Path, rows: list) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    table = table_of(tmp_path, lines, ".jsonl")
    assert len(table.rows) == len(rows)
    for number, (row, expected) in enumerate(zip(table.rows, rows, strict=True), start=1):
        assert row.number == number and set(row.cells) == set(table.columns)
        assert {name.strip() for name in expected} <= set(row.cells)
        for name, value in expected.items():
            if [key.strip() for key in expected].count(name.strip()) == 1:
                assert row.cells[name.strip()] == value.strip()


def test_json_values_of_other_types(tmp_path: pathlib.Path) -> None:
    values = {"n": 3, "x": -1.0, "none": None, "yes": True, "list": ["Mass", "Edema"]}
    table = table_of(tmp_path, json.dumps(values), ".jsonl")
    assert table.rows[0].cells == {
        "n": "3",
        "x": "-1.0",
        "none": "",
        "yes": "1",
        "list": "Mass|Edema",
    }


def test_bad_json_lines_are_problems_of_their_rows(tmp_path: pathlib.Path) -> None:
    table = table_of(tmp_path, '{"text": "a"}\n{"text": \n\n[1]\n', ".jsonl")
    assert [row.number for row in table.rows] == [1, 2, 4]
    assert [bool(row.problem) for row in table.rows] == [False, True, True]
    assert table.rows[1].problem.startswith("not JSON")
    assert table.rows[2].problem == "not a JSON object"


@pytest.mark.parametrize("text", ["patient\x92s \x93lungs\x94 \x96 clear", "5 \x80 \xb5"])
def test_windows_1252(tmp_path: pathlib.Path, text: str) -> None:
    content = f"text\n{text}\n".encode("latin-1")
    (row,) = table_of(tmp_path, content).rows
    assert row.cells["text"] == text.encode("latin-1").decode("cp1252")


def test_latin_1_with_control_characters(tmp_path: pathlib.Path) -> None:
    (row,) = table_of(tmp_path, b"text\na\x81\x92\xe4\n").rows
    assert row.cells["text"] == "a\x81\x92ä"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (r'{"text": "a \ud800 b"}', "half a character"),
        (r'{"text": ["a", "\udc00\ud800"]}', "half a character"),
        (r'{"te\ud800xt": "a"}', "half a character"),
        ("[" * 100_000, "not JSON (too many brackets"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "not JSON (too many brackets"),
        ('{"text": ' + "[" * 50 + "]" * 50 + "}", ""),
        ('{"text": ' + "9" * 5000 + "}", "not JSON (Exceeds the limit"),
        (r'{"text": "\ud83e\udec1"}', ""),
    ],
)
def test_what_json_alone_can_hold(tmp_path: pathlib.Path, line: str, problem: str) -> None:
    good, row = table_of(tmp_path, f'{{"text": "good"}}\n{line}\n', ".jsonl").rows
    assert good.cells == {"text": "good"} and not good.problem
    assert row.problem.startswith(problem) and bool(row.problem) == bool(problem)
    "".join(row.cells.values()).encode()


def test_rows_in_texts_of_json_lines(tmp_path: pathlib.Path) -> None:
    rows = [
        {"image_path": "a.png", "text": "Big effusion,p1\nb.png,Clear lungs", "patient_id": "p2"},
        {"image_path": "c.png", "text": "Heart, lungs,\nbones, clear.", "patient_id": "p3"},
    ]
    table = table_of(tmp_path, "\n".join(map(json.dumps, rows)), ".jsonl")
    assert [bool(row.problem) for row in table.rows] == [True, False]


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        ("text\na\n", ".tsv", "must be a .csv, .csv.gz or .jsonl file"),
        ("text,text\na,b\n", ".csv", "names text more than once"),
        ("image_path,text\n", ".csv", "has no rows"),
        ("", ".csv", "has no rows"),
        ("", ".jsonl", "has no rows"),
        ("text\nüber\n".encode("utf-16"), ".csv", "not UTF-8 or Latin-1"),
    ],
)
def test_files_that_are_no_manifest(
    tmp_path: pathlib.Path, content: bytes | str, suffix: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        table_of(tmp_path, content, suffix)


def test_a_missing_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="cannot be read .No such file"):
        read_table(tmp_path / "missing.csv")


def test_packed_tables(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t.csv.gz"
    text = 'a,b\n1,2\n"x\r\ny",ü\n'
    path.write_bytes(gzip.compress(text.encode()))
    assert [row.cells for row in read_table(path).rows] == [
        {"a": "1", "b": "2"},
        {"a": "x\ny", "b": "ü"},
    ]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_packed_table_that_is_cut_short(tmp_path: pathlib.Path, share: float) -> None:
    path = tmp_path / "t.csv.gz"
    packed = gzip.compress(("a,b\n" + "".join(f"{n},{n * n}\n" for n in range(2000))).encode())
    path.write_bytes(packed[: round(share * len(packed))])
    with pytest.raises(UserError, match="t.csv.gz: damaged or cut short; download it again"):
        read_table(path)


def test_a_packed_table_that_is_none(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.csv.gz").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="damaged or cut short"):
        read_table(tmp_path / "t.csv.gz")


def test_only_the_columns_asked_for_are_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("c,a,b\n3,1,2\n")
    table = read_table(path, required=["b"], columns=["a", "missing"])
    assert table.columns == ("c", "a", "b") and table.rows[0].cells == {"a": "1", "b": "2"}
    with pytest.raises(UserError, match="no column x, y; its columns are: c, a, b"):
        read_table(path, required=["x", "a", "y"])


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,2,3", ""),
        ("1,2,", ""),
        ("1,2,3,,", ""),  # as programs end rows
        ("1,2", "1 fewer cells than the header has names"),
        ("1", "2 fewer cells than the header has names"),
        ("1,2,3,4", "1 more cells than the header has names"),
    ],
)
@pytest.mark.parametrize("header", ["a,b,c", "a,b,c,"])
def test_numbers_of_cells(tmp_path: pathlib.Path, header: str, row: str, problem: str) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\n{row}\n")
    found = read_table(tmp_path / "t.csv").rows[0].problem
    if header.endswith(",") and row.endswith("4"):
        assert found == ""  # of a column without a name
    else:
        assert found == problem
