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
        ("a.png,t,,,val,1", "unknown split 'val'"),
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
