"""The reports against a rule-based labeller written for this test alone, and their layout."""

import re

import numpy as np
import pytest

from medclip_jax.data.builders.synthetic_cxr.findings import (
    ATELECTASIS,
    CARDIOMEGALY,
    CONSOLIDATION,
    EDEMA,
    LABEL_NAMES,
    LUNG_LESION,
    NO_FINDING,
    PLEURAL_EFFUSION,
    PNEUMOTHORAX,
    SUPPORT_DEVICES,
    Finding,
)
from medclip_jax.data.builders.synthetic_cxr.patients import Visit, sample_visits
from medclip_jax.data.builders.synthetic_cxr.report_writer import write_report

_MENTIONS = {
    CARDIOMEGALY: r"cardiomegaly|enlarge(d|ment)",
    LUNG_LESION: r"nodul|lesion|density",
    EDEMA: r"edema",
    CONSOLIDATION: r"consolidation|pneumonia",
    ATELECTASIS: r"atelectasis",
    PNEUMOTHORAX: r"pneumothorax",
    PLEURAL_EFFUSION: r"effusion|pleural fluid",
    SUPPORT_DEVICES: r"\btube\b|\bline\b(?! marks| may| without)|catheter|pacemaker|device",
}
_NEGATED = re.compile(
    r"^no\b|\bthere is no\b|\bnot enlarged|no longer|resolved|resolution|removed", re.IGNORECASE
)
_UNCERTAIN = re.compile(r"possibl|may be|cannot (be )?exclude", re.IGNORECASE)
_VISITS = [visit for patient in range(500) for visit in sample_visits(3, patient)]
_REPORTS = [write_report(visit, np.random.default_rng(i)) for i, visit in enumerate(_VISITS)]


def _section(report: str, name: str) -> str:
    match = re.search(rf"^ {name}:(.*?)(?=^ [A-Z]+:|\Z)", report, re.MULTILINE | re.DOTALL)
    assert match, (name, report)
    return " ".join(match.group(1).split())


def _sentences(report: str, *sections: str) -> list[str]:
    text = " ".join(_section(report, name) for name in sections or ("FINDINGS", "IMPRESSION"))
    parts = re.split(r"(?<=[a-zA-Z\]])\.\s+|(?<=mm)\.\s+|(?<=cm)\.\s+", text + " ")
    return [re.sub(r"^\d\. ", "", part).strip() for part in parts if part.strip()]


def _mentions(sentences: list[str], label: str) -> tuple[list[str], list[str], list[str]]:
    """The sentences that state, doubt and deny the label."""
    stated, doubted, denied = [], [], []
    for sentence in sentences:
        # A pleural line is a sign of pneumothorax, not a device.
        text = re.sub(r"pleural line|apical line", "", sentence, flags=re.IGNORECASE)
        if re.search(_MENTIONS[label], text, re.IGNORECASE):
            if _UNCERTAIN.search(text):
                doubted.append(sentence)
            elif _NEGATED.search(text):
                denied.append(sentence)
            else:
                stated.append(sentence)
    return stated, doubted, denied


@pytest.mark.parametrize("label", sorted(_MENTIONS))
@pytest.mark.parametrize("section", ["FINDINGS", "IMPRESSION"])
def test_text_agrees_with_the_labels(label: str, section: str) -> None:
    seen = 0
    for visit, report in zip(_VISITS, _REPORTS, strict=True):
        stated, doubted, denied = _mentions(_sentences(report, section), label)
        if label in visit.labels | visit.doubted:
            assert not denied, report
        if label in visit.labels:
            seen += 1
            if label in visit.doubted:
                assert doubted and not stated, report
            else:
                assert stated and not doubted, report
        else:
            assert not stated, (label, stated, report)
            assert bool(doubted) == (label in visit.doubted and section == "FINDINGS"), report
    assert seen > 50


@pytest.mark.parametrize("label", sorted(_MENTIONS))
def test_absent_findings_are_often_denied(label: str) -> None:
    absent = [
        bool(_mentions(_sentences(report), label)[2])
        for visit, report in zip(_VISITS, _REPORTS, strict=True)
        if label not in visit.labels
    ]
    assert np.mean(absent) > 0.1


def test_a_healthy_study_has_a_healthy_impression() -> None:
    for visit, report in zip(_VISITS, _REPORTS, strict=True):
        impression = _section(report, "IMPRESSION")
        healthy = bool(re.search(r"^(No |Normal|Unremarkable)", impression))
        assert healthy == (not visit.labels), report


def test_sides_zones_and_sizes_are_those_of_the_finding() -> None:
    for visit, report in zip(_VISITS, _REPORTS, strict=True):
        findings = _sentences(report, "FINDINGS")
        for finding in visit.findings:
            stated, doubted, _ = _mentions(findings, finding.label)
            text = " ".join(stated + doubted).lower()
            if finding.side in ("right", "left"):
                assert finding.side in text, (finding, text)
                if finding.label != SUPPORT_DEVICES:
                    other = {"right": "left", "left": "right"}[finding.side]
                    assert other not in text, (finding, text)
            elif finding.side == "bilateral" and finding.label != EDEMA:
                assert re.search(r"bilateral|both", text), (finding, text)
            if finding.zone:
                words = {"upper": r"upper", "mid": r"mid ?lung", "lower": r"lower|base"}
                assert re.search(words[finding.zone], text), (finding, text)
            if finding.label == LUNG_LESION and finding.label not in visit.doubted:
                assert _millimetres(text) == finding.size_mm, (finding, text)


def _millimetres(text: str) -> int:
    number, unit = re.findall(r"([\d.]+) (mm|cm)", text)[0]
    return round(float(number) * (10 if unit == "cm" else 1))


@pytest.mark.parametrize("report", _REPORTS[:100])
def test_layout_is_that_of_mimic(report: str) -> None:
    lines = report.splitlines()
    assert lines[0].strip() == "FINAL REPORT"
    assert all(line.startswith(" ") and len(line) <= 79 for line in lines)
    names = re.findall(r"^ ([A-Z]+):", report, re.MULTILINE)
    assert names == ["EXAMINATION", "INDICATION", "COMPARISON", "FINDINGS", "IMPRESSION"]
    assert "{" not in report and "  is" not in report


def test_comparison_mentions_a_prior_study_if_there_is_one() -> None:
    for visit, report in zip(_VISITS, _REPORTS, strict=True):
        assert ("___" in _section(report, "COMPARISON")) == (visit.previous is not None)
        if visit.previous is None:
            assert not re.search(
                r"prior|previous|new |unchanged|resol", _section(report, "FINDINGS")
            )


def test_change_is_in_the_right_direction() -> None:
    worse, better = r"increased|worse|progressed", r"improved|decreased|less than"
    seen = 0
    for visit, report in zip(_VISITS, _REPORTS, strict=True):
        before = {f.label: f.severity for f in visit.previous or ()}
        for finding in visit.findings:
            text = " ".join(_mentions(_sentences(report, "FINDINGS"), finding.label)[0])
            step = finding.severity - before.get(finding.label, finding.severity)
            seen += bool(re.search(f"{worse}|{better}", text))
            assert not re.search(worse, text) or step > 0, (finding, text)
            assert not re.search(better, text) or step < 0, (finding, text)
            if visit.previous is not None:
                assert not re.search(r"\bnew\b", text) or finding.label not in before
    assert seen > 20


def test_sex_is_the_same_in_all_studies_of_a_patient() -> None:
    for patient in range(40):
        sexes = {
            bool(re.search(r"\b(woman|female)\b", write_report(visit, np.random.default_rng(i))))
            for i, visit in enumerate(sample_visits(5, patient))
        }
        assert len(sexes) == 1


def test_there_are_many_paraphrases() -> None:
    visit = next(v for v in _VISITS if v.labels == {CONSOLIDATION} and not v.doubted)
    texts = [write_report(visit, np.random.default_rng(seed)) for seed in range(200)]
    stated = {_mentions(_sentences(text, "FINDINGS"), CONSOLIDATION)[0][0] for text in texts}
    assert len(stated) > 30
    assert len(set(texts)) > 195


def test_the_words_follow_from_the_generator_alone() -> None:
    assert write_report(_VISITS[0], np.random.default_rng(9)) == write_report(
        _VISITS[0], np.random.default_rng(9)
    )


@pytest.mark.parametrize("label", [PLEURAL_EFFUSION, ATELECTASIS])
def test_grammar_of_what_is_on_both_sides(label: str) -> None:
    zone = "lower" if label == ATELECTASIS else ""
    for seed in range(200):
        base = _VISITS[seed]
        finding = Finding(label, 1 + seed % 3, side="bilateral", zone=zone)
        visit = Visit(base.anatomy, (finding,), (finding,), frozenset(), base.acquisitions)
        text = " ".join(_sentences(write_report(visit, np.random.default_rng(seed))))
        assert not re.search(r"bilateral (pleural )?effusion\b", text), text
        assert not re.search(r"(bilateral \w+ ?\w*s) (is|shows|has)\b", text), text
        assert not re.search(r"\ba \w+ bilateral|on the bilateral|angle is", text, re.I), text


def test_articles() -> None:
    for report in _REPORTS:
        assert not re.search(r"\b[Aa] (?=[aeiou]|8 mm|11 mm|18 mm)", " ".join(report.split()))
        assert not re.search(r"\b[Aa]n (?=[^aeiou81_\s])", " ".join(report.split()))


def test_label_names_are_chexpert_s() -> None:
    chexpert = {
        "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
        "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
        "Pleural Other", "Fracture", "Support Devices",
    }  # fmt: skip
    assert set(LABEL_NAMES) <= chexpert and LABEL_NAMES[0] == NO_FINDING
