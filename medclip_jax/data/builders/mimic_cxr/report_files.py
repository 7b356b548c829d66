"""Where MIMIC-CXR's reports are: in their zip, in its folder, or among the DICOM files."""

import contextlib
import functools
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from medclip_jax.data.builders.mimic_cxr.malformed_reports import MALFORMED, mend_report
from medclip_jax.data.builders.rows import path_problem
from medclip_jax.data.text_encoding import decode_text
from medclip_jax.errors import UserError

ARCHIVE = "mimic-cxr-reports.zip"
# What users unpack the zip to; or reports lie beside the images of a study.
_FOLDERS = ("mimic-cxr-reports/files", "mimic-cxr-reports")
_SHARED_FOLDER = "files"


class Report(NamedTuple):
    """A study's report, as its text or as the file to read it from; or why there is none.

    Attributes:
        path: the file, relative to the folder of the set.
        problem: why the study cannot be used, or "".
    """

    text: str = ""
    path: str = ""
    problem: str = ""


# The report of a patient's study.
FindReport = Callable[[str, str], Report]


@contextlib.contextmanager
def open_reports(folder: Path, studies: Iterable[tuple[str, str]]) -> Iterator[FindReport]:
    """Gives what finds a study's report; if there are no reports, all are empty.

    Those of a zip are read from there, because unpacking so many small files takes long. Those of
    `MALFORMED` are mended.

    Args:
        folder: the folder of the set.
        studies: the patient and study of each study.

    Raises:
        UserError: the zip is damaged or holds no reports.
    """
    archive = folder / ARCHIVE
    if archive.is_file():
        with _open_archive(archive) as file:
            yield functools.cache(functools.partial(_archived_report, file, _members(file)))
        return
    parent = next((name for name in _FOLDERS if (folder / name).is_dir()), "")
    if not parent and _any_report(folder / _SHARED_FOLDER, studies):
        parent = _SHARED_FOLDER
    if parent:
        yield functools.partial(_report_file, folder, parent)
    else:
        yield lambda patient_id, study_id: Report()


def _any_report(folder: Path, studies: Iterable[tuple[str, str]]) -> bool:
    return any(not path_problem(folder, _report_name(*study)) for study in studies)


def _report_name(patient_id: str, study_id: str) -> str:
    return f"p{patient_id[:2]}/p{patient_id}/s{study_id}.txt"


def _report_file(folder: Path, parent: str, patient_id: str, study_id: str) -> Report:
    path = f"{parent}/{_report_name(patient_id, study_id)}"
    if study_id not in MALFORMED or path_problem(folder, path):
        return Report(path=path)
    return Report(text=_text(study_id, (folder / path).read_bytes()))


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        file = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: damaged or cut short; download it again ({error})") from error
    if not _members(file):
        raise UserError(f"{path}: no reports files/pXX/pXXXXXXXX/sXXXXXXXX.txt; download it again")
    return file


def _members(file: zipfile.ZipFile) -> dict[str, str]:
    """The names in the zip by `_report_name`, whatever folder they begin with."""
    names = (name for name in file.namelist() if name.endswith(".txt"))
    return {"/".join(name.split("/")[-3:]): name for name in names}


def _archived_report(
    file: zipfile.ZipFile, members: Mapping[str, str], patient_id: str, study_id: str
) -> Report:
    path = _report_name(patient_id, study_id)
    if path not in members:
        return Report(path=path, problem=f"no such file in {ARCHIVE}")
    try:
        return Report(text=_text(study_id, file.read(members[path])))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return Report(path=path, problem=f"damaged in {ARCHIVE} ({error})")


def _text(study_id: str, encoded: bytes) -> str:
    text = decode_text(encoded)
    return mend_report(study_id, text.replace("\r\n", "\n")) if study_id in MALFORMED else text
