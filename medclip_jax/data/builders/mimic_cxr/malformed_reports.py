"""The reports of MIMIC-CXR that no rule can split into sections, and where their text stands.

The studies and places are those that the set's authors found by reading them:
https://github.com/MIT-LCP/mimic-cxr, `txt/section_parser.py` (custom_section_names and
custom_indices) and `txt/create_section_files.py`, which says how they are meant.
"""

import re
from typing import NamedTuple

from medclip_jax.data import reports

# The study's text is the last section of this name, whatever the name says.
_IN_SECTION = {
    "50058765": "indication",
    "50743547": "examination",
    "50808053": "technique",
    "50913680": "recommendation",
    "51491012": "history",
    "51966317": "indication",
    "53202765": "technique",
    "53356173": "examination",
    "54365831": "indication",
    "54654948": "indication",
    "55124749": "indication",
    "55157853": "examination",
    "56451190": "note",
    "56482935": "recommendation",
    "57936451": "indication",
    "58157373": "recommendation",
    "58375018": "recommendation",
    "59067458": "recommendation",
    "59087630": "recommendation",
    "59215320": "examination",
    "59279892": "technique",
    "59363654": "examination",
    "59768032": "recommendation",
}
# The study's text is the slice of the report, in characters.
_IN_RANGE = {
    "50196495": (59, 399),
    "50525523": (201, 349),
    "51410602": (47, 320),
    "52119491": (179, 454),
    "52648681": (292, 631),
    "52674888": (145, 296),
    "53182247": (59, 412),
    "53488209": (149, 475),
    "53514462": (73, 377),
    "54875119": (234, 988),
    "54986978": (59, 306),
    "55258338": (192, 568),
    "56412866": (522, 822),
    "56579911": (59, 218),
    "56760320": (219, 457),
    "57150433": (61, 394),
    "57564132": (233, 554),
    "59003148": (262, 505),
    "59330497": (140, 655),
    "59505494": (59, 450),
    "59562049": (158, 348),
    "59889364": (172, 453),
    "59982525": (313, 717),
    # No finding stands in the whole report.
    "50798377": (0, 0),
    "52035334": (0, 0),
    "53071062": (0, 0),
    "53607029": (0, 0),
    "54168089": (0, 0),
    "54231141": (0, 0),
    "56724958": (0, 0),
    "58235663": (0, 0),
}
MALFORMED = frozenset(_IN_SECTION) | frozenset(_IN_RANGE)
_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
_EMPTY_LINE = "\n \n"


def mend_report(study_id: str, report: str) -> str:
    """The report of one of `MALFORMED` with its text as the impression, and nothing else.

    `reports.select_sections` gives just that text. It is empty where nothing was found. A report
    that has not got the place, so is not the published one, stays as it is.

    Args:
        study_id: "50058765".
        report: the whole report, with line feeds alone at the ends of lines.
    """
    if study_id in _IN_RANGE:
        start, end = _IN_RANGE[study_id]
        text = report[start:end] if end <= len(report) else None
    else:
        text = _section_text(report, _IN_SECTION[study_id])
    if text is None:
        return report
    return f" IMPRESSION:\n {_without_headers(text.strip())}\n" if text.strip() else ""


class _Section(NamedTuple):
    name: str
    text: str


def _split(report: str) -> list[_Section]:
    """The sections of a report as the authors of the tables split it.

    A header is capitals and a colon behind a space at the start of a line. The line below a header
    that stands alone is its text, whatever it looks like.
    """
    matches = list(_HEADER.finditer(report))
    starts = [match.start() for match in matches] + [len(report)]
    sections = []
    for match, end in zip(matches, starts[1:], strict=True):
        name = reports.split_sections(f"{match[1].strip()}:")[0].name
        text = report[match.end() : end]
        if text.strip() or name not in reports.DEFAULT_SECTIONS:
            sections.append(_Section(name, text))
    return sections


def _section_text(report: str, name: str) -> str | None:
    """The text of the last section of this name; None if there is none.

    Without findings and impression a report's last section ends at its first empty line.
    """
    sections = _split(report)
    found = [part for part in sections if part.name == name]
    if not found:
        return None
    is_last = found[-1] is sections[-1]
    if is_last and not any(part.name in reports.DEFAULT_SECTIONS for part in sections):
        return found[-1].text.split(_EMPTY_LINE)[0]
    return found[-1].text


def _without_headers(text: str) -> str:
    """The text with a full stop for the colon of what would count as a section's header."""
    return "".join(
        part.header.replace(":", ".") + part.text for part in reports.split_sections(text)
    )
