"""Reads findings off a report by rules, in the manner of NegEx and the CheXpert labeler.

A sentence is searched for the terms of `finding_lexicon`; each mention is then present, denied or
uncertain by the cues that reach it. A cue before a mention ("no", "possible") reaches forward over
a list, up to "but", a new statement or the end of the sentence; a cue after it ("has resolved",
"cannot be excluded") reaches back to what it is said of (Chapman et al., J. Biomed. Inform.
34:301, 2001; Irvin et al., arXiv 1901.07031, section 2.2).
"""

import functools
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from medclip_jax.data.builders.synthetic_cxr.findings import LABEL_NAMES as SYNTHETIC_LABELS
from medclip_jax.data.reports import normalize_sentence, split_sentences
from medclip_jax.errors import UserError
from medclip_jax.evaluate.finding_cues import CUES, STATEMENT_OPENERS, clause_with_a_verb
from medclip_jax.evaluate.finding_lexicon import (
    DEGREES,
    LABEL_NAMES,
    NO_FINDING,
    NORMAL_STATEMENTS,
    NOT_FINDINGS,
    PLACES,
    SUPPORT_DEVICES,
    TERMS,
)

PRESENT, UNCERTAIN, DENIED = 1.0, -1.0, 0.0
# Of a text without full stops so many characters are read as one sentence: far more than any has,
# and the time grows with the square.
_MAX_LENGTH = 2000
# Of several mentions of a finding the first of these counts.
_PRECEDENCE = (PRESENT, UNCERTAIN, DENIED)


class _Span(NamedTuple):
    """A mention of the label, or a cue of the kind, that `name` gives."""

    name: str
    start: int
    end: int


def extract_findings(text: str, *, devices_count: bool = False) -> dict[str, float]:
    """What a report says of each of CheXpert's fourteen labels.

    Args:
        text: the report, in English.
        devices_count: whether a device stands against "No Finding", as in the synthetic set; in
            CheXpert it does not.

    Returns:
        Label to 1 present, 0 denied or -1 uncertain; NaN where it is not mentioned. Of several
        mentions present counts before uncertain, and uncertain before denied. "No Finding" is 1
        where no other label is present or uncertain; where CheXpert's labeler leaves it blank it is
        0 if one is present, and -1 if one is at most uncertain. It is NaN for a text without words.
    """
    statuses: dict[str, set[float]] = {label: set() for label in LABEL_NAMES}
    for sentence in split_sentences(text):
        for piece in textwrap.wrap(sentence.lower(), _MAX_LENGTH, break_on_hyphens=False):
            for label, status in _statements(piece):
                statuses[label].add(status)
    against = [name for name in LABEL_NAMES if devices_count or name != SUPPORT_DEVICES]
    said = set().union(*(statuses[name] for name in against))
    if normalize_sentence(text):
        opposite = {PRESENT: DENIED, UNCERTAIN: UNCERTAIN, DENIED: PRESENT, np.nan: PRESENT}
        statuses[NO_FINDING] = {opposite[_strongest(said)]}
    return {label: _strongest(found) for label, found in statuses.items()}


def extract_labels(
    texts: Sequence[str], label_names: Sequence[str] = LABEL_NAMES
) -> Float[np.ndarray, "texts labels"]:
    """What each text says of each label, as `extract_findings` gives it.

    "No Finding" is CheXpert's, but the synthetic set's if the labels are those of that set.

    Raises:
        UserError: a label is none of CheXpert's.
    """
    for name in label_names:
        if name not in LABEL_NAMES:
            raise UserError(f"no rules for label {name!r}; there are {', '.join(LABEL_NAMES)}")
    devices_count = set(label_names) == set(SYNTHETIC_LABELS)
    found = [extract_findings(text, devices_count=devices_count) for text in texts]
    values = [[findings[name] for name in label_names] for findings in found]
    return np.array(values, np.float32).reshape(len(texts), len(label_names))


@functools.cache
def finding_words() -> frozenset[str]:
    """The words, in lower case, that say which finding there is, where, and how much of it.

    That is "effusion", "enlarged" and "pacemaker", but also "left", "apical" and "severe": what a
    report says of an image that the words around it do not.
    """
    names = (f"{terms.words} {terms.key_words}" for terms in TERMS.values())
    return frozenset(word for words in (*names, PLACES, DEGREES) for word in words.split())


def _strongest(statuses: set[float]) -> float:
    return next((status for status in _PRECEDENCE if status in statuses), np.nan)


_MENTIONS = {label: terms.pattern for label, terms in TERMS.items()}
_NORMAL = tuple((re.compile(pattern), labels) for pattern, labels in NORMAL_STATEMENTS)
_NOT_FINDINGS = re.compile(rf"\b(?:{NOT_FINDINGS})\b")
# No cue begins or ends within a word; some begin or end with a mark.
_CUE = re.compile(
    r"(?:(?<!\w)|(?=\W))(?:"
    + "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in CUES.items())
    + r")(?:(?!\w)|(?<=\W))"
)
_OPENERS = [(kind, re.compile(pattern)) for kind, pattern in STATEMENT_OPENERS.items()]
_ANY_FINDING = "|".join(pattern.pattern for pattern in _MENTIONS.values())
_OPENERS.append(("end_of_denial", re.compile(clause_with_a_verb(_ANY_FINDING))))
_HYPHEN = re.compile(r"(?<=\w)[-\u2010\u2011\u2013](?=\w)")
_CONJUNCTION = re.compile(r"\b(?:and|or)\b")


def _statements(sentence: str) -> Iterator[tuple[str, float]]:
    """The labels that a sentence in lower case says something of, and what."""
    sentence = _HYPHEN.sub(" ", sentence)
    sentence = _NOT_FINDINGS.sub(lambda match: " " * len(match[0]), sentence)
    for pattern, labels in _NORMAL:
        if pattern.search(sentence):
            yield from ((label, DENIED) for label in labels)
    mentions = [
        _Span(label, *match.span())
        for label, pattern in _MENTIONS.items()
        for match in pattern.finditer(sentence)
    ]
    if not mentions:
        return
    cues = _find_cues(sentence, mentions)
    for mention in mentions:
        near = [cue for cue in cues if cue.name != "either" or _is_next(mention, cue, mentions)]
        kinds = _kinds_before(mention, near) | _kinds_after(mention, near, sentence)
        if kinds & {"ignored_before", "ignored_after"}:
            continue
        if "unchanged" in kinds:
            kinds.discard("either")
        if "doubtful_after" in kinds:
            yield mention.name, UNCERTAIN
        elif kinds & {"denied_after", "denied_before"}:
            yield mention.name, DENIED
        elif kinds & {"doubtful_before", "suspected_after", "either"}:
            yield mention.name, UNCERTAIN
        else:
            yield mention.name, PRESENT


def _find_cues(sentence: str, mentions: Sequence[_Span]) -> list[_Span]:
    """The cues in order; what begins a new statement is among them as "end" or "end_of_denial"."""
    cues = [_Span(match.lastgroup or "", *match.span()) for match in _CUE.finditer(sentence)]
    # "Small or moderate" is no doubt about a finding; "atelectasis or pneumonia" is.
    cues = [
        cue
        for cue in cues
        if sentence[cue.start : cue.end] != "or"
        or (any(m.end <= cue.start for m in mentions) and any(m.start >= cue.end for m in mentions))
    ]
    # "Over" prefers one to the other in "favors atelectasis over pneumonia" only.
    cues = [
        cue
        for cue in cues
        if sentence[cue.start : cue.end] != "over" or "favo" in sentence[: cue.start]
    ]
    ends = [cue.start for cue in cues if cue.name == "end"]
    for kind, pattern in _OPENERS:
        for match in pattern.finditer(sentence):
            clause_end = min((end for end in ends if end >= match.end()), default=len(sentence))
            if not re.search(r"\bn?or\b|/", sentence[match.end() : clause_end]):
                cues.append(_Span(kind, match.start(), match.start() + 1))
    return sorted(cues, key=lambda cue: cue.start)


def _is_next(mention: _Span, cue: _Span, mentions: Sequence[_Span]) -> bool:
    """Whether no other mention lies between the two."""
    start, end = min(mention.end, cue.end), max(mention.start, cue.start)
    return not any(start <= other.start and other.end <= end for other in mentions)


def _kinds_before(mention: _Span, cues: Sequence[_Span]) -> set[str]:
    """The kinds of cues that reach forward to the mention, those within it included."""
    kinds: set[str] = set()
    within_doubt = within_denial = True
    for cue in reversed(cues):
        if cue.end > mention.end:
            continue
        if cue.name == "end" or cue.name.endswith("_after"):
            break
        within_doubt &= cue.name != "end_of_doubt"
        within_denial &= cue.name != "end_of_denial"
        if within_denial if cue.name == "denied_before" else within_doubt:
            kinds.add(cue.name)
    return kinds


def _kinds_after(mention: _Span, cues: Sequence[_Span], sentence: str) -> set[str]:
    """The kinds of cues that reach back to the mention."""
    kinds: set[str] = set()
    for cue in cues:
        if cue.start < mention.end or cue.name == "end_of_denial":
            continue
        between = sentence[mention.end : cue.start].rstrip(" ,")
        apart = "," in between and not _CONJUNCTION.search(between)
        if apart or cue.name in ("end", "verb") or cue.name.endswith("_before"):
            break
        kinds.add(cue.name)
        if cue.name.endswith("_after"):
            break
    return kinds
