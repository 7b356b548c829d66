"""The wording of the reports: for every finding how it is stated, doubted, denied and summed up.

In the templates `{severity}`, `{side}`, `{place}` (side and zone), `{size}`, `{distance}` and
`{device}` stand for the finding's own words. A sentence about one finding never names another one.
"""

import dataclasses

from medclip_jax.data.builders.synthetic_cxr.devices import (
    CENTRAL_LINE,
    ENDOTRACHEAL_TUBE,
    NASOGASTRIC_TUBE,
    PACEMAKER,
)
from medclip_jax.data.builders.synthetic_cxr.findings import (
    ATELECTASIS,
    CARDIOMEGALY,
    CONSOLIDATION,
    EDEMA,
    LUNG_LESION,
    PLEURAL_EFFUSION,
    PNEUMOTHORAX,
    SUPPORT_DEVICES,
)


@dataclasses.dataclass(frozen=True)
class Wording:
    """How one finding is written about.

    Attributes:
        severities: words for mild, moderate and severe.
        present: sentences of the FINDINGS.
        doubtful: sentences that neither state nor exclude it.
        summary: sentences of the IMPRESSION.
        doubtful_summary: sentences of the IMPRESSION that neither state nor exclude it.
        absent: what "no ..." denies.
        gone: what has resolved since the last study.
    """

    severities: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    present: tuple[str, ...]
    doubtful: tuple[str, ...]
    summary: tuple[str, ...]
    doubtful_summary: tuple[str, ...]
    absent: tuple[str, ...]
    gone: str


_SIZES = (("small", "tiny"), ("moderate", "medium-sized"), ("large", "sizable"))
_GRADES = (("mild", "slight"), ("moderate",), ("severe", "marked"))

WORDING = {
    CARDIOMEGALY: Wording(
        severities=_GRADES,
        present=(
            "There is {severity} cardiomegaly.",
            "The heart is enlarged to a {severity} degree.",
            "{severity} enlargement of the cardiac silhouette is seen.",
            "The cardiac silhouette shows {severity} enlargement.",
            "{severity} cardiomegaly is present.",
            "Heart size shows {severity} enlargement.",
        ),
        doubtful=(
            "The heart is possibly enlarged.",
            "Mild cardiomegaly cannot be excluded.",
            "Heart size is borderline, possible mild cardiomegaly.",
        ),
        summary=("{severity} cardiomegaly.", "{severity} enlargement of the heart."),
        doubtful_summary=("Possible mild cardiomegaly.", "Cannot exclude mild cardiomegaly."),
        absent=("cardiomegaly", "enlargement of the heart"),
        gone="cardiomegaly",
    ),
    PLEURAL_EFFUSION: Wording(
        severities=_SIZES,
        present=(
            "There is a {severity} {side} pleural effusion.",
            "A {severity} {side} pleural effusion is present.",
            "{severity} {side} pleural effusion is noted.",
            "{severity} amount of pleural fluid on the {side}.",
            "Blunting of the {side} costophrenic angle is due to a {severity} pleural effusion.",
            "The {side} pleural effusion is {severity}.",
            "A meniscus over the {side} base is from a {severity} effusion.",
        ),
        doubtful=(
            "A small {side} pleural effusion is possible.",
            "A small {side} pleural effusion cannot be excluded.",
            "Slight blunting of the {side} costophrenic angle may be a small effusion.",
        ),
        summary=(
            "{severity} {side} pleural effusion.",
            "{side} pleural effusion, {severity}.",
            "{severity} {side} effusion.",
        ),
        doubtful_summary=(
            "Possible small {side} pleural effusion.",
            "Cannot exclude a small {side} pleural effusion.",
        ),
        absent=("pleural effusion", "effusion", "pleural fluid"),
        gone="{side} pleural effusion",
    ),
    PNEUMOTHORAX: Wording(
        severities=_SIZES,
        present=(
            "There is a {severity} {side} pneumothorax.",
            "A {severity} {side} pneumothorax is present.",
            "{severity} {side} pneumothorax with a visible pleural line.",
            "A {side} visceral pleural line marks a {severity} pneumothorax.",
            "The {side} pneumothorax is {severity}.",
            "Lucency without lung markings on the {side} is a {severity} pneumothorax.",
        ),
        doubtful=(
            "A small {side} apical pneumothorax is possible.",
            "A tiny {side} pneumothorax cannot be excluded.",
            "A {side} apical line may be a skin fold or a small pneumothorax.",
        ),
        summary=("{severity} {side} pneumothorax.", "{side} pneumothorax, {severity}."),
        doubtful_summary=(
            "Possible small {side} pneumothorax.",
            "Cannot exclude a small {side} pneumothorax.",
        ),
        absent=("pneumothorax",),
        gone="{side} pneumothorax",
    ),
    CONSOLIDATION: Wording(
        severities=(("focal", "small"), ("moderate", "patchy"), ("large", "extensive")),
        present=(
            "There is a {severity} consolidation in the {place}.",
            "{severity} airspace consolidation is seen in the {place}.",
            "A {severity} area of consolidation involves the {place}.",
            "{severity} airspace opacity in the {place}, compatible with consolidation.",
            "The {place} shows {severity} consolidation.",
            "Fluffy opacity in the {place} is a {severity} consolidation.",
        ),
        doubtful=(
            "A subtle opacity in the {place} may be an early consolidation.",
            "A focal consolidation in the {place} cannot be excluded.",
            "Possible focal consolidation in the {place}.",
        ),
        summary=(
            "{severity} {place} consolidation.",
            "{severity} consolidation in the {place}, concerning for pneumonia.",
            "{place} pneumonia with {severity} consolidation.",
        ),
        doubtful_summary=(
            "Possible {place} consolidation.",
            "Cannot exclude consolidation in the {place}.",
        ),
        absent=("focal consolidation", "consolidation", "airspace consolidation"),
        gone="consolidation in the {place}",
    ),
    EDEMA: Wording(
        severities=_GRADES,
        present=(
            "There is {severity} pulmonary edema.",
            "{severity} pulmonary edema with perihilar haze on both sides.",
            "Bilateral perihilar opacities represent {severity} pulmonary edema.",
            "{severity} bat-wing edema is present.",
            "Findings of {severity} pulmonary edema with vascular congestion.",
            "Hazy perihilar opacities bilaterally are in keeping with {severity} edema.",
        ),
        doubtful=(
            "Mild pulmonary edema is possible.",
            "Mild interstitial edema cannot be excluded.",
            "Slight perihilar haze may be mild edema.",
        ),
        summary=("{severity} pulmonary edema.", "{severity} edema."),
        doubtful_summary=("Possible mild pulmonary edema.", "Cannot exclude mild edema."),
        absent=("pulmonary edema", "edema", "overt edema"),
        gone="pulmonary edema",
    ),
    ATELECTASIS: Wording(
        severities=(("mild", "minor"), ("moderate",), ("extensive", "marked")),
        present=(
            "There is {severity} atelectasis in the {place}.",
            "{severity} linear atelectasis is seen in the {place}.",
            "{severity} plate-like atelectasis in the {place}.",
            "Band-like opacity in the {place} reflects {severity} atelectasis.",
            "The {place} shows {severity} subsegmental atelectasis.",
            "Linear opacities in the {place} are {severity} atelectasis.",
        ),
        doubtful=(
            "Faint linear opacity in the {place} may be atelectasis.",
            "Minor atelectasis in the {place} is possible.",
            "Atelectasis in the {place} cannot be excluded.",
        ),
        summary=("{severity} {place} atelectasis.", "{severity} atelectasis in the {place}."),
        doubtful_summary=("Possible {place} atelectasis.", "Cannot exclude {place} atelectasis."),
        absent=("atelectasis",),
        gone="atelectasis in the {place}",
    ),
    LUNG_LESION: Wording(
        severities=(("small", "subtle"), ("medium-sized",), ("large", "dominant")),
        present=(
            "There is a {size} nodule in the {place}.",
            "A {severity} pulmonary nodule in the {place} measures {size}.",
            "{severity} rounded nodule in the {place}, {size} in diameter.",
            "A {size} nodular opacity projects over the {place}.",
            "Well-defined {severity} nodule of {size} in the {place}.",
            "The {place} contains a {severity} lung lesion, a nodule of {size}.",
        ),
        doubtful=(
            "A small nodular opacity in the {place} is possible.",
            "A small nodule in the {place} cannot be excluded.",
            "A {size} density in the {place} may be a nodule.",
        ),
        summary=(
            "{size} nodule in the {place}. CT is recommended.",
            "{severity} {place} nodule.",
            "{severity} {place} pulmonary nodule, {size}.",
        ),
        doubtful_summary=("Possible {place} nodule.", "Cannot exclude a {place} nodule."),
        absent=("pulmonary nodule", "suspicious nodule", "lung lesion"),
        gone="nodule in the {place}",
    ),
}

DEVICE_PRESENT = {
    ENDOTRACHEAL_TUBE: (
        "Endotracheal tube tip is {distance} above the carina.",
        "An endotracheal tube terminates {distance} above the carina.",
        "The patient is intubated; the endotracheal tube ends {distance} above the carina.",
        "ET tube in place, {distance} above the carina.",
    ),
    CENTRAL_LINE: (
        "A {side} subclavian central line ends in the SVC.",
        "{side}-sided central venous catheter with its tip in the superior vena cava.",
        "{side} central venous line terminates in the SVC.",
        "The tip of the {side} subclavian catheter projects over the superior vena cava.",
    ),
    PACEMAKER: (
        "A {side} chest wall pacemaker has its lead in the right ventricle.",
        "{side}-sided pacemaker generator with a lead to the right ventricle.",
        "{side} pectoral pacemaker with an intact lead.",
        "Single-lead pacemaker on the {side}.",
    ),
    NASOGASTRIC_TUBE: (
        "A nasogastric tube passes below the diaphragm into the stomach.",
        "NG tube tip projects over the stomach.",
        "An enteric tube courses below the left hemidiaphragm.",
        "Nasogastric tube in the stomach.",
    ),
}
DEVICE_SUMMARY = {
    ENDOTRACHEAL_TUBE: ("Endotracheal tube in good position.", "Intubated, ET tube as described."),
    CENTRAL_LINE: ("{side} central line in the SVC.", "Satisfactory {side} central venous line."),
    PACEMAKER: ("{side} pacemaker in place.", "Pacemaker on the {side}, lead intact."),
    NASOGASTRIC_TUBE: ("Nasogastric tube in the stomach.", "NG tube in good position."),
}
DEVICE_GONE = "The {device} has been removed."
DEVICE_ABSENT = ("support device", "indwelling device")
ABSENT = {label: wording.absent for label, wording in WORDING.items()} | {
    SUPPORT_DEVICES: DEVICE_ABSENT
}

ZONE_PLACES = {
    "upper": ("{side} upper lobe", "{side} upper lung", "{side} upper lung zone"),
    "mid": ("{side} mid lung", "{side} mid lung zone", "{side} midlung"),
    "lower": ("{side} lower lobe", "{side} lung base", "{side} lower lung", "{side} base"),
}

NEW = ("new since the prior study", "new compared with the prior radiograph", "a new finding")
CHANGES = {
    -1: ("improved since the prior study", "decreased from prior", "less than before"),
    0: ("unchanged", "stable from prior", "similar to the prior study"),
    1: (
        "increased since the prior study",
        "worse than on the prior study",
        "progressed from prior",
    ),
}
RESOLVED = (
    "Previously seen {finding} has resolved.",
    "The {finding} is no longer seen.",
    "Interval resolution of the {finding}.",
)

NORMAL_HEART = (
    "Heart size is normal.",
    "The cardiac silhouette is normal in size.",
    "The heart is not enlarged.",
    "Cardiac size is within normal limits.",
)
CLEAR_LUNGS = (
    "The lungs are clear.",
    "Both lungs are clear.",
    "The lungs are well expanded and clear.",
    "Lungs are clear bilaterally.",
)
LOW_VOLUMES = ("Lung volumes are low.", "Low lung volumes.", "Inspiratory effort is poor.")
TORTUOUS_AORTA = (
    "The aortic knob is prominent.",
    "The thoracic aorta is tortuous.",
    "Tortuous aorta with a prominent knob.",
)
SCOLIOSIS = (
    "There is {direction} of the thoracic spine.",
    "Thoracic {direction} is noted.",
    "{direction} of the thoracic spine.",
)
BONES = (
    "No acute osseous abnormality.",
    "The osseous structures are intact.",
    "Bony structures are unremarkable.",
)
DENIED = (
    "No {findings}.",
    "There is no {findings}.",
    "No {findings} is seen.",
    "No {findings} identified.",
)
NOTHING_ACUTE = (
    "No acute cardiopulmonary process.",
    "No acute cardiopulmonary abnormality.",
    "No evidence of acute cardiopulmonary disease.",
    "Normal chest radiograph.",
    "Unremarkable chest radiograph.",
)

AGE_AND_SEX = ("___ year old {sex} with {complaint}", "___-year-old {sex} with {complaint}")
SEXES = {"man": ("man", "male"), "woman": ("woman", "female")}
COMPLAINTS = (
    "cough",
    "shortness of breath",
    "chest pain",
    "fever and cough",
    "dyspnea on exertion",
    "hypoxia",
    "altered mental status",
    "fall, evaluate for injury",
    "weakness",
    "heart failure, evaluate for interval change",
    "shortness of breath, evaluate for pneumonia",
    "leukocytosis, question infiltrate",
)
EXAMINATIONS = {
    "PA": ("CHEST (PA)", "Chest radiograph, PA view"),
    "AP": ("CHEST (PORTABLE AP)", "Portable AP chest radiograph"),
}
PRIORS = (
    "Chest radiograph dated ___.",
    "___.",
    "Chest radiograph from ___.",
    "Prior study of ___.",
)
NO_PRIORS = ("None.", "No prior studies available.", "None available.")
