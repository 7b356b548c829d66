"""The forms in which CheXpert is handed out besides the small set: all give the same studies."""

import dataclasses
import math
import re
import shutil
from pathlib import Path

import pytest
from support import chexpert_tree as tree
from support.chexpert_tree import MadeSet, true_study
from support.source_tree import assert_prepared

from medclip_jax.data.build import build
from medclip_jax.errors import UserError


@pytest.mark.parametrize("inside", ["", "{name}", "CheXpert-v1.0"])
@pytest.mark.parametrize("top", ["", "chexpertchestxrays-u20210408"])
def test_the_full_download_in_batches(tmp_path: Path, top: str, inside: str) -> None:
    studies = [s for s in tree.make_studies(20, seed=3) if s.folder != "test"]
    tree.write_batches(tmp_path / "manual" / top, studies, inside)
    tree.write_plus(tmp_path / "manual", studies)
    build("chexpert", manual_dir=tmp_path / "manual", data_dir=tmp_path / "data")
    assert_prepared("chexpert/default", tmp_path / "data", [true_study(s) for s in studies])


def test_a_batch_that_is_missing(tmp_path: Path) -> None:
    tree.write_batches(tmp_path / "manual", tree.make_studies(20, seed=3))
    shutil.rmtree(tmp_path / "manual" / tree.BATCHES[2])
    with pytest.raises(UserError, match=r"rows were rejected .*no such file") as error:
        build("chexpert", manual_dir=tmp_path / "manual", data_dir=tmp_path / "data")
    assert re.search(r": CheXpert-v1.0 batch 3 \(train 2\)/patient\d+/study", str(error.value))


@pytest.mark.parametrize("top", ["", "chexpertchestxrays-u20210408"])
def test_several_batches_that_are_missing(tmp_path: Path, top: str) -> None:
    tree.write_batches(tmp_path / "manual" / top, tree.make_studies(20, seed=3))
    shutil.rmtree(tmp_path / "manual" / top / tree.BATCHES[1])
    shutil.rmtree(tmp_path / "manual" / top / tree.BATCHES[3])
    where = f"{top}/" if top else ""
    with pytest.raises(
        UserError,
        match=rf": {where}CheXpert-v1.0 batch 2 \(train 1\) or batch 4 \(train 3\)/patient",
    ):
        build("chexpert", manual_dir=tmp_path / "manual", data_dir=tmp_path / "data")
    shutil.rmtree(tmp_path / "manual" / top / tree.BATCHES[2])
    with pytest.raises(
        UserError,
        match=rf"training images are missing: put {where}CheXpert-v1.0 batch 2 \(train 1\) or "
        r"batch 3 \(train 2\) or batch 4 \(train 3\) there",
    ):
        build("chexpert", manual_dir=tmp_path / "manual", data_dir=tmp_path / "data")


def test_the_table_of_chexpert_plus_without_images(tmp_path: Path) -> None:
    tree.write_plus(tmp_path / "manual", tree.make_studies(20, seed=4), with_others=False)
    with pytest.raises(
        UserError, match="without images: put the folder PNG or DICOM of CheXpert P"
    ):
        build("chexpert", manual_dir=tmp_path / "manual", data_dir=tmp_path / "data")


def test_batches_that_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / f"{tree.BATCHES[0]}.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"unpacked \(CheXpert-v1.0 batch 1 .validate & csv..zip"):
        build("chexpert", manual_dir=tmp_path, data_dir=tmp_path / "data")


@pytest.mark.parametrize(
    ("top", "suffix"), [("PNG/PNG", ".png"), ("PNG", ".png"), ("DICOM", ".dcm"), (".", ".jpg")]
)
def test_chexpert_plus_alone(tmp_path: Path, top: str, suffix: str) -> None:
    studies = [s for s in tree.make_studies(20, seed=4) if s.in_plus]
    tree.write_plus(tmp_path / "manual", studies, with_others=False)
    tree.write_plus_images(tmp_path / "manual", studies, top, suffix)
    summary = build("chexpert", manual_dir=tmp_path / "manual", data_dir=tmp_path / "data")
    assert "CheXpert's labels are not among the files of CheXpert Plus" in summary
    unknown = [math.nan] * len(tree.LABELS)
    truth = [dataclasses.replace(true_study(s), labels=unknown) for s in studies]
    assert_prepared("chexpert/default", tmp_path / "data", truth)


def test_chexpert_plus_alone_with_its_labels(tmp_path: Path) -> None:
    studies = [s for s in tree.make_studies(20, seed=4) if s.in_plus and s.folder == "train"]
    made = MadeSet(tmp_path / "manual", tmp_path / "data", studies)
    tree.write_plus(made.manual, studies, with_others=False)
    tree.write_plus_images(made.manual, studies, "PNG", ".png")
    assert "warning: CheXpert's labels" not in made.build(labels="chexbert_report")
    truth = [true_study(study, labels="report") for study in studies]
    assert_prepared("chexpert/made", made.data, truth)
    with pytest.raises(UserError, match="class lists are drawn by CheXpert's labels"):
        build("chexpert/class_lists", manual_dir=made.manual, data_dir=made.data)


def test_the_texts_of_chexpert_plus_alone(tmp_path: Path) -> None:
    studies = [s for s in tree.make_studies(20, seed=4) if s.in_plus]
    made = MadeSet(tmp_path / "manual", tmp_path / "data", studies)
    tree.write_plus(made.manual, studies, with_others=False)
    made.build(views="none")
    expected = {study.report for study in studies if study.folder == "train"}
    assert {study.report for study in made.open("train")} == expected
