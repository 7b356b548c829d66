"""Who is examined: patients, their studies over time, the findings of each and how it was taken."""

import dataclasses

import numpy as np

from medclip_jax.data.builders.synthetic_cxr.anatomy import SIDES, Anatomy, sample_anatomy
from medclip_jax.data.builders.synthetic_cxr.devices import (
    CENTRAL_LINE,
    DEVICE_KINDS,
    ENDOTRACHEAL_TUBE,
    NASOGASTRIC_TUBE,
    PACEMAKER,
)
from medclip_jax.data.builders.synthetic_cxr.exposure import Acquisition, sample_acquisition
from medclip_jax.data.builders.synthetic_cxr.findings import (
    ATELECTASIS,
    CARDIOMEGALY,
    CONSOLIDATION,
    EDEMA,
    LUNG_LESION,
    PLEURAL_EFFUSION,
    PNEUMOTHORAX,
    SUPPORT_DEVICES,
    ZONES,
    Finding,
)

# In the order of drawing lots for a place: what fills a whole side comes first.
_FREQUENCIES = {
    PNEUMOTHORAX: 0.95,
    PLEURAL_EFFUSION: 1.25,
    CONSOLIDATION: 1.0,
    ATELECTASIS: 1.1,
    LUNG_LESION: 0.95,
    CARDIOMEGALY: 1.0,
    EDEMA: 0.85,
    SUPPORT_DEVICES: 1.25,
}
_COMPANIONS = {
    frozenset({EDEMA, CARDIOMEGALY}): 1.8,
    frozenset({EDEMA, PLEURAL_EFFUSION}): 1.6,
    frozenset({PNEUMOTHORAX, SUPPORT_DEVICES}): 1.6,
    frozenset({ATELECTASIS, SUPPORT_DEVICES}): 1.3,
}
_NUM_FINDINGS = (0.30, 0.25, 0.26, 0.19)
_NUM_STUDIES = (0.55, 0.27, 0.18)
_SEVERITIES = (0.30, 0.40, 0.30)
_NODULE_SIZES = ((10, 15), (16, 22), (23, 30))
_PERSISTENCE = 0.7
_SECOND_IMAGE = 0.3
_SECOND_DEVICE = 0.3
DOUBT_IF_MILD = 0.30
DOUBT_IF_ABSENT = 0.03


@dataclasses.dataclass(frozen=True)
class Visit:
    """One study before it is taken and reported.

    Attributes:
        anatomy: the chest on that day (inspiration differs from day to day).
        findings: what there is; device findings may be several.
        previous: the findings of the study before, None at the first study.
        doubted: labels that the report neither states nor excludes, present (mild) or absent.
        acquisitions: how each image is taken; all have one view.
    """

    anatomy: Anatomy
    findings: tuple[Finding, ...]
    previous: tuple[Finding, ...] | None
    doubted: frozenset[str]
    acquisitions: tuple[Acquisition, ...]

    @property
    def labels(self) -> frozenset[str]:
        """The labels of what is present."""
        return frozenset(finding.label for finding in self.findings)


def sample_visits(seed: int, patient: int) -> list[Visit]:
    """All studies of one patient, in order of time; depends on (seed, patient) alone."""
    rng = np.random.default_rng([seed, patient, 0])
    anatomy = sample_anatomy(rng)
    visits: list[Visit] = []
    findings: tuple[Finding, ...] | None = None
    for _ in range(1 + rng.choice(len(_NUM_STUDIES), p=_NUM_STUDIES)):
        previous, findings = findings, _sample_findings(rng, findings or ())
        visits.append(
            Visit(
                anatomy=_breathe(rng, anatomy),
                findings=findings,
                previous=previous,
                doubted=_sample_doubts(rng, findings),
                acquisitions=_sample_acquisitions(rng, findings),
            )
        )
    return visits


def _breathe(rng: np.random.Generator, anatomy: Anatomy) -> Anatomy:
    depth = rng.uniform(-0.11, -0.09) if rng.random() < 0.15 else rng.uniform(-0.01, 0.01)
    return dataclasses.replace(anatomy, base_y=anatomy.base_y + depth)


def _sample_findings(
    rng: np.random.Generator, previous: tuple[Finding, ...]
) -> tuple[Finding, ...]:
    """0 to 3 kinds of findings, some of them those of the study before."""
    number = int(rng.choice(len(_NUM_FINDINGS), p=_NUM_FINDINGS))
    old_labels = list(dict.fromkeys(finding.label for finding in previous))
    rng.shuffle(old_labels)
    kept = [label for label in old_labels if rng.random() < _PERSISTENCE][:number]
    findings = [_evolve(rng, finding) for finding in previous if finding.label in kept]
    labels = _sample_labels(rng, kept, number)
    for label in [label for label in _FREQUENCIES if label in labels and label not in kept]:
        findings += _sample_finding(rng, label, findings)
    return tuple(findings)


def _sample_labels(rng: np.random.Generator, kept: list[str], number: int) -> list[str]:
    labels = list(kept)
    while len(labels) < number:
        left = [label for label in _FREQUENCIES if label not in labels]
        weights = np.array([_FREQUENCIES[label] for label in left])
        for index, label in enumerate(left):
            for present in labels:
                weights[index] *= _COMPANIONS.get(frozenset({label, present}), 1.0)
        labels.append(left[rng.choice(len(left), p=weights / weights.sum())])
    return labels


def _sample_finding(rng: np.random.Generator, label: str, others: list[Finding]) -> list[Finding]:
    if label == SUPPORT_DEVICES:
        return _sample_devices(rng)
    severity = 1 + int(rng.choice(3, p=_SEVERITIES))
    seed = int(rng.integers(2**31))
    if label == CARDIOMEGALY:
        return [Finding(label, severity, seed=seed)]
    if label == EDEMA:
        return [Finding(label, severity, side="bilateral", seed=seed)]
    side, zone = _sample_place(rng, label, others)
    size = int(rng.integers(*_NODULE_SIZES[severity - 1], endpoint=True))
    size_mm = size if label == LUNG_LESION else 0
    return [Finding(label, severity, side=side, zone=zone, size_mm=size_mm, seed=seed)]


def _sample_place(rng: np.random.Generator, label: str, others: list[Finding]) -> tuple[str, str]:
    """A side and a zone where none of the others is, if there is such a place."""
    taken = {place for other in others for place in _places(other)}
    zones = ("lower", "lower", *ZONES) if label == ATELECTASIS else ZONES
    places = [(side, zone) for side in SIDES for zone in zones]
    if label == PLEURAL_EFFUSION:
        places = [(side, "") for side in (*SIDES, *SIDES, "bilateral")]
    if label == PNEUMOTHORAX:
        places = [(side, "") for side in SIDES]
    if label == ATELECTASIS:
        places.append(("bilateral", "lower"))
    candidates = [Finding(label, 1, side=side, zone=zone) for side, zone in places]
    free = [finding for finding in candidates if not taken & _places(finding)] or candidates
    chosen = free[rng.integers(len(free))]
    return chosen.side, chosen.zone


def _places(finding: Finding) -> set[tuple[str, str]]:
    """The (side, zone) pairs in which a finding would hide another one."""
    if finding.label == PNEUMOTHORAX:
        return {(finding.side, zone) for zone in ZONES}
    if finding.label == PLEURAL_EFFUSION:
        zones = ("mid", "lower") if finding.severity == 3 else ("lower",)
        return {(side, zone) for side in finding.sides for zone in zones}
    if finding.zone:
        return {(side, finding.zone) for side in finding.sides}
    return set()


def _sample_devices(rng: np.random.Generator) -> list[Finding]:
    number = 2 if rng.random() < _SECOND_DEVICE else 1
    kinds = rng.choice(len(DEVICE_KINDS), number, replace=False)
    return [_sample_device(rng, DEVICE_KINDS[kind]) for kind in kinds]


def _sample_device(rng: np.random.Generator, kind: str) -> Finding:
    side = ""
    if kind == CENTRAL_LINE:
        side = str(rng.choice(SIDES))
    if kind == PACEMAKER:
        side = "left" if rng.random() < 0.8 else "right"
    tip_mm = int(rng.integers(20, 60)) if kind == ENDOTRACHEAL_TUBE else 0
    seed = int(rng.integers(2**31))
    return Finding(SUPPORT_DEVICES, 2, side=side, kind=kind, size_mm=tip_mm, seed=seed)


def _evolve(rng: np.random.Generator, finding: Finding) -> Finding:
    """The finding at the next study: as severe as it was, or one step up or down."""
    if finding.label == SUPPORT_DEVICES:
        return finding
    step = int(rng.choice([-1, 0, 1], p=[0.25, 0.5, 0.25]))
    severity = int(np.clip(finding.severity + step, 1, 3))
    size_mm = finding.size_mm
    if finding.label == LUNG_LESION and severity != finding.severity:
        size_mm = int(rng.integers(*_NODULE_SIZES[severity - 1], endpoint=True))
    return dataclasses.replace(finding, severity=severity, size_mm=size_mm)


def _sample_doubts(rng: np.random.Generator, findings: tuple[Finding, ...]) -> frozenset[str]:
    present = {finding.label: finding.severity for finding in findings}
    doubted = set()
    for label in _FREQUENCIES:
        mild = present.get(label) == 1
        rate = DOUBT_IF_MILD if mild else 0.0 if label in present else DOUBT_IF_ABSENT
        if label != SUPPORT_DEVICES and rng.random() < rate:
            doubted.add(label)
    return frozenset(doubted)


def _sample_acquisitions(
    rng: np.random.Generator, findings: tuple[Finding, ...]
) -> tuple[Acquisition, ...]:
    bedridden = any(f.kind in (ENDOTRACHEAL_TUBE, CENTRAL_LINE, NASOGASTRIC_TUBE) for f in findings)
    view = "AP" if rng.random() < (0.85 if bedridden else 0.4) else "PA"
    number = 2 if rng.random() < _SECOND_IMAGE else 1
    return tuple(sample_acquisition(rng, view) for _ in range(number))
