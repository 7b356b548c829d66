"""The text of a radiology report: its sections, its sentences, and the form in which two are equal.

Reports come as MIMIC-CXR distributes them (wrapped lines, `FINDINGS:` headers in capitals, `___`
where something was removed), as OpenI does (`XXXX`), or as free text without any header.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

DEFAULT_SECTIONS = ("findings", "impression")
MIN_WORDS = 3  # ConVIRT (arXiv 2010.00747) drops texts of fewer than three tokens.


class Section(NamedTuple):
    """A part of a report.

    The headers and texts of all sections, in order, spell the whole report.

    Attributes:
        name: "findings", "impression", "comparison", …; an unknown header in lower case; or
            "preamble" for what stands before the first header.
        header: the header as it stands in the report, with its colon; empty for the preamble.
    """

    name: str
    header: str
    text: str


_HEADER_NAMES = (
    r"findings and impression|findings?|impressions?|conclusions?|indications?|comparisons?"
    r"|techniques?|history|clinical (?:indication|history|information)|examination|exam"
    r"|reason for exam(?:ination)?|recommendations?|notifications?|addendum"
)
# Capitals before a colon at the start of a line, or a common name there in any case. A common name
# in capitals counts within a line too, for reports whose line ends were lost.
_HEADER = re.compile(
    rf"(?:^[ \t]*(?:[A-Z][A-Z ()/,-]*[A-Z)]|(?i:{_HEADER_NAMES}))"
    rf"|(?<=\s)(?:{_HEADER_NAMES.upper()}))[ \t]*:(?=\s|$)",
    re.MULTILINE,
)
# As they are met in MIMIC-CXR, by the list in MIT-LCP's parser.
_IMPRESSION_MISSPELT = (
    "impresson|imprression|imoression|impressoin|imprssion|impresion|imperssion|impession"
)
_FINDINGS_MISSPELT = "findins|findindgs|findgings|findngs|findnings|finidngs"
# The first pattern found in a header gives its section's name. "ndication" because the first letter
# is often lost, and before "impression" because such headers were once taken for impressions.
_SECTION_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"ndication|idication|reason for", "indication"),
        (r"compari?si?on|comparrison|reference exam", "comparison"),
        (r"end of impression", "end of impression"),  # in CheXpert Plus: signatures
        (r"mpression|conclusion|" + _IMPRESSION_MISSPELT, "impression"),
        (r"finding|" + _FINDINGS_MISSPELT, "findings"),
        (r"history|clinical info", "history"),
        (r"addend", "addendum"),
        (r"technique", "technique"),
        (r"recommendation", "recommendation"),
        (r"notification", "notification"),
        (r"exam", "examination"),
        (
            r"\b(?:views?|chest|radiographs?|portable|pa|ap|lat|lateral|ribs|bone windows?)\b",
            "findings",
        ),
    )
)
_KNOWN_NAMES = frozenset(name for _, name in _SECTION_NAMES)
_TITLE_LINE = re.compile(r"^[ \t]*(?:FINAL REPORT|_{5,})[ \t]*$", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def split_sections(report: str) -> list[Section]:
    """The sections of a report in order; a report without headers is one "preamble".

    The rules are those of MIT-LCP's parser for MIMIC-CXR: a header is a line's beginning in
    capitals and a colon, and a header that only names a view ("CHEST, TWO VIEWS:") opens the
    findings.
    """
    matches = list(_HEADER.finditer(report))
    starts = [match.start() for match in matches] + [len(report)]
    sections = [
        Section(_section_name(match[0]), match[0], report[match.end() : end])
        for match, end in zip(matches, starts[1:], strict=True)
    ]
    preamble = report[: starts[0]]
    return [Section("preamble", "", preamble), *sections] if preamble or not sections else sections


def select_sections(report: str, sections: Sequence[str] = DEFAULT_SECTIONS) -> str:
    """The texts of the named sections in the order asked for, with a blank line between two.

    - Of several sections of one name the last that is not empty counts (addenda come first).
    - A report without findings and impression gives, for either, what follows the first blank line
      of its last section, where radiologists often write both without a header.
    - A report without any known header is returned whole.
    """
    parts = split_sections(report)
    if not any(part.name in _KNOWN_NAMES for part in parts):
        return _TITLE_LINE.sub("", report).strip()
    texts = {part.name: part.text.strip() for part in parts if part.text.strip()}
    if not texts.keys() & set(DEFAULT_SECTIONS) and set(sections) & set(DEFAULT_SECTIONS):
        paragraphs = _BLANK_LINE.split(parts[-1].text.strip(), maxsplit=1)
        return paragraphs[1].strip() if len(paragraphs) > 1 else ""
    return "\n\n".join(texts[name] for name in sections if name in texts)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each with its white space folded to single spaces.

    A sentence ends at `.`, `!` or `?` before white space, at an empty line, and before a list item;
    not after an abbreviation ("Dr.", "vs.", "a.m." within a sentence), in a number ("1.5 cm") or
    after the number of a list item ("1. No effusion."), which stays with its sentence. Only white
    space is lost, and a sentence split again is itself.
    """
    sentences, start = [], 0
    for match in _BREAK.finditer(text):
        if _is_break(text, start, match):
            sentences.append(text[start : match.end()])
            start = match.end()
    sentences.append(text[start:])
    folded = (" ".join(sentence.split()) for sentence in sentences)
    return [sentence for sentence in folded if sentence]


def report_sentences(report: str, sections: Sequence[str] = DEFAULT_SECTIONS) -> tuple[str, ...]:
    """The sentences of the selected sections, fit to pair with an image; see `text_sentences`."""
    return text_sentences(select_sections(report, sections))


def text_sentences(text: str) -> tuple[str, ...]:
    """The sentences of a text, without list markers, fit to pair with an image.

    Sentences of fewer than `MIN_WORDS` words are left out where the text has longer ones, and
    those without any letter or digit always.
    """
    counted = [
        (sentence, len(normalize_sentence(sentence).split()))
        for sentence in (_LIST_MARKER.sub("", sentence) for sentence in split_sentences(text))
    ]
    long = [sentence for sentence, words in counted if words >= MIN_WORDS]
    return tuple(long or [sentence for sentence, words in counted if words])


def normalize_sentence(sentence: str) -> str:
    """The form in which two sentences count as the same: lower case, words and numbers only."""
    return " ".join(_WORD.findall(sentence.lower()))


# Where a sentence may end or a new one begin; `_is_break` decides.
_BREAK = re.compile(
    r"(?P<stop>[.!?]+[\"')\]]*)(?=\s|$)"
    r"|(?<=[a-z][a-z]|XX)(?P<glued>\.)(?=[A-Z][a-z])"
    r"|\n(?P<blank>[ \t]*\n)"
    r"|\n[ \t]*(?=(?P<bullet>[-*•]\s)|\(?(?P<number>\d{1,2})[.)]\s)"
)
_LIST_MARKER = re.compile(r"^(?:[-*•]|\(?\d{1,2}[.)])\s+")
_ITEM_NUMBER = re.compile(r"\s*\(?(\d{1,2})[.)]\s")
_WORD = re.compile(r"\w+")
_NEVER_LAST = frozenset("dr mr mrs ms prof vs fig figs cf ca approx e.g i.e resp".split())
_SELDOM_LAST = re.compile(r"(?:[a-z]\.)+[a-z]|al|etc|jr|sr|inc|hr|hrs|min|dept")
_TITLE_INITIAL = re.compile(r"\b(?:dr|mr|mrs|ms|prof)\.\s+(?:[a-z]\.\s*)*[a-z]$", re.IGNORECASE)


def _is_break(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the sentence from `start` ends with this match of `_BREAK`."""
    if match["blank"] is not None or match["bullet"] is not None:
        return True
    sentence = text[start : match.start()]
    if match["number"] is not None:
        return _starts_item(sentence, int(match["number"]))
    return _ends_sentence(sentence, match[0], text[match.end() :].lstrip()[:1])


def _starts_item(sentence: str, number: int) -> bool:
    """Whether a number at the start of a line, after `sentence`, is that of a list item."""
    item = _ITEM_NUMBER.match(sentence)
    continues = item is not None and int(item[1]) + 1 == number
    return number == 1 or continues or sentence.rstrip().endswith((":", ";"))


def _ends_sentence(sentence: str, stop: str, following: str) -> bool:
    """Whether `stop` ends the sentence, when the next word begins with `following`."""
    words = sentence.rsplit(maxsplit=1)
    if not stop.startswith("."):
        # "consolidation ? pneumonia" is one sentence.
        return bool(sentence) and not sentence[-1].isspace()
    if stop.startswith("..") or not words:
        return not following.islower()
    word = words[-1].lstrip("([\"'").lower()
    if sentence.strip() == words[-1] and re.fullmatch(r"\(?\d{1,2}", words[-1]):
        return False  # the number of a list item
    if word in _NEVER_LAST or _TITLE_INITIAL.search(sentence):
        return False
    if word == "no":
        return not following.isdigit()
    return not (_SELDOM_LAST.fullmatch(word) and (following.islower() or following.isdigit()))


def _section_name(header: str) -> str:
    name = header.strip(" \t:").lower()
    return next((known for pattern, known in _SECTION_NAMES if pattern.search(name)), name)
