"""The TFDS builder `mimic_cxr`: MIMIC-CXR-JPG or MIMIC-CXR, with the reports."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow_datasets as tfds

from medclip_jax.data.builders.mimic_cxr import tables
from medclip_jax.data.builders.mimic_cxr.report_files import FindReport, open_reports
from medclip_jax.data.builders.row_builder import RowBuilder, RowConfig, option
from medclip_jax.data.builders.rows import Rejection, Row, Source
from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS, POLICY_HELP, uncertain_values

_UNKNOWN = (math.nan,) * len(CHEXPERT_LABELS)
_BLANK = {"absent": 0.0, "unknown": math.nan}
_NO_REPORTS = (
    "warning: no reports are there, so images and labels alone are built; put "
    "mimic-cxr-reports.zip of MIMIC-CXR beside the tables to have them"
)
_SPLITS = {"train": "train", "validate": "validation", "test": "test"}


@dataclasses.dataclass(eq=False, kw_only=True)
class MimicCxrConfig(RowConfig):
    """The options of `mimic_cxr`."""

    labels: str = dataclasses.field(
        default="chexpert",
        metadata=option("labeler whose labels are taken", ["chexpert", "negbio"]),
    )
    uncertain: str = dataclasses.field(default="ignore", metadata=option(POLICY_HELP))
    blank: str = dataclasses.field(
        default="absent",
        metadata=option("what a label that the report does not mention is", list(_BLANK)),
    )


class Builder(RowBuilder):
    """A study's images and its report; studies without a row of labels have unknown ones."""

    DESCRIPTION = """
    377,110 chest radiographs of 227,835 studies with their reports, in the official split
    (validate is called validation). Labels are those of CheXpert's or NegBio's labeler; the 8
    studies without any have unknown ones. Of the 54 studies whose reports no rule can split, the
    text that the authors' tables point to is stored as the impression. The attributes study_date
    and study_time, shifted by the authors, order the studies of a patient.
    """
    LICENCE = (
        "PhysioNet Credentialed Health Data License 1.5.0: no redistribution, and no sharing with "
        "services of third parties"
    )
    HOMEPAGE = "https://physionet.org/content/mimic-cxr-jpg/"
    CITATION = (
        "Johnson et al., MIMIC-CXR, a de-identified publicly available database of chest "
        "radiographs with free-text reports, Scientific Data 2019, "
        "https://doi.org/10.1038/s41597-019-0322-0; Johnson et al., MIMIC-CXR-JPG, 2019, "
        "https://arxiv.org/abs/1901.07042"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    With an account on PhysioNet that has signed the data use agreement, put into the folder, from
    https://physionet.org/content/mimic-cxr-jpg/ (2.0.0 or 2.1.0): mimic-cxr-2.0.0-metadata.csv.gz,
    mimic-cxr-2.0.0-split.csv.gz, mimic-cxr-2.0.0-chexpert.csv.gz (or -negbio.csv.gz, for
    labels=negbio) and the folder files; from https://physionet.org/content/mimic-cxr/:
    mimic-cxr-reports.zip, or the folder mimic-cxr-reports that it unpacks to; without it, images
    and labels alone are built. For DICOM images, take cxr-record-list.csv.gz and the folder files
    of mimic-cxr instead of the JPG files, with the tables above; of these only the split is needed.
    """
    LABEL_NAMES = CHEXPERT_LABELS
    PUBLISHED = {
        "patients": 65379,
        "studies": 227835,
        "train studies": 222758,
        "validation studies": 1808,
        "test studies": 3269,
        "images": 377110,
        "train images": 368960,
        "validation images": 2991,
        "test images": 5159,
    }
    BUILDER_CONFIGS = [
        MimicCxrConfig(name="default", description="CheXpert's labels, uncertain ones unknown."),
        MimicCxrConfig(name="negbio", description="NegBio's labels.", labels="negbio"),
        MimicCxrConfig(name="zeros", description="Uncertain is absent.", uncertain="zeros"),
        MimicCxrConfig(name="ones", description="Uncertain is present.", uncertain="ones"),
        MimicCxrConfig(
            name="mixed", description="Uncertain by label, as GLoRIA does.", uncertain="mixed"
        ),
        MimicCxrConfig(
            name="mentioned", description="Unmentioned labels are unknown.", blank="unknown"
        ),
        MimicCxrConfig(name="frontal", description="AP and PA images.", views="frontal"),
    ]
    builder_config: MimicCxrConfig

    def read_source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """The rows of the metadata, or of the DICOM release's list of records."""
        folder = Path(dl_manager.manual_dir)
        config = self.builder_config
        uncertain = uncertain_values(config.uncertain)
        release = tables.find_release(folder, config.labels)
        images = tables.read_images(folder, release)
        labels, rejected = (
            tables.read_labels(release.labels, uncertain, _BLANK[config.blank])
            if release.labels
            else ({}, [])
        )
        splits = tables.read_splits(release.split)
        studies = (
            (row.cells["subject_id"], row.cells["study_id"])
            for row in images.rows
            if not tables.id_problem(row.cells)
        )
        with open_reports(folder, studies) as find_report:
            rows = _rows(images, splits, labels, find_report)
            source = self.checked(folder, [*rows, *rejected])
        has_reports = any(row.text or row.text_path for study in source.studies for row in study)
        return source if has_reports else source._replace(notes=[_NO_REPORTS])


def _rows(
    images: tables.ImageList,
    splits: Mapping[str, str],
    labels: Mapping[str, tuple[float, ...]],
    find_report: FindReport,
) -> Iterator[Row | Rejection]:
    for row in images.rows:
        cells = row.cells
        path = tables.image_path(cells, images.suffix)
        problem = row.problem or tables.id_problem(cells) or _split_problem(cells, splits)
        if problem:
            yield Rejection(row.number, path, problem)
            continue
        report = find_report(cells["subject_id"], cells["study_id"])
        if report.problem:
            yield Rejection(row.number, report.path, report.problem)
            continue
        yield Row(
            number=row.number,
            split=_SPLITS[splits[cells["dicom_id"]]],
            patient_id=cells["subject_id"],
            study_id=cells["study_id"],
            image_path=path,
            text=report.text,
            text_path=report.path,
            view=cells.get("ViewPosition", "").upper(),
            labels=labels.get(cells["study_id"], _UNKNOWN),
            attributes={
                name: cells[column]
                for name, column in tables.ATTRIBUTES.items()
                if cells.get(column)
            },
        )


def _split_problem(cells: Mapping[str, str], splits: Mapping[str, str]) -> str:
    split = splits.get(cells["dicom_id"])
    if split is None:
        return "not in the table of splits"
    return "" if split in _SPLITS else f"unknown split {split!r}"
