"""The checks of each row, labels, and the grouping of rows into studies."""

import math
import pathlib

import pytest

from medclip_jax.data.builders.manifest.rows import Manifest, read_manifest
from medclip_jax.data.builders.rows import Row
from medclip_jax.errors import UserError


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / "root" / name).write_bytes(b"not looked into here")
    (tmp_path / "outside.png").write_bytes(b"")
    return tmp_path / "root"


def read(root: pathlib.Path, content: str, **labels: object) -> Manifest:
    path = root.parent / "manifest.csv"
    path.write_text(content)
    return read_manifest(path, root, **labels)


def studies(manifest: Manifest) -> dict[tuple[str, str], list[Row]]:
    return {(rows[0].patient_id, rows[0].study_id): rows for rows in manifest.source.studies}


def test_defaults_of_missing_columns(root: pathlib.Path) -> None:
    manifest = read(root, "image_path\na.png\nsub/../b.png\n")
    assert manifest.source.rejected == [] and manifest.source.num_rows == 2
    assert manifest.label_names == ()
    (first,), (second,) = studies(manifest).values()
    assert (first.split, first.view, first.text, first.labels) == ("train", "", "", ())
    assert first.study_id == first.patient_id == "row-2"
    assert second.study_id == second.patient_id == "row-3"


def test_columns_in_any_order_with_others_between(root: pathlib.Path) -> None:
    manifest = read(
        root,
        "license,split,view,study_id,text,patient_id,image_path\n"
        "CC,Validation,pa,s,Clear lungs.,p,a.png\n",
    )
    (row,) = studies(manifest)["p", "s"]
    assert (row.image_path, row.text, row.split, row.view) == (
        "a.png",
        "Clear lungs.",
        "validation",
        "PA",
    )


def test_rows_of_a_study_belong_together_within_their_patient(root: pathlib.Path) -> None:
    manifest = read(
        root,
        "image_path,patient_id,study_id\na.png,p1,study1\nb.png,p2,study1\nsub/c.png,p1,study1\n",
    )
    paths = {key: [row.image_path for row in rows] for key, rows in studies(manifest).items()}
    assert paths == {("p1", "study1"): ["a.png", "sub/c.png"], ("p2", "study1"): ["b.png"]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("missing.png,t,,,train,1", "no such file"),
        ("sub,t,,,train,1", "no such file"),
        ("../outside.png,t,,,train,1", "the path leaves the image root"),
        ("/etc/hostname,t,,,train,1", "the path leaves the image root"),
        (",,p,s,train,1", "no image and no text"),
        ("a.png,t,,,holdout,1", "unknown split 'holdout'"),
        ("a.png,t,,,train,2", "label Mass is '2'; it must be 1, 0, -1 or empty"),
        ("a.png,t,,,train,yes", "label Mass is 'yes'"),
        ("a.png,t,,,train,1,more", "1 more cells than the header"),
    ],
)
def test_bad_rows_are_left_out_with_their_reason(root: pathlib.Path, row: str, reason: str) -> None:
    header = "image_path,text,patient_id,study_id,split,Mass"
    manifest = read(root, f"{header}\nb.png,good,,,,0\n{row}\n", label_columns=["Mass"])
    assert [row.image_path for rows in studies(manifest).values() for row in rows] == ["b.png"]
    (rejection,) = manifest.source.rejected
    assert (rejection.row, rejection.path) == (3, row.split(",")[0])
    assert rejection.reason.startswith(reason)
    assert manifest.source.num_rows == 2


def test_links_out_of_the_image_root_are_followed(root: pathlib.Path) -> None:
    (root / "link.png").symlink_to(root.parent / "outside.png")
    assert read(root, "image_path\nlink.png\n").source.rejected == []


def test_label_columns(root: pathlib.Path) -> None:
    manifest = read(
        root,
        "text,Mass,Edema\nx,1,0\ny,0.0,-1\nz,,1.0\nw,nan,-1.0\n",
        label_columns=["Edema", "Mass"],
    )
    assert manifest.label_names == ("Edema", "Mass")
    labels = [rows[0].labels for rows in studies(manifest).values()]
    expected = [(0, 1), (math.nan, 0), (1, math.nan), (math.nan, math.nan)]
    assert [[str(float(v)) for v in row] for row in labels] == [
        [str(float(v)) for v in row] for row in expected
    ]


def test_labels_from_one_column(root: pathlib.Path) -> None:
    manifest = read(
        root,
        "text,Finding Labels\na,Mass|Edema\nb,\nc, Edema | \nd,No Finding\n",
        labels_from="Finding Labels",
    )
    assert manifest.label_names == ("Edema", "Mass", "No Finding")
    labels = [rows[0].labels for rows in studies(manifest).values()]
    assert labels[0] == (1, 1, 0) and labels[2] == (1, 0, 0) and labels[3] == (0, 0, 1)
    assert all(math.isnan(value) for value in labels[1])


def test_a_patient_in_two_splits_is_named(root: pathlib.Path) -> None:
    with pytest.raises(UserError, match="patient 'p7' is in train and test; give"):
        read(root, "text,patient_id,split\nx,p6,train\ny,p7,test\nz,p7,\nw,p6,train\n")
    with pytest.raises(UserError, match="'p1' is in train and validation .and 1 more patients"):
        read(
            root,
            "text,patient_id,split\nx,p1,train\ny,p1,validation\nz,p2,test\nw,p2,validation\n",
        )


@pytest.mark.parametrize(
    ("content", "labels", "message"),
    [
        ("path,report\na,b\n", {}, "needs a column image_path or text; its columns are: path, rep"),
        ("image_path;text\na;b\n", {}, "its columns are: image_path;text"),
        ("text,Mass\na,1\n", {"label_columns": ["Mass", "Edema"]}, "no column Edema;"),
        ("text\na\n", {"labels_from": "labels"}, "no column labels; its columns are: text"),
        ("text,a\na,1\n", {"label_columns": ["a"], "labels_from": "a"}, "not both"),
    ],
)
def test_manifests_that_cannot_be_used(
    root: pathlib.Path, content: str, labels: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(root, content, **labels)


def test_a_missing_image_root(root: pathlib.Path) -> None:
    with pytest.raises(UserError, match="the image root is not a folder"):
        read(root / "nowhere", "text\nx\n")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("Train", "training", "")),
        *((name, "validation") for name in ("val", "Valid", "validate", "dev", "VALIDATION")),
        *((name, "test") for name in ("TEST", "testing")),
    ],
)
def test_names_of_splits(root: pathlib.Path, name: str, split: str) -> None:
    ((row,),) = studies(read(root, f"text,split\na,{name}\n")).values()
    assert row.split == split


@pytest.mark.parametrize("nothing", ["nan", "NaN", "NA", "N/A", "None", "null", "<NA>", "#N/A"])
def test_cells_that_say_that_there_is_nothing(root: pathlib.Path, nothing: str) -> None:
    header = "image_path,text,patient_id,study_id,split,view,Mass"
    cells = ["a.png", *[nothing] * 6]
    manifest = read(
        root, f"{header}\n{','.join(cells)}\nb.png,None.,p,s,test,pa,1\n", label_columns=["Mass"]
    )
    first, second = (rows[0] for rows in studies(manifest).values())
    assert (first.text, first.patient_id, first.study_id) == ("", "row-2", "row-2")
    assert (first.split, first.view) == ("train", "") and math.isnan(first.labels[0])
    assert (second.text, second.view, second.labels) == ("None.", "PA", (1.0,))
    (note,) = manifest.source.notes
    assert note.startswith("warning: 1 of 2 rows have no patient_id")


def test_a_lost_quote_costs_its_row_alone(root: pathlib.Path) -> None:
    manifest = read(
        root,
        "image_path,text,patient_id\n"
        'a.png,"One, first.,p1\n'
        'b.png,"Two, second.",p2\n'
        'sub/c.png,"Three, third.",p3\n',
    )
    found = {row.image_path: row.text for rows in studies(manifest).values() for row in rows}
    assert found == {"b.png": "Two, second.", "sub/c.png": "Three, third."}
    (rejection,) = manifest.source.rejected
    assert (rejection.row, rejection.path) == (2, "a.png")
    assert "a quote is missing" in rejection.reason and "line 2" in rejection.reason


def test_two_lost_quotes_that_close_each_other(root: pathlib.Path) -> None:
    manifest = read(
        root, 'image_path,text,patient_id\na.png,"One.,p1\nb.png,Two.",p2\nsub/c.png,Three.,p3\n'
    )
    assert list(studies(manifest)) == [("p3", "row-4")]
    first, second = manifest.source.rejected
    assert "holds another row" in first.reason and "line 2" in first.reason
    assert (first.row, first.path, second.row, second.path) == (2, "a.png", 3, "b.png")


def test_labels_from_lists(root: pathlib.Path) -> None:
    manifest = read(
        root,
        'text,labels\nx,"[\'Mass\', \'Edema\']"\ny,"[""Mass""]"\nz,nan\nw,"{\'Mass\': 0}"\n',
        labels_from="labels",
    )
    assert manifest.label_names == ("Edema", "Mass")
    labels = [rows[0].labels for rows in studies(manifest).values()]
    assert labels[:2] == [(1, 1), (0, 1)] and all(math.isnan(value) for value in labels[2])
    assert "must be labels joined by | or a list" in manifest.source.rejected[0].reason


def test_separators_of_labels(root: pathlib.Path) -> None:
    manifest = read(root, "text,labels\nx,Mass; Edema\ny,Mass\n", labels_from="labels")
    assert manifest.label_names == ("Edema", "Mass") and manifest.source.notes == []
    manifest = read(root, 'text,labels\nx,"Mass, Edema"\ny,Mass|a;b\n', labels_from="labels")
    assert manifest.label_names == ("Mass", "Mass, Edema", "a;b")
    (note,) = manifest.source.notes
    assert note.startswith("warning: labels with a comma count as one label each (1: 'Mass, Edema'")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_of_columns_are_named(root: pathlib.Path, separator: str) -> None:
    with pytest.raises(UserError, match="separated by (semicolons|tabs): save the file with comma"):
        read(root, f"image_path{separator}text\na.png{separator}b\n")


def test_json_lines(root: pathlib.Path) -> None:
    path = root.parent / "manifest.jsonl"
    path.write_text(
        '{"image_path": "a.png", "text": NaN, "patient_id": 7, "labels": [["Mass"], null]}\n'
        '{"image_path": "b.png", "text": "x", "patient_id": "7", "labels": null}\n'
        '{"image_path": "b.png", "text": {"findings": "x"}}\n'
        '{"image_path": "b.png", "text": \n'
    )
    manifest = read_manifest(path, root, labels_from="labels")
    rows = [row for rows in studies(manifest).values() for row in rows]
    assert [(row.text, row.patient_id) for row in rows] == [("", "7"), ("x", "7")]
    assert manifest.label_names == ("Mass",) and rows[0].labels == (1.0,)
    assert [(r.row, r.reason[:21]) for r in manifest.source.rejected] == [
        (3, "text is a JSON object"),
        (4, "not JSON (Expecting v"),
    ]
