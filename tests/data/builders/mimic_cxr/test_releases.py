"""Which tables, images and reports the `mimic_cxr` builder takes, and what it says of bad ones."""

import csv
import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.mimic_cxr_tree import METADATA, RECORDS, SPLIT, rewrite, write_tree
from support.source_tree import TrueStudy, assert_prepared, read_rejected

from medclip_jax.data import build, datasets
from medclip_jax.errors import UserError

KINDS = ("metadata", "split", "chexpert", "negbio")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a set to be made."""
    return tmp_path / "mimic"


def prepare(folder: Path, max_rejected: float = 0.2) -> str:
    return build.build(
        "mimic_cxr",
        manual_dir=folder,
        data_dir=folder.parent / "sets",
        max_rejected=max_rejected,
    )


def rejected(folder: Path) -> list[list[str]]:
    rows = read_rejected("mimic_cxr/default", folder.parent / "sets")
    return [list(row.values()) for row in rows]


def table(folder: Path, kind: str, version: str = "2.0.0") -> Path:
    return folder / f"mimic-cxr-{version}-{kind}.csv.gz"


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(gzip.decompress(path.read_bytes()).decode().splitlines()))


def unpack(path: Path) -> Path:
    unpacked = path.with_suffix("")
    unpacked.write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    return unpacked


def check(folder: Path, truth: list[TrueStudy]) -> None:
    prepare(folder)
    assert_prepared("mimic_cxr/default", folder.parent / "sets", truth)


def test_the_published_columns(folder: Path) -> None:
    write_tree(folder, 5, 0, images="dcm")
    assert list(rows(table(folder, "metadata"))[0]) == METADATA
    assert list(rows(table(folder, "split"))[0]) == SPLIT
    assert list(rows(folder / "cxr-record-list.csv.gz")[0]) == RECORDS


def test_unpacked_tables(folder: Path) -> None:
    truth = write_tree(folder, 12, 0)
    for kind in KINDS:
        unpack(table(folder, kind))
    check(folder, truth)


def test_the_newest_complete_version_counts(folder: Path) -> None:
    truth = write_tree(folder, 12, 0)
    for kind in KINDS:
        table(folder, kind, "2.1.0").write_bytes(table(folder, kind).read_bytes())
        table(folder, kind).write_bytes(b"not read")
    check(folder, truth)


def test_versions_are_not_mixed(folder: Path) -> None:
    write_tree(folder, 12, 0)
    table(folder, "split").rename(table(folder, "split", "2.1.0"))
    with pytest.raises(UserError, match="different versions are mixed.*2.0.0-chexpert.*2.1.0-spl"):
        prepare(folder)


def test_tables_that_are_not_asked_for_may_be_of_any_version(folder: Path) -> None:
    truth = write_tree(folder, 12, 0)
    table(folder, "negbio").rename(table(folder, "negbio", "2.1.0"))
    check(folder, truth)


def test_dicom_files_without_metadata_and_labels(folder: Path) -> None:
    truth = write_tree(folder, 12, 0, images="dcm", reports="shared")
    for kind in ("metadata", "chexpert"):
        table(folder, kind).unlink()
    prepare(folder)
    study = datasets.open_split("mimic_cxr/default", "train", folder.parent / "sets")[0]
    (true,) = (true for true in truth if true.study_id == study.study_id)
    assert list(study.views) == [""] * len(true.views)
    assert all(value != value for value in study.labels)
    assert not study.attributes


def test_dicom_files_without_splits(folder: Path) -> None:
    write_tree(folder, 12, 0, images="dcm")
    table(folder, "split").unlink()
    with pytest.raises(UserError, match="no mimic-cxr-2.0.0-split.csv.gz; download it from .*jpg"):
        prepare(folder)


def test_jpg_files_count_where_both_are_listed(folder: Path) -> None:
    write_tree(folder, 12, 0)
    records = folder / "cxr-record-list.csv"
    records.write_text("subject_id,study_id,dicom_id,path\n10,50,a,files/p10/p10/s50/a.dcm\n")
    first = rows(table(folder, "metadata"))[0]["dicom_id"]
    next(folder.rglob(f"{first}.jpg")).unlink()
    prepare(folder)
    ((number, path, reason),) = rejected(folder)
    assert number == "2" and path.endswith(f"{first}.jpg") and reason == "no such file"


@pytest.mark.parametrize("kind", ["metadata", "split", "chexpert"])
def test_a_missing_table(folder: Path, kind: str) -> None:
    write_tree(folder, 12, 0)
    table(folder, kind).unlink()
    with pytest.raises(UserError, match=f"no mimic-cxr-2.0.0-{kind}.csv.gz; download it") as error:
        prepare(folder)
    assert "\n" not in str(error.value)


def test_a_folder_without_any_table(folder: Path) -> None:
    folder.mkdir()
    (folder / "README").touch()
    with pytest.raises(UserError, match="no .*-metadata.csv.gz and no .*-split.csv.gz and no .*"):
        prepare(folder)


@pytest.mark.parametrize(
    ("kind", "column"),
    [("metadata", "ViewPosition"), ("split", "split"), ("chexpert", "Edema")],
)
def test_a_missing_column(folder: Path, kind: str, column: str) -> None:
    write_tree(folder, 12, 0)
    path = unpack(table(folder, kind))
    path.write_text(path.read_text().replace(column, "Other", 1))
    with pytest.raises(UserError, match=f"{kind}.csv: no column {column}; its columns are"):
        prepare(folder)


@pytest.mark.parametrize("kind", ["metadata", "split", "chexpert"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: b"\xef\xbb\xbf" + data, id="byte order mark"),
        pytest.param(lambda data: data.replace(b"\n", b"\r\n"), id="Windows line ends"),
        pytest.param(lambda data: data + b"\n\n", id="empty lines"),
    ],
)
def test_other_ways_of_writing_a_table(
    folder: Path, kind: str, change: Callable[[bytes], bytes]
) -> None:
    truth = write_tree(folder, 5, 0)
    path = unpack(table(folder, kind))
    path.write_bytes(change(path.read_bytes()))
    check(folder, truth)


@pytest.mark.parametrize("kind", ["metadata", "split", "chexpert"])
def test_a_packed_table_that_is_cut_short(folder: Path, kind: str) -> None:
    write_tree(folder, 12, 0)
    path = table(folder, kind)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cut short; download it again"):
        prepare(folder)


def test_a_list_of_splits_that_is_cut_short(folder: Path) -> None:
    write_tree(folder, 40, 0)
    path = unpack(table(folder, "split"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-3], lines[-3][:-3]]))
    prepare(folder)
    reasons = sorted(reason for _, _, reason in rejected(folder))
    assert reasons[:2] == ["not in the table of splits"] * 2
    assert reasons[2].startswith("unknown split ")


@pytest.mark.parametrize(
    ("kind", "column", "text", "reason"),
    [
        ("metadata", "dicom_id", "", "no dicom_id"),
        ("metadata", "subject_id", "", "no subject_id"),
        ("metadata", "study_id", "", "no study_id"),
        ("metadata", "dicom_id", "../../../../other", "dicom_id is '../../../../other'"),
        ("metadata", "subject_id", "../../x", "subject_id is '../../x'"),
        ("metadata", "dicom_id", "00000000", "not in the table of splits"),
        ("split", "split", "valid", "unknown split 'valid'"),
        ("split", "split", "", "unknown split ''"),
        ("chexpert", "Edema", "2.0", "label Edema is '2.0'; it must be 1, 0, -1 or empty"),
        ("chexpert", "Edema", "yes", "label Edema is 'yes'; it must be 1, 0, -1 or empty"),
        ("chexpert", "study_id", "", "no study_id"),
    ],
)
def test_a_bad_cell(folder: Path, kind: str, column: str, text: str, reason: str) -> None:
    write_tree(folder, 12, 0)
    rewrite(table(folder, kind), {(5, column): text})
    prepare(folder)
    ((number, path, found),) = rejected(folder)
    assert found == reason
    if kind == "chexpert":
        assert (number, path) == ("5", table(folder, kind).name)


def test_rows_that_come_twice(folder: Path) -> None:
    truth = write_tree(folder, 12, 0)
    for kind in ("metadata", "split", "chexpert"):
        path = unpack(table(folder, kind))
        path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    check(folder, truth)
    reasons = [reason for _, _, reason in rejected(folder)]
    assert len(reasons) == 2
    assert "the image is listed already, in row 2" in reasons
    assert any(reason.endswith("has labels already") for reason in reasons)


def test_an_image_in_two_splits(folder: Path) -> None:
    write_tree(folder, 12, 0)
    path = unpack(table(folder, "split"))
    image, study, patient, split = path.read_text().splitlines()[1].split(",")
    other = "train" if split == "test" else "test"
    path.write_text(f"{path.read_text()}{image},{study},{patient},{other}\n")
    prepare(folder)
    ((_, _, reason),) = rejected(folder)
    assert reason == f"unknown split '{split} and {other}'"


def test_a_patient_in_two_splits(folder: Path) -> None:
    write_tree(folder, 40, 0)
    lines = rows(table(folder, "split"))
    patients = [row["subject_id"] for row in lines]
    number = next(n for n, patient in enumerate(patients) if patients.count(patient) > 1)
    other = "train" if lines[number]["split"] == "test" else "test"
    rewrite(table(folder, "split"), {(number + 2, "split"): other})
    with pytest.raises(UserError, match=f"patient '{patients[number]}' is in "):
        prepare(folder)


@pytest.mark.parametrize("reports", ["folder", "zip"])
def test_a_missing_report(folder: Path, reports: str) -> None:
    truth = write_tree(folder, 12, 0, reports=reports)
    study = truth[5]
    name = f"p{study.patient_id[:2]}/p{study.patient_id}/s{study.study_id}.txt"
    if reports == "folder":
        (folder / "mimic-cxr-reports" / "files" / name).unlink()
    else:
        _rewrite_zip(folder, lambda member, text: None if member.endswith(name) else text)
    check(folder, [other for other in truth if other is not study])
    listed = rejected(folder)
    assert len(listed) == len(study.levels)
    assert all(path.endswith(name) and "no such file" in reason for _, path, reason in listed)


def test_a_damaged_report_in_the_zip(folder: Path) -> None:
    truth = write_tree(folder, 12, 0)
    archive = folder / "mimic-cxr-reports.zip"
    data = archive.read_bytes()
    place = data.index(truth[5].report.encode()[:300])
    archive.write_bytes(data[: place + 50] + b"!!!" + data[place + 53 :])
    check(folder, [study for study in truth if study is not truth[5]])
    assert all("damaged in mimic-cxr-reports.zip" in reason for _, _, reason in rejected(folder))


@pytest.mark.parametrize("what", ["cut short", "empty", "no reports"])
def test_a_zip_that_cannot_be_used(folder: Path, what: str) -> None:
    write_tree(folder, 12, 0)
    archive = folder / "mimic-cxr-reports.zip"
    if what == "no reports":
        _rewrite_zip(folder, lambda member, text: None)
    else:
        archive.write_bytes(archive.read_bytes()[: 500 if what == "cut short" else 0])
    with pytest.raises(UserError, match="mimic-cxr-reports.zip: .*; download it again"):
        prepare(folder)


@pytest.mark.parametrize("damage", [None, b"", b"no image"])
def test_a_bad_image(folder: Path, damage: bytes | None) -> None:
    write_tree(folder, 12, 0)
    path = sorted(folder.rglob("*.jpg"))[3]
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    prepare(folder)
    ((_, name, reason),) = rejected(folder)
    assert name == str(path.relative_to(folder))
    assert reason == "no such file" if damage is None else "\n" not in reason


def test_an_unknown_policy(folder: Path) -> None:
    write_tree(folder, 5, 0)
    with pytest.raises(UserError, match="'maybe' is no policy for uncertain labels"):
        build.build(
            "mimic_cxr/x",
            manual_dir=folder,
            data_dir=folder.parent / "sets",
            options={"uncertain": "maybe"},
        )


def _rewrite_zip(folder: Path, change: Callable[[str, str], str | None]) -> None:
    archive = folder / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(archive) as file:
        texts = {name: file.read(name).decode() for name in file.namelist()}
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in texts.items():
            if (new := change(name, text)) is not None:
                file.writestr(name, new)
