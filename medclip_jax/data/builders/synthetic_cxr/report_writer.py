"""Writes a study's report in MIMIC-CXR's layout, with random wording for what there is to see."""

import re
import textwrap

import numpy as np

from medclip_jax.data.builders.synthetic_cxr import phrases
from medclip_jax.data.builders.synthetic_cxr.findings import (
    CARDIOMEGALY,
    PLEURAL_EFFUSION,
    PNEUMOTHORAX,
    SUPPORT_DEVICES,
    Finding,
)
from medclip_jax.data.builders.synthetic_cxr.patients import Visit

_LINE_LENGTH = 79
_CHANGE_MENTIONED = 0.6
_SUMMARY_NUMBERED = 0.5
_OUTSIDE_THE_LUNGS = {CARDIOMEGALY, SUPPORT_DEVICES}
_MENDED = (
    (r"on the bilateral\b", "on both sides"),
    (r"(over|of) the bilateral (costophrenic angle|base)\b", r"\1 both \2s"),
    (r"([Tt]he) bilateral (lung base|lower lobe|lower lung|base)\b", r"\1 bilateral \2s"),
    (r"([Tt]he bilateral [a-z ]+s) shows", r"\1 show"),
    (r"bilateral (pleural )?effusion\b", r"bilateral \1effusions"),
    (r"(bilateral [a-z ]*effusions) is\b", r"\1 are"),
    (r"(bilateral [a-z ]*effusions) has\b", r"\1 have"),
    (r"There is a ([\w-]+ bilateral)", r"There are \1"),
    (r"\b[Aa] ([\w-]+ bilateral)", r"\1"),
    (r"\b([Aa]) (?=[aeiou]|8 |11 |18 )", r"\1n "),
)


def write_report(visit: Visit, rng: np.random.Generator) -> str:
    """The whole report: header, EXAMINATION, INDICATION, COMPARISON, FINDINGS and IMPRESSION.

    Args:
        visit: the study.
        rng: chooses the words.

    Returns:
        Lines of at most 79 characters that begin with a space, as in MIMIC-CXR. Every finding
        present is stated in FINDINGS and IMPRESSION, with doubt if `visit.doubted` names it;
        absent ones are denied, doubted or left out.
    """
    writer = _Writer(visit, rng)
    view = visit.acquisitions[0].view
    person = writer.pick(phrases.AGE_AND_SEX).format(
        sex=writer.pick(phrases.SEXES["woman" if visit.anatomy.breast else "man"]),
        complaint=writer.pick(phrases.COMPLAINTS),
    )
    comparison = phrases.NO_PRIORS if visit.previous is None else phrases.PRIORS
    sections = [
        ("EXAMINATION", writer.pick(phrases.EXAMINATIONS[view])),
        ("INDICATION", person + "."),
        ("COMPARISON", writer.pick(comparison)),
        ("FINDINGS", " ".join(writer.findings())),
        ("IMPRESSION", writer.impression()),
    ]
    header = " " * 33 + "FINAL REPORT"
    return header + "\n" + "\n \n".join(_section(name, text) for name, text in sections) + "\n"


class _Writer:
    """Words for one study."""

    def __init__(self, visit: Visit, rng: np.random.Generator) -> None:
        self._visit = visit
        self._rng = rng

    def pick(self, options: tuple[str, ...]) -> str:
        """One of the options at random."""
        return options[self._rng.integers(len(options))]

    def findings(self) -> list[str]:
        """The sentences of FINDINGS: what there is in random order, then what there is not."""
        visit = self._visit
        sentences = [self._stated(finding) for finding in visit.findings]
        sentences += [self._doubted(label) for label in sorted(visit.doubted - visit.labels)]
        sentences += self._variants()
        self._rng.shuffle(sentences)
        return sentences + self._resolved() + self._denied()

    def impression(self) -> str:
        """The IMPRESSION: every finding in brief, as a numbered list or in a row."""
        sentences = [self._summed_up(finding) for finding in self._visit.findings]
        if not sentences:
            return self.pick(phrases.NOTHING_ACUTE)
        if len(sentences) > 1 and self._rng.random() < _SUMMARY_NUMBERED:
            return "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(sentences, 1))
        return " ".join(sentences)

    def _stated(self, finding: Finding) -> str:
        if finding.label == SUPPORT_DEVICES:
            return self._fill(self.pick(phrases.DEVICE_PRESENT[finding.kind]), finding)
        wording = phrases.WORDING[finding.label]
        if finding.label in self._visit.doubted:
            return self._fill(self.pick(wording.doubtful), finding)
        return self._with_change(self._fill(self.pick(wording.present), finding), finding)

    def _summed_up(self, finding: Finding) -> str:
        if finding.label == SUPPORT_DEVICES:
            return self._fill(self.pick(phrases.DEVICE_SUMMARY[finding.kind]), finding)
        wording = phrases.WORDING[finding.label]
        doubted = finding.label in self._visit.doubted
        return self._fill(
            self.pick(wording.doubtful_summary if doubted else wording.summary), finding
        )

    def _doubted(self, label: str) -> str:
        """Doubt about something that is not there."""
        side, zone = self.pick(("right", "left")), self.pick(("upper", "mid", "lower"))
        imagined = Finding(label, 1, side=side, zone=zone, size_mm=int(self._rng.integers(8, 15)))
        return self._fill(self.pick(phrases.WORDING[label].doubtful), imagined)

    def _with_change(self, sentence: str, finding: Finding) -> str:
        previous = self._visit.previous
        if previous is None or self._rng.random() > _CHANGE_MENTIONED:
            return sentence
        before = [old for old in previous if old.label == finding.label]
        if not before:
            return f"{sentence[:-1]}, {self.pick(phrases.NEW)}."
        change = int(np.sign(finding.severity - before[0].severity))
        return f"{sentence[:-1]}, {self.pick(phrases.CHANGES[change])}."

    def _resolved(self) -> list[str]:
        sentences = []
        for old in self._visit.previous or ():
            if old.label in self._visit.labels | self._visit.doubted:
                continue
            if old.label == SUPPORT_DEVICES:
                sentences.append(phrases.DEVICE_GONE.format(device=old.kind))
            else:
                gone = self._fill(phrases.WORDING[old.label].gone, old, capital=False)
                sentences.append(_grammatical(self.pick(phrases.RESOLVED).format(finding=gone)))
        return sentences

    def _variants(self) -> list[str]:
        """What else can be seen and is no finding."""
        anatomy = self._visit.anatomy
        sentences = []
        if anatomy.low_volumes:
            sentences.append(self.pick(phrases.LOW_VOLUMES))
        if anatomy.tortuous_aorta:
            sentences.append(self.pick(phrases.TORTUOUS_AORTA))
        if anatomy.has_scoliosis:
            # Convex towards the image's right is convex towards the patient's left.
            direction = "levoscoliosis" if anatomy.scoliosis > 0 else "dextroscoliosis"
            sentences.append(_capitalised(self.pick(phrases.SCOLIOSIS).format(direction=direction)))
        return sentences

    def _denied(self) -> list[str]:
        """Normal organs, and one sentence that denies a few of the absent findings."""
        mentioned = self._visit.labels | self._visit.doubted
        sentences = []
        if CARDIOMEGALY not in mentioned and self._rng.random() < 0.5:
            sentences.append(self.pick(phrases.NORMAL_HEART))
            mentioned |= {CARDIOMEGALY}
        if not mentioned - _OUTSIDE_THE_LUNGS and not self._visit.anatomy.low_volumes:
            sentences.append(self.pick(phrases.CLEAR_LUNGS))
        absent = [label for label in phrases.ABSENT if label not in mentioned]
        often = [label for label in absent if label in (PNEUMOTHORAX, PLEURAL_EFFUSION)]
        rest = [label for label in absent if label not in often and self._rng.random() < 0.35]
        named = [self.pick(phrases.ABSENT[label]) for label in often + rest[:2]]
        if named:
            self._rng.shuffle(named)
            sentences.append(self.pick(phrases.DENIED).format(findings=_enumeration(named)))
        if self._rng.random() < 0.15:
            sentences.append(self.pick(phrases.BONES))
        return sentences

    def _fill(self, template: str, finding: Finding, *, capital: bool = True) -> str:
        place = ""
        if finding.zone:
            place = self.pick(phrases.ZONE_PLACES[finding.zone]).format(side=finding.side)
        wording = phrases.WORDING.get(finding.label)
        text = template.format(
            severity=self.pick(wording.severities[finding.severity - 1]) if wording else "",
            side=finding.side,
            place=place,
            size=self._length(finding.size_mm),
            distance=f"{finding.size_mm / 10:.1f} cm",
        )
        text = _grammatical(text)
        return _capitalised(text) if capital else text

    def _length(self, millimetres: int) -> str:
        if millimetres >= 10 and self._rng.random() < 0.4:
            return f"{millimetres / 10:.1f} cm"
        return f"{millimetres} mm"


def _grammatical(text: str) -> str:
    """Mends what a template cannot know: plurals of what is on both sides, and a or an."""
    for pattern, replacement in _MENDED:
        text = re.sub(pattern, replacement, text)
    return text


def _enumeration(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def _section(name: str, text: str) -> str:
    lines = [f"{name}:  {text}"] if name != "IMPRESSION" else [f"{name}:", "", *text.split("\n")]
    return "\n".join(
        textwrap.fill(line, _LINE_LENGTH, initial_indent=" ", subsequent_indent=" ") or " "
        for line in lines
    )
