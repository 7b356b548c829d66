"""Rows within texts: found in any order of columns, and never in a report of many lines."""

import csv
import io
import itertools
import re
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclip_jax.data.csv_records import Record, read_records

COLUMNS = ("image_path", "text", "patient_id", "study_id", "split", "Effusion")
PATHS = ("b{}.bmp", "my img{}.png", "i{}", "p1/study {}/view.dcm", "scan ({}).tif")
# What reports are made of; a comma may stand without the blank after it.
PIECES = (
    "Heart normal|lungs clear|no effusion|FINDINGS: Small nodule|PA|AP and lateral|T4|L1|S1|3|0"
    "|5 mm|5mm|2.5 cm|12.03.2019|10:30|COVID-19|1.|2.|- mild edema|train|test|Dr. Smith|___|chest"
).split("|")
REPORTS = st.lists(
    st.tuples(st.sampled_from(PIECES), st.sampled_from([", ", ", ", ",", ". ", " ", "\n", "\n\n"])),
    min_size=2,
    max_size=25,
).map(lambda parts: "".join(itertools.chain.from_iterable(parts)).strip())
# A label or a split alone between commas or line ends, without blanks, may as well be a row's.
AMBIGUOUS = re.compile(r"(?:^|,)(?:0|train|test)(?:,|$)", re.MULTILINE)
IDS = ("p{}", "{}", "1000000{}", "P-00{}", "patient {}", "s{}")


def is_clear(report: str) -> bool:
    return not AMBIGUOUS.search(report)


def read(text: str) -> list[Record]:
    return list(read_records(io.StringIO(text)))[1:]


def row(number: int, columns: tuple[str, ...], path: str, text: str) -> str:
    cells = {
        "image_path": path.format(number),
        "text": text,
        "patient_id": "ab"[number],
        "study_id": f"s{number}",
        "split": "train",
        "Effusion": str(number),
    }
    return ",".join(cells[column] for column in columns) + "\n"


@pytest.mark.parametrize("path", PATHS)
def test_two_rows_in_one_whatever_the_order_of_columns(path: str) -> None:
    without_images = (c for c in COLUMNS if c != "image_path")
    for columns in (*itertools.permutations(COLUMNS), *itertools.permutations(without_images)):
        rows = row(0, columns, path, '"Big effusion') + row(1, columns, path, 'Clear lungs"')
        first, second = read(",".join(columns) + "\n" + rows)
        assert "the text holds another row of the table" in first.problem, columns
        assert first.problem.endswith("(line 2)") and second.problem.endswith("(line 3)"), columns


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("text,split", '"Big effusion,train\nClear lungs",train'),
        ("text,Effusion", '"Big effusion,1\nClear lungs",0'),
        ("image_path,text", 'aorta.png,"Big effusion\nchest.png,Clear lungs"'),
        ("uid,text", f'{uuid.UUID(int=7)},"Big effusion\n{uuid.UUID(int=2**90)},Clear lungs"'),
        (
            "image_path,findings,impression,patient_id",
            'i0.png,"Big effusion,Effusion, big.,a\ni1.png,Clear lungs",Normal chest.,b',
        ),
    ],
)
def test_tables_of_few_columns(header: str, rows: str) -> None:
    first, second = read(f"{header}\n{rows}\n")
    assert first.problem and second.problem


def test_blanks_after_commas() -> None:
    rows = 'a.png, "Big effusion, p0, 0\nb.png, Clear lungs", p1, 1\n'
    assert all(record.problem for record in read(f"image_path, text, patient_id, Mass\n{rows}"))


def test_rows_between_the_two_are_read() -> None:
    between = "".join(f"i{n}.png,Text {n},p{n}\n" for n in range(1, 9))
    rows = f'i0.png,"Big effusion,p0\n{between}i9.png,Clear lungs",p9\ni10.png,Last,p10\n'
    records = read(f"image_path,text,patient_id\n{rows}")
    assert [record.number for record in records] == list(range(2, 13))
    assert [record.number for record in records if record.problem] == [2, 11]


@settings(max_examples=300, deadline=None)
@given(
    columns=st.permutations(COLUMNS).flatmap(
        lambda names: st.integers(2, 6).map(
            lambda number: sorted(names, key=lambda name: name != "text")[:number]
        )
    ),
    data=st.data(),
)
def test_reports_of_many_lines_are_never_rejected(columns: list[str], data: st.DataObject) -> None:
    columns = data.draw(st.permutations(columns))
    path, patient, study = (data.draw(st.sampled_from(kinds)) for kinds in (PATHS, IDS, IDS))
    rows = [
        {
            "image_path": path.format(number),
            "text": text,
            "patient_id": patient.format(number),
            "study_id": study.format(number),
            "split": data.draw(st.sampled_from(["train", "test", "val"])),
            "Effusion": data.draw(st.sampled_from(["0", "1", "", "-1"])),
        }
        for number, text in enumerate(
            data.draw(st.lists(REPORTS.filter(is_clear), min_size=1, max_size=5))
        )
    ]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    records = read(file.getvalue())
    assert [record.problem for record in records] == [""] * len(rows)
    assert [record.cells for record in records] == [[r[name] for name in columns] for r in rows]
