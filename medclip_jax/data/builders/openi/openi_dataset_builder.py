"""The TFDS builder `openi`: chest radiographs and reports of the Indiana University hospitals."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from medclip_jax.data import reports
from medclip_jax.data.builders.archives import find, unpack
from medclip_jax.data.builders.openi.mesh_labels import mesh_labels
from medclip_jax.data.builders.openi.report_xml import OpenIReport, parse_report
from medclip_jax.data.builders.row_builder import RowBuilder, RowConfig, option
from medclip_jax.data.builders.rows import Rejection, Row, Source, hash_split
from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS, label_values, uncertain_values
from medclip_jax.data.table import read_table
from medclip_jax.errors import UserError

_URL = "https://openi.nlm.nih.gov/imgs/collections"
# What may lie in the manual folder; the archives come first.
_FILES = {
    "images": ("NLMCXR_png.tgz", "NLMCXR_png", "images"),
    "reports": ("NLMCXR_reports.tgz", "NLMCXR_reports", "ecgen-radiology"),
}
_UNKNOWN = (math.nan,) * len(CHEXPERT_LABELS)


@dataclasses.dataclass(eq=False, kw_only=True)
class OpenIConfig(RowConfig):
    """The options of `openi`."""

    labels: str = dataclasses.field(
        default="",
        metadata=option("CSV of labels with a column uid, such as NegBio's; default: from MeSH"),
    )
    views_file: str = dataclasses.field(
        default="",
        metadata=option("indiana_projections.csv (from Kaggle), since the reports name no views"),
    )


class Builder(RowBuilder):
    """One report and its images are one study; reports without image are kept, as texts."""

    DESCRIPTION = """
    3,955 reports of chest radiographs, each of another patient, with 7,470 images, frontal and
    lateral. Labels are CheXpert's observations, from the MeSH terms that readers gave. There is no
    official split: 70 % train, 10 % validation, 20 % test, by a hash of the patient.
    """
    LICENCE = "CC BY-NC-ND 4.0"
    HOMEPAGE = "https://openi.nlm.nih.gov/faq#collection"
    CITATION = (
        "Demner-Fushman et al., Preparing a collection of radiology examinations for distribution "
        "and retrieval, JAMIA 2016, https://doi.org/10.1093/jamia/ocv080"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    Without --manual-dir it is downloaded from {_URL}. With it, the folder has NLMCXR_png.tgz and
    NLMCXR_reports.tgz, or the folders NLMCXR_png and ecgen-radiology that they unpack to.
    """
    DOWNLOADS = True
    LABEL_NAMES = CHEXPERT_LABELS
    PUBLISHED = {"studies": 3955, "images": 7470}
    BUILDER_CONFIGS = [OpenIConfig(name="default", description="All of it.")]
    builder_config: OpenIConfig

    def read_source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """The rows of the XML reports, one for each image that a report names."""
        folders = self._folders(dl_manager)
        files = sorted(folders["reports"].rglob("*.xml"), key=_number)
        if not files:
            raise UserError(f"{folders['reports']}: no XML reports")
        images = _ImageFolder(folders["images"])
        labels = _read_labels(self.builder_config.labels)
        views = _read_views(self.builder_config.views_file)
        rows = list(_rows(files, images, labels, views))
        named = {row.image_path for row in rows if isinstance(row, Row)}
        orphans = [
            Rejection("", name, "no report names this image") for name in images.names - named
        ]
        return self.checked(images.root, [*rows, *orphans])

    def _folders(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Path]:
        into = Path(dl_manager.download_dir) / "openi"
        try:
            manual = Path(dl_manager.manual_dir)
        except AssertionError:  # not given
            archives = dl_manager.download(
                {kind: f"{_URL}/{names[0]}" for kind, names in _FILES.items()}
            )
            return {kind: unpack(Path(path), into) for kind, path in archives.items()}
        reports = find(manual, _FILES["reports"], "reports", into)
        if self.builder_config.views == "none":
            return {"images": reports, "reports": reports}
        return {"images": find(manual, _FILES["images"], "images", into), "reports": reports}


class _ImageFolder:
    """The images by their stem, wherever below the folder they lie."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths = {path.stem: str(path.relative_to(root)) for path in root.rglob("*.png")}
        self.names = set(self._paths.values())

    def path(self, stem: str) -> str:
        """The image's path; where it is not there, the one that it would have."""
        return self._paths.get(stem, f"{stem}.png")


def _number(path: Path) -> tuple[int, str]:
    return (len(path.stem), path.stem)  # 2.xml before 10.xml


def _rows(
    files: Sequence[Path],
    images: _ImageFolder,
    labels: Mapping[str, tuple[float, ...]] | None,
    views: Mapping[str, str],
) -> Iterator[Row | Rejection]:
    first_with: dict[str, str] = {}
    for path in files:
        name = f"{path.parent.name}/{path.name}"
        try:
            report = parse_report(path.read_bytes())
        except UserError as error:
            yield Rejection("", name, str(error))
            continue
        text = reports.normalize_sentence(reports.select_sections(report.text))
        earlier = first_with.setdefault(text, report.uid) if text else report.uid
        study = Row(
            number=name,
            split=hash_split(report.uid, validation=0.1, test=0.2),
            patient_id=report.uid,
            study_id=report.uid,
            text=report.text,
            labels=mesh_labels(report.mesh) if labels is None else labels.get(report.uid, _UNKNOWN),
            attributes=_attributes(report) | {"same_text_as": earlier * (earlier != report.uid)},
        )
        if not report.image_names:
            yield study
        for stem in report.image_names:
            yield study._replace(image_path=images.path(stem), view=views.get(stem, ""))


def _attributes(report: OpenIReport) -> dict[str, str]:
    return {"mesh": "|".join(report.mesh), "automatic_mesh": "|".join(report.automatic_mesh)}


def _read_labels(path: str) -> dict[str, tuple[float, ...]] | None:
    """Labels by uid from a table with the columns uid ("CXR10" or "10") and CheXpert's names."""
    if not path:
        return None
    uncertain = uncertain_values("ignore")
    labels = {}
    for row in read_table(Path(path), ["uid", *CHEXPERT_LABELS]).rows:
        values = label_values(row.cells, uncertain, blank=0.0)
        if isinstance(values, str):
            raise UserError(f"{path}, row {row.number}: {values}")
        labels[f"CXR{row.cells['uid'].removeprefix('CXR')}"] = values
    return labels


def _read_views(path: str) -> dict[str, str]:
    """Views by image stem from a table with the columns uid, filename and projection."""
    if not path:
        return {}
    views = {}
    for row in read_table(Path(path), ["uid", "filename", "projection"]).rows:
        # "10_IM-0002-1001.dcm.png" is the file CXR10_IM-0002-1001.png of the archive.
        stem = f"CXR{row.cells['filename'].removesuffix('.png').removesuffix('.dcm')}"
        views[stem] = row.cells["projection"].upper()
    return views
