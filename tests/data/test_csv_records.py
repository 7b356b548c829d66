"""CSV files in which a quote is lost or too much: one record is damaged, its neighbours are not."""

import csv
import io
import random

import pytest

from medclip_jax.data.csv_records import read_records

HEADER = ["image_path", "text", "patient_id", "label"]


def written(rows: list[list[str]], quoting: int = csv.QUOTE_MINIMAL) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=quoting, lineterminator="\n").writerows([HEADER, *rows])
    return buffer.getvalue()


def made_rows(number: int, rng: random.Random) -> list[list[str]]:
    """Rows whose texts tell them apart; a text never ends as one line of its own might begin."""
    rows = []
    for index in range(number):
        text = f"FINDINGS: Small effusion{rng.choice([',', ''])} in case {index}."
        text += rng.choice(["", ' He said "clear", twice.', "\nIMPRESSION: Normal.\n\nEND."])
        rows.append([f"{index}.png", rng.choice([text, text, ""]), f"P{index}", str(index % 2)])
    return rows


def test_a_lost_closing_quote() -> None:
    text = 'image_path,text,label\na.png,"A, one.",1\nb.png,"B, two.,0\nc.png,"C, three.",1\n'
    header, first, damaged, last = read_records(io.StringIO(text))
    assert (header.number, header.cells) == (1, ["image_path", "text", "label"])
    assert first == (2, ["a.png", "A, one.", "1"], "")
    assert (damaged.number, damaged.cells) == (3, ["b.png"])
    assert damaged.problem == (
        "a quote is missing, or stands within a text without being doubled (line 3)"
    )
    assert last == (4, ["c.png", "C, three.", "1"], "")


@pytest.mark.parametrize(
    "row",
    [
        'b.png,"B, two.,P,0',  # the closing quote is lost
        'b.png,B two.",P,0',  # the opening one
        'b.png,"B "two",P,0',  # one is not doubled
        'b.png,"B 5", two.",P,0',  # and looks like a closing one
        'b.png,"B, two.\nand three.,P,0',
        'b.png,B, two.\n\nand three.",P,0',
        '"b.png,"B, two.",P,0',
        'b.png,"B, two.","P,0',
        'b.png,"B\ntwo."',  # cells are missing
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("following", ['c.png,"C, ""three"".",P,1', "c.png,C,P,1", None])
def test_each_kind_of_damage(row: str, line_end: str, following: str | None) -> None:
    lines = ["image_path,text,patient_id,label", 'a.png,"A,\none.",P,1', row, following]
    file = line_end.join(line for line in lines if line is not None).replace("\r\r", "\r")
    records = list(read_records(io.StringIO(file, newline=None)))
    good = [record.cells for record in records[1:] if not record.problem]
    expected = [["a.png", "A,\none.", "P", "1"]]
    if following:
        expected.append(["c.png", 'C, "three".' if '"' in following else "C", "P", "1"])
    assert good == expected
    assert next(record.number for record in records if record.problem) == 3


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_quote_more_or_less_costs_one_row(quoting: int) -> None:
    for seed in range(300):
        rng = random.Random(seed)
        rows = made_rows(12, rng)
        text = written(rows, quoting)
        start = text.index("\n") + 1
        quotes = [place for place in range(start, len(text)) if text[place] == '"']
        place = rng.choice(quotes) if seed % 2 else rng.randrange(start, len(text))
        changed = text[:place] + ("" if seed % 2 else '"') + text[place + bool(seed % 2) :]
        records = list(read_records(io.StringIO(changed)))[1:]
        good = [record.cells for record in records if not record.problem]
        assert all(cells in rows for cells in good), seed
        assert len(rows) - 1 <= len(good), seed


def test_blanks_around_quotes() -> None:
    text = 'a, b , "c"\n"1" ,  "2, 3"\t,"4" \n"5 "" , 6", 7 ,8\n'
    assert [record.cells for record in read_records(io.StringIO(text))][1:] == [
        ["1", "2, 3", "4"],
        ['5 " , 6', "7 ", "8"],
    ]


def test_the_limit_of_the_process_stays_as_it_was() -> None:
    limit = csv.field_size_limit()
    long = "x" * (limit + 1)
    assert [record.cells for record in read_records([f"{long}\n"])] == [[long]]
    assert csv.field_size_limit() == limit


DAMAGED = [
    'i{0}.png,Tube is 5" above carina {0},P{0},1\n',
    'i{0}.png,"The closing quote, lost {0},P{0},1\n',
    'i{0}.png,The opening one {0}",P{0},1\n',
    'i{0}.png,"One "within" {0}",P{0},1\n',
    'i{0}.png,"Two lines\nof text {0},P{0},1\n',
]


@pytest.mark.parametrize("damaged", DAMAGED)
@pytest.mark.parametrize("num_before", [0, 1, 50])
def test_each_of_many_damaged_rows_is_one(damaged: str, num_before: int) -> None:
    good = "i{0}.png,Good {0},P{0},1\n"
    rows = [good.format(n) for n in range(num_before)]
    rows += [damaged.format(n) for n in range(num_before, num_before + 40)] + [good.format(99)]
    records = list(read_records(io.StringIO(f"{','.join(HEADER)}\n{''.join(rows)}")))[1:]
    assert [record.number for record in records] == list(range(2, len(rows) + 2))
    assert [bool(r.problem) for r in records] == [False] * num_before + [True] * 40 + [False]
    assert [record.cells[0] for record in records[:-1]] == [
        f"i{n}.png" for n in range(len(rows) - 1)
    ]
    lines = 2 if "\n" in damaged[:-1] else 1
    line_numbers = [num_before + 2 + lines * n for n in range(40)]
    assert [r.problem.rpartition(" ")[2] for r in records if r.problem] == [
        f"{number})" for number in line_numbers
    ]


def test_damaged_rows_whose_text_comes_first() -> None:
    rows = [f'Tube is 5" above carina {n},i{n}.png,P{n}\n' for n in range(40)]
    text = f"text,image_path,patient_id\n{''.join(rows)}Good.,i99.png,P99\n"
    records = list(read_records(io.StringIO(text)))[1:]
    assert [bool(record.problem) for record in records] == [True] * 40 + [False]


def test_other_problems_after_a_damaged_row() -> None:
    text = f'{",".join(HEADER)}\na.png,5" off,P1,1\nb.png,A, b, and c,P2,1\nc.png,C,P3,0\n'
    records = list(read_records(io.StringIO(text)))[1:]
    assert [record.cells[0] for record in records] == ["a.png", "b.png", "c.png"]
    assert "quote" in records[0].problem and records[1].problem.startswith("2 more cells")
    assert not records[2].problem
