"""The TFDS builder `mura`: Stanford's radiographs of arms, hands and shoulders, version 1.1."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from medclip_jax.data.builders.archives import find
from medclip_jax.data.builders.row_builder import RowBuilder, RowConfig, option
from medclip_jax.data.builders.rows import Rejection, Row, Source, hash_split
from medclip_jax.data.table import read_lines
from medclip_jax.errors import UserError

_PARTS = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")
_FOLDER = "MURA-v1.1"
# "MURA-v1.1/train/XR_SHOULDER/patient00001/study1_positive/image1.png"
_STUDY = re.compile(
    r"MURA-v1\.1/(?P<list>train|valid)/XR_(?P<part>[A-Z]+)"
    r"/(?P<patient>patient\d+)/(?P<study>study\d+)_(?P<sign>positive|negative)"
)
_SIGNS = {"1": "positive", "0": "negative"}


@dataclasses.dataclass(eq=False, kw_only=True)
class MuraConfig(RowConfig):
    """The options of `mura`."""

    part: str = dataclasses.field(
        default="all", metadata=option("the part of the body to keep", ["all", *_PARTS])
    )


class Builder(RowBuilder):
    """A study has all its images, since results are scored by study."""

    DESCRIPTION = """
    40,005 radiographs of elbows, fingers, forearms, hands, humeri, shoulders and wrists: 14,656
    studies, each abnormal or not, of 11,967 patients. The test split is the official validation
    set, on which results are reported since the test set is hidden; 10 % of the training patients,
    by a hash of the patient, are the validation split. A study is a part of the body and its
    images; a patient can have studies of several parts. Results are by study: the mean of its
    images' probabilities.
    """
    LICENCE = (
        "Stanford University MURA Dataset Research Use Agreement: non-commercial research; no "
        "redistribution"
    )
    HOMEPAGE = "https://stanfordmlgroup.github.io/competitions/mura"
    CITATION = (
        "Rajpurkar et al., MURA: Large Dataset for Abnormality Detection in Musculoskeletal "
        "Radiographs, MIDL 2018, arXiv 1712.06957"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put MURA-v1.1.zip into it (on request, from https://stanfordmlgroup.github.io/competitions/mura),
    or the folder MURA-v1.1 that it unpacks to, with train, valid, train_labeled_studies.csv,
    valid_labeled_studies.csv, train_image_paths.csv and valid_image_paths.csv.
    """
    LABEL_NAMES = ("Abnormal",)
    BUILDER_CONFIGS = [
        MuraConfig(name="default", description="All parts of the body."),
        *(
            MuraConfig(name=part, part=part, description=f"Studies of the {part} only.")
            for part in _PARTS
        ),
    ]
    builder_config: MuraConfig

    @property
    def published(self) -> Mapping[str, int]:
        """The paper's totals of the whole set; it has none of a part's images."""
        if self.builder_config.part != "all":
            return {}
        return {
            "patients": 11_967,
            "studies": 14_656,
            "test studies": 1_199,
            "images": 40_005,
            "test images": 3_197,
        }

    def read_source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """The images of both lists, with the label of their study."""
        root = _root(Path(dl_manager.manual_dir), Path(dl_manager.download_dir) / "mura")
        part = self.builder_config.part
        rows = [row for name in ("train", "valid") for row in _rows(root, name, part)]
        return self.checked(root, rows)


def _root(manual: Path, unpack_into: Path) -> Path:
    """The folder with the tables: the one given, or one in it or in the archive."""
    if (manual / "train_labeled_studies.csv").exists():
        return manual
    folder = find(manual, (_FOLDER, f"{_FOLDER}.zip"), "images and tables of MURA", unpack_into)
    return folder / _FOLDER if (folder / _FOLDER).is_dir() else folder


class _Path(NamedTuple):
    """What the path of a study's folder says."""

    list: str
    part: str
    patient: str
    study: str
    sign: str


def _parse_study(path: str, name: str) -> _Path | str:
    """The parts of a study's path in the tables of `name`, or what is wrong with it."""
    match = _STUDY.fullmatch(path)
    if match is None or match["part"].lower() not in _PARTS:
        return "no path like MURA-v1.1/train/XR_WRIST/patient00001/study1_positive"
    study = _Path(**match.groupdict())
    return study if study.list == name else f"the path is of {study.list}, in a table of {name}"


def _rows(root: Path, name: str, part: str) -> Iterator[Row | Rejection]:
    """The images of `name` ("train" or "valid"), and the studies that have none."""
    labels: dict[str, str] = {}
    unused = {}
    for place, line in _lines(root / f"{name}_labeled_studies.csv"):
        path, label, problem = _labelled_study(line, name)
        problem = problem or ("the study is listed already" if path in labels else "")
        if problem:
            yield Rejection(place, path, problem)
        else:
            labels[path] = label
            unused[path] = place
    for place, path in _lines(root / f"{name}_image_paths.csv"):
        folder = path.rpartition("/")[0]
        study = _parse_study(folder, name)
        unused.pop(folder, None)
        if isinstance(study, str):
            yield Rejection(place, path, study)
        elif part in ("all", study.part.lower()):
            if folder in labels:
                yield _row(place, path, study, float(labels[folder]))
            else:
                yield Rejection(place, path, f"no usable label in {name}_labeled_studies.csv")
    for folder, place in unused.items():
        if part == "all" or f"/XR_{part.upper()}/" in folder:
            yield Rejection(place, folder, f"no image in {name}_image_paths.csv")


def _labelled_study(line: str, name: str) -> tuple[str, str, str]:
    """The path of the study, its label, and what is wrong with the line or ""."""
    path, _, label = line.rpartition(",")
    path, label = path.strip().removesuffix("/"), label.strip()
    study = _parse_study(path, name)
    if isinstance(study, str):
        return path or line, label, study
    if label not in _SIGNS:
        return path, label, f"the label is {label!r}; it must be 1 or 0"
    if _SIGNS[label] != study.sign:
        return path, label, f"the label is {label}, but the path says {study.sign}"
    return path, label, ""


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a table, which has no header, and what to call them in `rejected.csv`."""
    if not path.is_file():
        raise UserError(f"{path.parent}: no {path.name}; it is in {_FOLDER}.zip")
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path}: the file is empty; download it again")
    return ((f"{path.name} line {number}", line) for number, line in enumerate(lines, start=1))


def _row(place: str, path: str, study: _Path, label: float) -> Row:
    part = study.part.lower()
    return Row(
        number=place,
        split="test" if study.list == "valid" else hash_split(study.patient, validation=0.1),
        patient_id=study.patient,
        study_id=f"{part}/{study.study}",
        image_path=path.removeprefix(f"{_FOLDER}/"),
        labels=(label,),
        attributes={"part": part},
    )
