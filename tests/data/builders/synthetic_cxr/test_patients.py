"""The sampling of patients: prevalence, persistence, places, and dependence on the seed alone."""

import collections
import dataclasses

import numpy as np
import pytest

from medclip_jax.data.builders.synthetic_cxr import patients
from medclip_jax.data.builders.synthetic_cxr.devices import DEVICE_KINDS, ENDOTRACHEAL_TUBE
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
    ZONES,
)
from medclip_jax.data.builders.synthetic_cxr.patients import Visit, sample_visits

_PATIENTS = [sample_visits(0, patient) for patient in range(3000)]
_VISITS = [visit for visits in _PATIENTS for visit in visits]


def test_a_patient_depends_on_seed_and_number_alone() -> None:
    assert sample_visits(0, 17) == _PATIENTS[17]
    assert sample_visits(1, 17) != _PATIENTS[17]
    assert len({visits[0].anatomy for visits in _PATIENTS}) == len(_PATIENTS)


def test_prevalence() -> None:
    counts = collections.Counter(label for visit in _VISITS for label in visit.labels)
    rates = {label: count / len(_VISITS) for label, count in counts.items()}
    assert set(rates) == set(LABEL_NAMES) - {NO_FINDING}
    assert min(rates.values()) >= 0.12 and max(rates.values()) <= 0.25
    healthy = np.mean([not visit.labels for visit in _VISITS])
    assert 0.25 <= healthy <= 0.35
    assert {len(visit.labels) for visit in _VISITS} == {0, 1, 2, 3}


def test_number_of_studies_and_images() -> None:
    assert {len(visits) for visits in _PATIENTS} == {1, 2, 3}
    assert {len(visit.acquisitions) for visit in _VISITS} == {1, 2}
    for visit in _VISITS:
        assert len({acquisition.view for acquisition in visit.acquisitions}) == 1
        assert len(set(visit.acquisitions)) == len(visit.acquisitions)


def test_only_the_first_study_has_no_previous_one() -> None:
    for visits in _PATIENTS:
        assert visits[0].previous is None
        for before, after in zip(visits, visits[1:], strict=False):
            assert after.previous == before.findings


def test_findings_persist_more_often_than_by_chance_and_keep_their_place() -> None:
    persisted, chance, moved = [], [], 0
    prevalence = np.mean([EDEMA in visit.labels for visit in _VISITS])
    for visit in _VISITS:
        for old in visit.previous or ():
            same = [f for f in visit.findings if f.seed == old.seed and f.label == old.label]
            persisted.append(bool(same))
            chance.append(prevalence)
            moved += sum((f.side, f.zone, f.kind) != (old.side, old.zone, old.kind) for f in same)
            assert all(abs(f.severity - old.severity) <= 1 for f in same)
    assert np.mean(persisted) > np.mean(chance) + 0.2
    assert moved == 0


def test_the_body_stays_and_only_the_inspiration_changes() -> None:
    for visits in _PATIENTS:
        bodies = {dataclasses.replace(visit.anatomy, base_y=0.0) for visit in visits}
        assert len(bodies) == 1
    assert 0.10 < np.mean([visit.anatomy.low_volumes for visit in _VISITS]) < 0.20


@pytest.mark.parametrize("label", [LUNG_LESION, CONSOLIDATION, ATELECTASIS])
def test_findings_of_the_lung_have_every_side_and_zone(label: str) -> None:
    places = {(f.side, f.zone) for visit in _VISITS for f in visit.findings if f.label == label}
    expected = {(side, zone) for side in ("right", "left") for zone in ZONES}
    assert places - {("bilateral", "lower")} == expected


def test_attributes_fit_the_finding() -> None:
    for finding in (finding for visit in _VISITS for finding in visit.findings):
        assert finding.severity in (1, 2, 3)
        lateral = finding.label in (PLEURAL_EFFUSION, PNEUMOTHORAX, LUNG_LESION, CONSOLIDATION)
        assert bool(finding.side) or not lateral
        assert (finding.side == "") == (finding.label == CARDIOMEGALY) or finding.kind
        assert bool(finding.kind) == (finding.label == SUPPORT_DEVICES)
        if finding.label == LUNG_LESION:
            low, high = ((8, 15), (16, 22), (23, 30))[finding.severity - 1]
            assert low <= finding.size_mm <= high
        elif finding.kind == ENDOTRACHEAL_TUBE:
            assert 20 <= finding.size_mm < 60
        else:
            assert finding.size_mm == 0
    kinds = {f.kind for visit in _VISITS for f in visit.findings} - {""}
    assert kinds == set(DEVICE_KINDS)


def test_new_findings_do_not_hide_one_another() -> None:
    for visits in _PATIENTS:
        taken: list[tuple[str, str]] = []
        for finding in visits[0].findings:
            if finding.label == PNEUMOTHORAX:
                taken += [(finding.side, zone) for zone in ZONES]
            elif finding.label == PLEURAL_EFFUSION:
                taken += [(side, "lower") for side in finding.sides]
            elif finding.zone:
                taken += [(side, finding.zone) for side in finding.sides]
        assert len(taken) == len(set(taken)), visits[0].findings


def _doubt_rate(visits: list[Visit], *, mild: bool) -> float:
    hits = []
    for visit in visits:
        severity = {finding.label: finding.severity for finding in visit.findings}
        for label in set(LABEL_NAMES) - {NO_FINDING, SUPPORT_DEVICES}:
            if (severity.get(label) == 1) if mild else (label not in severity):
                hits.append(label in visit.doubted)
    return float(np.mean(hits))


def test_doubt_has_its_documented_rates() -> None:
    assert _doubt_rate(_VISITS, mild=True) == pytest.approx(patients.DOUBT_IF_MILD, abs=0.04)
    assert _doubt_rate(_VISITS, mild=False) == pytest.approx(patients.DOUBT_IF_ABSENT, abs=0.006)
    for visit in _VISITS:
        severities = {f.label: f.severity for f in visit.findings if f.label in visit.doubted}
        assert all(severity == 1 for severity in severities.values())
        assert SUPPORT_DEVICES not in visit.doubted
