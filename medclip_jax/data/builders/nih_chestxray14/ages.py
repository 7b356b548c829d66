"""Patients' ages as NIH's tables and DICOM headers write them."""

import re

_AGE = re.compile(r"(\d{1,3})([YMWD]?)", re.IGNORECASE)
_PER_YEAR = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}
_OLDEST = 120


def age_in_years(text: str) -> str:
    """Whole years, from "58", "058Y" or "011M"; "" if unknown.

    Ages over 120, of which ChestX-ray14 has some (up to 414), are known to be wrong and so unknown.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        return ""
    years = int(match[1]) // _PER_YEAR[match[2].upper()]
    return str(years) if years <= _OLDEST else ""
