"""The `openi` builder: on a small tree in the collection's layout, and on the real archive."""

import functools
import tarfile
import threading
from collections.abc import Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.builder_case import BuilderCase
from support.real_data import real
from support.source_tree import read_back, read_level, read_rejected, write_image

from medclip_jax.data import build
from medclip_jax.data.builders.openi import openi_dataset_builder
from medclip_jax.data.builders.openi.mesh_labels import mesh_labels
from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS
from medclip_jax.data.images import decode_gray
from medclip_jax.data.reports import split_sections
from medclip_jax.data.studies import Study
from medclip_jax.errors import UserError

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
<uId id="CXR{number}"/>
<MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="INDICATION">Cough, XXXX &amp; fever</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation>
<MeSH>{mesh}</MeSH>
{images}
</eCitation>
"""


def write_report(
    folder: Path,
    number: int,
    images: Sequence[str],
    findings: str = "Clear.",
    impression: str = "",
    mesh: Sequence[str] = ("normal",),
) -> None:
    text = REPORT.format(
        number=number,
        findings=findings,
        impression=impression,
        mesh="".join(f"<major>{term}</major>" for term in mesh),
        images="".join(f'<parentImage id="{name}"/>' for name in images),
    )
    (folder / f"{number}.xml").write_text(text)


class TestOpenI(BuilderCase):
    __test__ = True
    DATASET_CLASS = openi_dataset_builder.Builder
    SPLITS = {"train": 10, "test": 2}

    @classmethod
    def write_source(cls, folder: Path) -> None:
        write_tree(folder)


def write_tree(folder: Path, num_reports: int = 12) -> None:
    """Reports 1, 2, …, each with a frontal and a lateral image."""
    (folder / "ecgen-radiology").mkdir(parents=True)
    for number in range(1, num_reports + 1):
        names = [f"CXR{number}_IM-0001-{view}001" for view in (1, 2)]
        write_report(folder / "ecgen-radiology", number, names, findings=f"Finding {number}.")
        for view, name in enumerate(names):
            write_image(folder / "NLMCXR_png" / f"{name}.png", 10 * number + view * 100)


def build_openi(folder: Path, name: str = "openi", **options: object) -> str:
    return build.build(name, manual_dir=folder, data_dir=folder / "sets", **options)


def studies(folder: Path, name: str = "openi") -> dict[str, Study]:
    return {study.study_id: study for _, study in read_back(name, folder / "sets")}


def test_studies_hold_their_images_and_report(tmp_path: Path) -> None:
    write_tree(tmp_path)
    mesh = ["Opacity/lung/base/left", "Cardiomegaly/mild"]
    write_report(tmp_path / "ecgen-radiology", 13, [], "A.", "B.", mesh)
    assert "studies: 13 found, 3,942 fewer than the 3,955 published" in build_openi(tmp_path)
    found = studies(tmp_path)
    assert len(found) == 13
    for number in range(1, 13):
        study = found[f"CXR{number}"]
        levels = [read_level(image) for image in study.images]
        np.testing.assert_allclose(levels, [10 * number, 10 * number + 100], atol=2)
        assert study.report == (
            f"COMPARISON: None.\nINDICATION: Cough, XXXX & fever\nFINDINGS: Finding {number}."
        )
        assert study.labels.tolist() == [1.0] + [0.0] * 13
        assert study.attributes == {"mesh": "normal"}
    text_only = found["CXR13"]
    assert list(text_only.images) == [] and text_only.report.endswith("IMPRESSION: B.")
    present = {CHEXPERT_LABELS[i] for i in np.flatnonzero(text_only.labels == 1)}
    assert present == {"Lung Opacity", "Cardiomegaly"}


def test_equal_texts_are_marked(tmp_path: Path) -> None:
    reports = tmp_path / "ecgen-radiology"
    reports.mkdir()
    write_report(reports, 2, [], "The heart is normal.")
    write_report(reports, 10, [], "The  heart is NORMAL")
    write_report(reports, 11, [], "The heart is large.")
    build_openi(tmp_path, "openi/texts", options={"views": "none"})
    same = {
        k: v.attributes.get("same_text_as") for k, v in studies(tmp_path, "openi/texts").items()
    }
    assert same == {"CXR2": None, "CXR10": "CXR2", "CXR11": None}


def test_archives_are_unpacked(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree")
    for folder, name in (("ecgen-radiology", "NLMCXR_reports"), ("NLMCXR_png", "NLMCXR_png")):
        with tarfile.open(tmp_path / f"{name}.tgz", "w:gz") as archive:
            # The images' archive has no folder of its own.
            archive.add(tmp_path / "tree" / folder, folder if folder != name else "")
    build_openi(tmp_path)
    assert len(studies(tmp_path)) == 12


def test_without_a_manual_folder_the_archives_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "tree")
    (tmp_path / "server").mkdir()
    for folder, name in (("ecgen-radiology", "NLMCXR_reports"), ("NLMCXR_png", "NLMCXR_png")):
        with tarfile.open(tmp_path / "server" / f"{name}.tgz", "w:gz") as archive:
            archive.add(tmp_path / "tree" / folder, folder)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "server"))
    with ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_address[1]}"
        monkeypatch.setattr(openi_dataset_builder, "_URL", address)
        build.build("openi", data_dir=tmp_path / "sets")
        server.shutdown()
    assert len(studies(tmp_path)) == 12


def test_a_damaged_archive_is_one_line(tmp_path: Path) -> None:
    write_tree(tmp_path)
    with tarfile.open(tmp_path / "NLMCXR_reports.tgz", "w:gz") as archive:
        archive.add(tmp_path / "ecgen-radiology", "ecgen-radiology")
    whole = (tmp_path / "NLMCXR_reports.tgz").read_bytes()
    (tmp_path / "NLMCXR_reports.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"NLMCXR_reports.tgz: damaged or cut short; download it"):
        build_openi(tmp_path)


def test_what_cannot_be_used_is_listed(tmp_path: Path) -> None:
    write_tree(tmp_path)
    reports, png = tmp_path / "ecgen-radiology", tmp_path / "NLMCXR_png"
    (reports / "13.xml").write_text("<eCitation><uId id='CXR13'/>")
    (reports / "14.xml").write_text("<!DOCTYPE x [<!ENTITY a 'b'>]><eCitation/>")
    write_report(reports, 15, ["../../etc/passwd"])
    (png / "CXR1_IM-0001-1001.png").unlink()
    (png / "CXR2_IM-0001-1001.png").write_bytes(b"")
    write_image(png / "CXR99_IM-0001-1001.png", 7)
    build_openi(tmp_path, max_rejected=0.5)
    rejected = read_rejected("openi/default", tmp_path / "sets")
    assert {row["path"]: row["reason"].split(" (")[0] for row in rejected} == {
        "CXR1_IM-0001-1001.png": "no such file",
        "CXR2_IM-0001-1001.png": "not a readable image",
        "CXR99_IM-0001-1001.png": "no report names this image",
        "ecgen-radiology/13.xml": "not XML",
        "ecgen-radiology/14.xml": "declares a document type or entities, which no report does",
        "ecgen-radiology/15.xml": "names an image '../../etc/passwd'",
    }
    found = studies(tmp_path)
    assert [len(found[f"CXR{n}"].images) for n in (1, 2, 3)] == [1, 1, 2]


def test_labels_and_views_from_files(tmp_path: Path) -> None:
    write_tree(tmp_path)
    header = ["uid", *reversed(CHEXPERT_LABELS)]
    rows = [",".join(header), ",".join(["3", *["1.0", "", "-1"], *["0"] * 11])]
    (tmp_path / "negbio.csv").write_text("\n".join(rows))
    views = ["uid,filename,projection"]
    views += [f"{n},{n}_IM-0001-1001.dcm.png,Frontal" for n in range(1, 13)]
    views += [f"{n},{n}_IM-0001-2001.dcm.png,Lateral" for n in range(1, 13)]
    (tmp_path / "indiana_projections.csv").write_text("\n".join(views))
    options = {
        "labels": str(tmp_path / "negbio.csv"),
        "views_file": str(tmp_path / "indiana_projections.csv"),
        "views": "frontal",
    }
    build_openi(tmp_path, "openi/frontal", options=options)
    found = studies(tmp_path, "openi/frontal")
    assert {(len(s.images), *s.views) for s in found.values()} == {(1, "FRONTAL")}
    third = dict(zip(CHEXPERT_LABELS, found["CXR3"].labels.tolist(), strict=True))
    assert third["Support Devices"] == 1 and third["Fracture"] == 0
    assert np.isnan(third["Pleural Other"]) and third["No Finding"] == 0
    assert np.isnan(found["CXR4"].labels).all()


@pytest.mark.parametrize(
    ("term", "label"),
    [
        ("normal", "No Finding"),
        ("Mediastinum/enlarged", "Enlarged Cardiomediastinum"),
        ("Cardiac Shadow/enlarged/mild", "Cardiomegaly"),
        ("Airspace Disease/lung/base/left", "Lung Opacity"),
        ("Nodule/lung/apex/right", "Lung Lesion"),
        ("Pulmonary Congestion", "Edema"),
        ("Hydropneumothorax/left", "Pneumothorax"),
        ("Hydropneumothorax/left", "Pleural Effusion"),
        ("Thickening/pleura/apex/bilateral", "Pleural Other"),
        ("Catheters, Indwelling/right", "Support Devices"),
    ],
)
def test_mesh_terms(term: str, label: str) -> None:
    labels = dict(zip(CHEXPERT_LABELS, mesh_labels([term]), strict=True))
    assert labels[label] == 1


@pytest.mark.parametrize("terms", [[], ["No Indexing"]])
def test_reports_without_terms_have_unknown_labels(terms: list[str]) -> None:
    assert np.isnan(mesh_labels(terms)).all()


def test_other_terms_are_no_label() -> None:
    terms = ["Calcified Granuloma/lung/hilum", "Scoliosis", "Density/retrocardiac"]
    assert set(mesh_labels(terms)) == {0.0}


def test_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with pytest.raises(UserError, match=r"no reports; one of these is needed: NLMCXR_reports.tgz"):
        build_openi(tmp_path)


def test_air_is_dark_in_the_real_images() -> None:
    paths = sorted((real("openi") / "NLMCXR_png").glob("*.png"))
    assert len(paths) == 4
    for path in paths:
        image = cv2.resize(decode_gray(path), (200, 200), interpolation=cv2.INTER_AREA)
        corner = min(image[:12, :12].mean(), image[:12, -12:].mean())
        assert image[80:160, 80:120].mean() > corner + 60, path.name


def test_the_real_collection(tmp_path: Path) -> None:
    """All real reports as texts, and the four images that are there."""
    source = real("openi")
    options = {"views": "none"}
    build.build("openi/texts", manual_dir=source, data_dir=tmp_path / "sets", options=options)
    texts = studies(tmp_path, "openi/texts").values()
    # Demner-Fushman et al. give 3,955 reports; 28 have neither findings nor impression.
    sections = [{part.name for part in split_sections(study.report)} for study in texts]
    counts = [
        sum("findings" in names for names in sections),
        sum("impression" in names for names in sections),
        sum({"findings", "impression"} <= names for names in sections),
    ]
    assert (len(texts), *counts) == (3927, 3425, 3921, 3419)
    build.build("openi", manual_dir=source, data_dir=tmp_path / "sets", max_rejected=1.0)
    images = {k: len(s.images) for k, s in studies(tmp_path).items() if s.images}
    assert images == {"CXR1000": 3, "CXR1001": 1}
