"""The `mimic_cxr` builder, on made-up trees in the layouts of both releases."""

import csv
import gzip
import math
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from support.builder_case import BuilderCase
from support.mimic_cxr_tree import (
    LABELS,
    MEANING,
    write_csv,
    write_tree,
)
from support.source_tree import TrueStudy, assert_prepared, read_back, read_rejected

from medclip_jax.data import build
from medclip_jax.data.builders.mimic_cxr.mimic_cxr_dataset_builder import Builder
from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS
from medclip_jax.data.studies import Study


class TestMimicCxr(BuilderCase):
    __test__ = True
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["default"]
    SPLITS = {"train": 8, "validation": 3, "test": 1}

    @classmethod
    def write_source(cls, folder: Path) -> None:
        write_tree(folder, 12, 1)


def prepare(folder: Path, config: str = "default", **arguments: object) -> str:
    return build.build(
        f"mimic_cxr/{config}", manual_dir=folder, data_dir=folder.parent / "sets", **arguments
    )


def studies(folder: Path, config: str = "default") -> dict[str, Study]:
    found = read_back(f"mimic_cxr/{config}", folder.parent / "sets")
    return {study.study_id: study for _, study in found}


def rejected(folder: Path) -> list[list[str]]:
    rows = read_rejected("mimic_cxr/default", folder.parent / "sets")
    return [list(row.values()) for row in rows]


def check(folder: Path, truth: list[TrueStudy], config: str = "default") -> None:
    prepare(folder, config)
    assert_prepared(f"mimic_cxr/{config}", folder.parent / "sets", truth)


def test_five_hundred_studies(tmp_path: Path) -> None:
    truth = write_tree(tmp_path / "mimic", 500, 0)
    check(tmp_path / "mimic", truth)
    assert rejected(tmp_path / "mimic") == []


def test_totals_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    write_tree(tmp_path / "mimic", 12, 0)
    lines = prepare(tmp_path / "mimic").splitlines()
    assert "warning: studies: 12 found, 227,823 fewer than the 227,835 published" in lines
    assert "warning: validation images: " in "\n".join(lines)


@pytest.mark.parametrize(
    ("images", "reports"),
    [("jpg", "folder"), ("jpg", "none"), ("jpg", "shared"), ("dcm", "shared"), ("dcm", "zip")],
)
def test_layouts(tmp_path: Path, images: str, reports: str) -> None:
    truth = write_tree(tmp_path / "mimic", 20, 2, images=images, reports=reports)
    check(tmp_path / "mimic", truth)


def test_missing_reports_are_said_first(tmp_path: Path, capsys) -> None:
    write_tree(tmp_path / "mimic", 12, 2, reports="none")
    summary = prepare(tmp_path / "mimic")
    line = "warning: no reports are there, so images and labels alone are built"
    assert line in capsys.readouterr().err.splitlines()[0] and line in summary


def test_reports_without_the_folder_files(tmp_path: Path) -> None:
    folder = tmp_path / "mimic"
    truth = write_tree(folder, 20, 2, reports="folder")
    (folder / "mimic-cxr-reports" / "files").rename(folder / "reports")
    (folder / "mimic-cxr-reports").rmdir()
    (folder / "reports").rename(folder / "mimic-cxr-reports")
    check(folder, truth)


def test_a_zip_whose_names_begin_with_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "mimic"
    truth = write_tree(folder, 20, 2, reports="folder")
    with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w") as file:
        for path in sorted(folder.rglob("s*.txt")):
            file.write(path, path.relative_to(folder))
    shutil.rmtree(folder / "mimic-cxr-reports")
    check(folder, truth)


def test_windows_line_ends_do_not_move_a_range_of_characters(tmp_path: Path) -> None:
    folder = tmp_path / "mimic"
    write_tree(folder, 12, 2, reports="folder")
    (report,) = folder.rglob("s56579911.txt")
    text = report.read_text()
    report.write_bytes(text.replace("\n", "\r\n").encode())
    prepare(folder)
    assert studies(folder)["56579911"].report == f" IMPRESSION:\n {text[59:218].strip()}\n"


@pytest.mark.parametrize(
    ("config", "labeler", "cell", "value"),
    [
        ("negbio", "negbio", "-1.0", math.nan),
        ("zeros", "chexpert", "-1.0", 0.0),
        ("ones", "chexpert", "-1.0", 1.0),
        ("mentioned", "chexpert", "", math.nan),
    ],
)
def test_labels(tmp_path: Path, config: str, labeler: str, cell: str, value: float) -> None:
    meaning = {**MEANING, cell: value}
    truth = write_tree(tmp_path / "mimic", 30, 3, labeler=labeler, meaning=meaning)
    check(tmp_path / "mimic", truth, config)


@pytest.mark.parametrize(
    ("config", "options", "policy"),
    [
        (
            "mixed",
            {},
            {
                "Atelectasis": 1,
                "Edema": 1,
                "Pleural Effusion": 1,
                "Cardiomegaly": 0,
                "Consolidation": 0,
            },
        ),
        ("mine", {"uncertain": "Fracture=ones,Edema=zeros"}, {"Fracture": 1, "Edema": 0}),
    ],
)
def test_uncertain_by_label(
    tmp_path: Path, config: str, options: Mapping[str, str], policy: Mapping[str, float]
) -> None:
    folder = tmp_path / "mimic"
    truth = write_tree(folder, 30, 3, meaning={**MEANING, "-1.0": -1.0})
    prepare(folder, config, options=options)
    found = studies(folder, config)
    for study in truth:
        expected = [
            policy.get(name, math.nan) if value == -1 else value
            for name, value in zip(CHEXPERT_LABELS, study.labels, strict=True)
        ]
        np.testing.assert_array_equal(found[study.study_id].labels, np.float32(expected))


def test_labels_are_found_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "mimic"
    truth = write_tree(folder, 12, 3)
    path = folder / "mimic-cxr-2.0.0-chexpert.csv.gz"
    assert LABELS[2:] != list(CHEXPERT_LABELS)
    rows = list(csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines()))
    extra = [["extra", *reversed(rows[0])], *(["x", *reversed(row)] for row in rows[1:])]
    write_csv(path, extra[0], extra[1:])
    check(folder, truth)


def test_frontal_images_only(tmp_path: Path) -> None:
    folder = tmp_path / "mimic"
    truth = write_tree(folder, 40, 4)
    prepare(folder, "frontal")
    found = studies(folder, "frontal")
    frontal = {s.study_id: [v for v in s.views if v in ("AP", "PA")] for s in truth}
    assert {k: list(s.views) for k, s in found.items()} == {k: v for k, v in frontal.items() if v}


def test_texts_without_images(tmp_path: Path) -> None:
    folder = tmp_path / "mimic"
    truth = write_tree(folder, 40, 4)
    shutil.rmtree(folder / "files")
    prepare(folder, "texts", options={"views": "none"}, max_rejected=0.1)
    found = {study: stored.report for study, stored in studies(folder, "texts").items()}
    assert found == {s.study_id: s.report for s in truth if s.report}
