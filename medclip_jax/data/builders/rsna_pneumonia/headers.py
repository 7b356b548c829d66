"""What the DICOM headers of the challenge say of an image; its tables have no view, age or sex."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medclip_jax.data.builders.nih_chestxray14.ages import age_in_years

if TYPE_CHECKING:
    from pydicom import Dataset

_FIELDS = ("ViewPosition", "PatientAge", "PatientSex")
_NUM_THREADS = 16  # as in `rows`, since the files may lie on a network disk


class Header(NamedTuple):
    """The view, "FRONTAL" if it is not said; age in years and sex, "" if unknown."""

    view: str = "FRONTAL"
    age: str = ""
    sex: str = ""


def read_headers(paths: Iterable[Path]) -> list[Header]:
    """The headers of these files; of one that cannot be read nothing is known."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(_read_header, paths))


def _read_header(path: Path) -> Header:
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_FIELDS))
        view, age, sex = (_text(header, field) for field in _FIELDS)
    except Exception:  # whatever it is, the file is rejected when its pixels are read
        return Header()
    return Header(
        view.upper() if view.upper() in ("PA", "AP") else "FRONTAL", age_in_years(age), sex
    )


def _text(header: "Dataset", field: str) -> str:
    # As it stands in the file: ages like "51" break the standard, of which pydicom would warn.
    value = header.get_item(field).value if field in header else None
    return (value or b"").decode("ascii").strip(" \0")
