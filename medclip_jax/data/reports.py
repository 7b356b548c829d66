"""The text of a radiology report: its sections, its sentences, and the form in which two are equal.

Reports come as MIMIC-CXR distributes them (wrapped lines, `FINDINGS:` headers in capitals, `___`
where something was removed), as OpenI does (`XXXX`), or as free text without any header.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from medclip_jax.data.report_headers import HEADER, KNOWN_NAMES, REMARKS, section_name

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


_TITLE_LINE = re.compile(r"^[^\S\n]*(?:FINAL REPORT|_{5,})[^\S\n]*$", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


def split_sections(report: str) -> list[Section]:
    """The sections of a report in order; a report without headers is one "preamble".

    The rules are those of MIT-LCP's parser for MIMIC-CXR: a header is a line's beginning in
    capitals and a colon, and a header that only names a view ("CHEST, TWO VIEWS:") opens the
    findings.
    """
    matches = list(HEADER.finditer(report))
    starts = [match.start() for match in matches] + [len(report)]
    sections = [
        Section(section_name(match[0]), match[0], report[match.end() : end])
        for match, end in zip(matches, starts[1:], strict=True)
    ]
    preamble = report[: starts[0]]
    return [Section("preamble", "", preamble), *sections] if preamble or not sections else sections


def select_sections(report: str, sections: Sequence[str] = DEFAULT_SECTIONS) -> str:
    """The texts of the named sections in the order asked for, with a blank line between two.

    - Of several sections of one name the last that is not empty counts (addenda come first).
    - What stands under unknown headers ("LUNGS:") goes on with the findings before it, and is the
      findings where the report has none.
    - A report without findings and impression gives, for either, what follows the first blank line
      of its last section, where radiologists often write both without a header; else its comment.
      Its comparison is not taken for it, as MIT-LCP's parser does: mostly that only names an
      earlier study.
    - A report without any known header is returned whole, and so is one with nothing but a comment
      that has no such paragraph.
    """
    parts = split_sections(report)
    if all(part.name not in KNOWN_NAMES or part.name in REMARKS for part in parts):
        return _only_comment(parts) or _TITLE_LINE.sub("", report).strip()
    texts = _section_texts(parts)
    if not texts.keys() & set(DEFAULT_SECTIONS) and set(sections) & set(DEFAULT_SECTIONS):
        remarks = (texts[name] for name in REMARKS if name in texts)
        # A header of findings or impression with nothing under it does not count.
        filled = [part for part in parts if part.name not in DEFAULT_SECTIONS] or parts
        return _last_paragraph(filled) or "\n\n".join(remarks)
    return "\n\n".join(texts[name] for name in sections if name in texts)


def _section_texts(parts: Sequence[Section]) -> dict[str, str]:
    """Section to text; texts under unknown headers are among the findings."""
    texts: dict[str, str] = {}
    unknown = []
    opened = ""
    for part in parts:
        text = part.text.strip()
        if part.name in KNOWN_NAMES or part.name in ("preamble", "details"):
            opened = part.name
            texts |= {part.name: text} if text else {}
        elif text and opened == "findings" and "findings" in texts:
            texts["findings"] += f"\n{part.header.strip()} {text}"
        elif text:
            unknown.append(f"{part.header.strip()} {text}")
    return {"findings": "\n".join(unknown)} | texts if unknown else texts


def _last_paragraph(parts: Sequence[Section]) -> str:
    """What follows the first blank line of the last section, or ""."""
    paragraphs = _BLANK_LINE.split(parts[-1].text.strip(), maxsplit=1)
    return paragraphs[1].strip() if len(paragraphs) > 1 else ""


def _only_comment(parts: Sequence[Section]) -> str:
    """The last paragraph of a report that is a comment and at most a title before it, or ""."""
    *before, last = parts
    title = _TITLE_LINE.sub("", "".join(part.text for part in before))
    is_only = last.name in REMARKS and len(before) <= 1 and "." not in title
    return _last_paragraph(parts) if is_only else ""


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each with its white space folded to single spaces.

    A sentence ends at `.`, `!` or `?` before white space, at an empty line, and before a list item;
    not after an abbreviation ("Dr.", "vs.", "a.m." within a sentence), in a number ("1.5 cm") or
    after the number of a list item ("1. No effusion."), which stays with its sentence. Only white
    space is lost, and a sentence split again is itself.
    """
    text = _SPACES.sub(" ", text)
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
_SPACES = re.compile(r"[^\S\n]+")
_LIST_MARKER = re.compile(r"^(?:[-*•]|\(?\d{1,2}[.)])\s+")
_ITEM_NUMBER = re.compile(r"\s*\(?(\d{1,2})[.)]\s")
_BARE_NUMBER = re.compile(r"\s*\(?\d{1,2}")
_LAST_WORDS = 100  # characters
_WORD = re.compile(r"\w+")
_NEVER_LAST = frozenset("dr mr mrs ms prof vs fig figs cf ca approx e.g i.e resp".split())
_SELDOM_LAST = re.compile(r"(?:[a-z]\.)+[a-z]|al|etc|jr|sr|inc|hr|hrs|min|dept")
_TITLE_INITIAL = re.compile(r"\b(?:dr|mr|mrs|ms|prof)\.\s+(?:[a-z]\.\s*)*[a-z]$", re.IGNORECASE)


def _is_break(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the sentence from `start` ends with this match of `_BREAK`."""
    if match["blank"] is not None or match["bullet"] is not None:
        return True
    if match["number"] is not None:
        return _starts_item(text[start : match.start()], int(match["number"]))
    if _BARE_NUMBER.fullmatch(text, start, match.start()):
        return False  # the number of a list item
    # The last words decide; a text without breaks must not be read again from its start each time.
    sentence = text[max(start, match.start() - _LAST_WORDS) : match.start()]
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
    if word in _NEVER_LAST or _TITLE_INITIAL.search(sentence):
        return False
    if word == "no":
        return not following.isdigit()
    return not (_SELDOM_LAST.fullmatch(word) and (following.islower() or following.isdigit()))
