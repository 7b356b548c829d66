"""What the finding extractor takes for a finding: the words for each, and for normal organs.

The labels are CheXpert's (Irvin et al., arXiv 1901.07031), of which the synthetic set has nine. The
words are those of chest X-ray reports at large; all patterns are for text in lower case whose
hyphens are blanks. What bears on a finding is in `finding_cues`.
"""

import dataclasses
import re

NO_FINDING = "No Finding"
ENLARGED_CARDIOMEDIASTINUM = "Enlarged Cardiomediastinum"
CARDIOMEGALY = "Cardiomegaly"
LUNG_OPACITY = "Lung Opacity"
LUNG_LESION = "Lung Lesion"
EDEMA = "Edema"
CONSOLIDATION = "Consolidation"
PNEUMONIA = "Pneumonia"
ATELECTASIS = "Atelectasis"
PNEUMOTHORAX = "Pneumothorax"
PLEURAL_EFFUSION = "Pleural Effusion"
PLEURAL_OTHER = "Pleural Other"
FRACTURE = "Fracture"
SUPPORT_DEVICES = "Support Devices"


@dataclasses.dataclass(frozen=True)
class Terms:
    """How a finding is named; words are separated by spaces.

    Attributes:
        words: words that name it wherever they stand.
        phrases: patterns of what names it by several words, or in some places only.
        key_words: words of the phrases that name a finding there.
    """

    words: str = ""
    phrases: tuple[str, ...] = ()
    key_words: str = ""

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches every mention."""
        words = (word.replace("-", " ") for word in self.words.split())
        return re.compile(rf"\b(?:{'|'.join((*self.phrases, *words))})\b")


# A few words that may stand between two that belong together.
_FEW = r"(?:(?!(?:with|without|no|non|but|or|and|normal)\b)[\w/]+ ){0,4}?"
_HEART = r"(?:heart(?! failure)|cardiac|cardiopericardial)"
_MEDIASTINUM = r"(?:cardio ?)?mediastin\w*"

TERMS = {
    ENLARGED_CARDIOMEDIASTINUM: Terms(
        phrases=(
            rf"{_MEDIASTINUM} {_FEW}(?:widen\w*|wide|enlarge\w*|prominent|prominence)",
            rf"(?:widen\w*|enlarge\w*|prominent|prominence) {_FEW}{_MEDIASTINUM}",
        ),
        key_words="widened widening",
    ),
    CARDIOMEGALY: Terms(
        words="cardiomegaly cardiomegalic",
        phrases=(
            rf"{_HEART} {_FEW}(?:enlarge\w*|prominent|increased|large|borderline)",
            rf"{_HEART} {_FEW}normal (?:or|to) (?:\w+ )?(?:enlarged|borderline)",
            rf"(?:enlarge\w*|prominent|borderline) {_FEW}{_HEART}",
        ),
        key_words="enlarged enlargement",
    ),
    LUNG_OPACITY: Terms(
        words="opacity opacities opacification opacifications infiltrate infiltrates infiltration"
        " reticulation reticulations haziness",
        phrases=(
            r"air ?space (?:disease|process)",
            r"(?:increased|prominent|prominence of the|coarse\w*) interstitial (?:lung )?markings",
            r"interstitial (?:lung )?(?:disease|thickening|prominence|pattern|changes?)",
            r"(?:reticul\w+|perihilar) (?:markings|pattern|changes?|haze)",
            r"(?:increased|patchy|hazy|ill defined) (?:\w+ )?densit(?:y|ies)",
            r"(?:parenchymal|pulmonary|lung|linear|bibasilar|basilar) scar\w*",
            r"peribronchial (?:thickening|cuffing)",
        ),
        key_words="haze airspace interstitial",
    ),
    LUNG_LESION: Terms(
        words="nodule nodules nodular fibronodular mass masses masslike mass-like neoplasm"
        " neoplasms tumor tumors carcinoma malignancy metastasis metastases metastatic",
        phrases=(r"(?:lung|pulmonary|parenchymal|cavitary|cavitating|coin) lesions?",),
        key_words="lesion lesions",
    ),
    EDEMA: Terms(
        words="edema oedema chf",
        phrases=(
            r"heart failure",
            r"(?:vascular|venous|pulmonary|interstitial) congestion",
            r"(?:fluid|volume) overload",
            r"kerley b lines",
        ),
        key_words="congestion overload",
    ),
    CONSOLIDATION: Terms(words="consolidation consolidations consolidative consolidated"),
    PNEUMONIA: Terms(words="pneumonia pneumonias bronchopneumonia pneumonic infection infectious"),
    ATELECTASIS: Terms(
        words="atelectasis atelectases atelectatic",
        phrases=(r"(?:lobe|lobar|lung|segmental) collapse", r"collapse of the \w+"),
        key_words="collapse",
    ),
    PNEUMOTHORAX: Terms(words="pneumothorax pneumothoraces pneumothoraxes hydropneumothorax"),
    PLEURAL_EFFUSION: Terms(
        words="effusion effusions hydropneumothorax hydrothorax hemothorax",
        phrases=(r"(?:pleural|fissural|subpulmonic|layering) fluid", r"fluid in the \w+ fissure"),
        key_words="fluid",
    ),
    PLEURAL_OTHER: Terms(
        words="fibrothorax empyema",
        phrases=(
            r"pleural(?: based)? (?:\w+ )?(?:thickening|plaques?|scar\w*|calcifications?)",
            r"pleuro ?parenchymal scar\w*",
            r"thickening of the pleura",
            r"apical (?:cap|capping|thickening)",
        ),
        key_words="thickening plaque plaques",
    ),
    FRACTURE: Terms(
        words="fracture fractures fractured",
        phrases=(r"compression deformit(?:y|ies)",),
    ),
    SUPPORT_DEVICES: Terms(
        words="tube tubes catheter catheters pacemaker pacemakers pacer picc icd aicd ett"
        " defibrillator portacath port-a-cath mediport cannula stent stents intubated tracheostomy"
        " hardware screw screws prosthesis swan-ganz dobbhoff pigtail device devices leads"
        " stimulator",
        phrases=(
            r"(?:central|venous|subclavian|jugular|ij|arterial|dialysis) (?:\w+ )?lines?",
            r"lines(?= and| or|/)",
            r"(?:infusion|chest|chest wall|subclavian|jugular|vascular) port",
            r"(?:pacing|ventricular|atrial|pacemaker|icd) (?:\w+ )?(?:lead|wires?)",
            r"(?:prosthetic|mechanical|artificial) (?:\w+ )?valves?|valve replacement",
            r"balloon pump|(?:chest|pleural|surgical) drains?",
            r"(?:sternal|sternotomy|cerclage) wires?|(?:surgical|mediastinal) clips?|ivc filter",
        ),
        key_words="lead wires port clips",
    ),
}
LABEL_NAMES = (NO_FINDING, *TERMS)

# What says that organs are normal, and the findings that it denies. "The lungs are clear" names
# none, and CheXpert's labeler leaves them blank.
_NORMAL = r"(?:normal|unremarkable|within normal limits|non ?enlarged)"
_IS = rf"(?:(?!(?:enlarge|widen)\w*|no\b|not\b|but\b)[\w/,:]+ ){{0,8}}?{_NORMAL}\b"
# "Normal heart, lungs, and mediastinum", but not "heart size is normal and the mediastinum …".
_NORMAL_LIST = (
    rf"\b{_NORMAL} (?!(?:and|in|for|limits)\b)(?:(?!(?:is|are|was|were|with|without|no|not|but"
    r"|enlarge\w*|widen\w*|prominen\w*|tortuous|abnormal\w*|stable|unchanged|increased|large)\b)"
    r"[\w/]+,? ){0,6}?"
)
NORMAL_STATEMENTS = (
    (rf"{_HEART}[,:]? {_IS}|{_NORMAL_LIST}{_HEART}\b", (CARDIOMEGALY,)),
    (
        rf"cardio ?mediastin\w* {_IS}|{_NORMAL_LIST}cardio ?mediastin",
        (CARDIOMEGALY, ENLARGED_CARDIOMEDIASTINUM),
    ),
    (rf"\bmediastin\w*[,:]? {_IS}|{_NORMAL_LIST}mediastin", (ENLARGED_CARDIOMEDIASTINUM,)),
    (
        r"costophrenic (?:angles?|sulc\w+|recess\w*) (?:(?:is|are|appears?|remain) )?(?:\w+ )?"
        r"(?:sharp|clear|preserved)",
        (PLEURAL_EFFUSION,),
    ),
    (r"\bextubat(?:ed|ion)", (SUPPORT_DEVICES,)),
)

# What looks like one of the terms and is none.
NOT_FINDINGS = (
    r"mass effect|body mass|(?:pericardial|joint) effusions?"
    r"|(?:soft tissue|subcutaneous|chest wall) o?edema"
    r"|(?:bone|bony|osseous|lytic|sclerotic|blastic|rib|skin) (?:mass|lesion)\w*"
    r"|infectious disease|granulomatous infections?"
    r"|(?:post|non) ?(?:infecti\w+|pneumonic)"
    r"|(?:old|prior|previous|remote|past|healed|treated|sequelae? of|residu\w+ of) (?:\w+ )?"
    r"(?:infections?|infectious|pneumonias?)"
)

# Where a finding is, and how much of it there is.
PLACES = (
    "left right bilateral bilaterally both unilateral upper mid middle midlung lower lobe lobes "
    "base bases basal basilar bibasilar apex apical perihilar hilar retrocardiac lingula zone"
)
DEGREES = (
    "tiny trace small minimal minor mild mildly slight slightly subtle moderate moderately medium "
    "sized large sizable marked markedly severe severely extensive massive dominant focal patchy "
    "diffuse"
)
