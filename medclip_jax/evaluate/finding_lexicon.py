"""What the finding extractor knows: the words for each finding, and the words that bear on them.

The labels are CheXpert's (Irvin et al., arXiv 1901.07031), of which the synthetic set has nine. The
words are those of chest X-ray reports at large; all patterns are for text in lower case.
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
        return re.compile(rf"\b(?:{'|'.join((*self.phrases, *self.words.split()))})\b")


# A few words that may stand between two that belong together.
_FEW = r"(?:(?!(?:with|without|no|but|or|and|normal)\b)[\w/-]+ ){0,4}?"
_HEART = r"(?:heart(?! failure)|cardiac|cardiopericardial)"
_MEDIASTINUM = r"(?:cardio-?)?mediastin\w*"

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
            r"air[ -]?space (?:disease|process)",
            r"(?:increased|prominent|prominence of the|coarse\w*) interstitial (?:lung )?markings",
            r"interstitial (?:lung )?(?:disease|thickening|prominence|pattern|changes?)",
            r"(?:reticul\w+|perihilar) (?:markings|pattern|changes?|haze)",
            r"(?:increased|patchy|hazy|ill-defined) (?:\w+ )?densit(?:y|ies)",
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
            r"pleural(?:[ -]based)? (?:\w+ )?(?:thickening|plaques?|scar\w*|calcifications?)",
            r"pleuro-?parenchymal scar\w*",
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
_NORMAL = r"(?:normal|unremarkable|within normal limits)"
_IS = rf"(?:(?!(?:enlarge|widen)\w*|no\b|not\b|but\b)[\w/,-]+ ){{0,8}}?{_NORMAL}\b"
NORMAL_STATEMENTS = (
    (rf"{_HEART} {_IS}|normal (?:heart|cardiac)", (CARDIOMEGALY,)),
    (
        rf"cardio-?mediastin\w* {_IS}|{_NORMAL} cardio-?mediastin",
        (CARDIOMEGALY, ENLARGED_CARDIOMEDIASTINUM),
    ),
    (rf"\bmediastin\w* {_IS}|{_NORMAL} mediastin", (ENLARGED_CARDIOMEDIASTINUM,)),
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
    r"|(?:old|prior|previous|remote|past|healed|treated) (?:\w+ )?(?:infections?|pneumonias?)"
)

# The words that bear on a mention, by what they do. Where several match, the first kind counts, and
# what is matched bears no second meaning: "cannot be excluded" holds no "not".
_SEEN = (
    r"(?:seen|visible|visuali[sz]ed|present|identified|evident|apparent|demonstrated|detected"
    r"|appreciated|observed|noted|found)"
)
_JUDGED = rf"(?:{_SEEN}|evaluated|assessed)"
_IS_OR_HAS = r"(?:(?:is|are|was|were|has|have|been) )*"
_FELT = (
    r"(?:(?:is|are|was|were|be|been|to|would|seems?|appears?|felt|thought|considered|believed"
    r"|deemed|judged|very|highly|quite|most|much|rather|somewhat|extremely|therefore|clinically"
    r"|also|now) )*"
)
_CANNOT = r"(?:cannot|can not|can't|could not|not)"
_EXCLUDE = r"(?:exclude|rule out)"
_ADVERB = r"(?:(?:completely|entirely|definitely|definitively|fully|clearly) )?"
_POORLY = (
    r"(?:not (?:as |so |very )?(?:well|clearly|optimally|adequately|fully|completely|confidently)"
    r"|poorly|inadequately|suboptimally)"
)
_ELSEWHERE = r"(?! (?:on|in) (?:the |this |any )?(?:prior|previous|earlier|last|remote|old|x+)\b)"
# What may follow a cue that stands behind its mention.
_GOES_ON = (
    r"(?=\W*$|[,;]| (?:in|on|at|and|but|since|from|compared|with|without|bilaterally|completely"
    r"|given|however|although|radiographically|clinically|over|than)\b)"
)
CUES = {
    # Nothing changed: what is said to be unchanged is there, all of it.
    "unchanged": r"(?:no|without|little)(?: (?:significant|interval|relevant|appreciable"
    r"|substantial|definite|great|other|further|obvious|apparent|detectable|measurable|major"
    r"|visible|real|overall|large|or))* (?:change|increase|decrease|difference|progression"
    r"|improvement|growth)",
    # It looks like a negation and is none.
    "none": r"not (?:only|necessarily|included|imaged|large|without"
    r"|(?:significantly |appreciably |substantially )?changed"
    rf"|(?:well|optimally|adequately)(?! {_JUDGED}))"
    r"|(?:not|nearly|near|partial|partially|almost|incomplete|incompletely|largely|mostly)"
    r" (?:complete |completely |entirely |fully )?(?:resol\w+|clear(?:ed|ing))"
    r"|(?:no|without(?: a)?) doubt",
    "ignored_after": rf"(?:may|might|could|can) not be {_SEEN}",
    "doubtful_after": rf"{_IS_OR_HAS}{_CANNOT} (?:be )?{_ADVERB}(?:excluded|ruled out)"
    rf"|{_IS_OR_HAS}(?:difficult|hard|impossible|not possible) to {_EXCLUDE}(?=\W*$)"
    r"|(?<!tip )(?<!tip is )(?<!tips )(?<!tips are )"
    rf"{_IS_OR_HAS}{_POORLY} {_JUDGED}\b{_ELSEWHERE}"
    r"|(?<!versus, )(?<!vs, )(?<!or, )"
    rf"{_FELT}(?:less |more )?(?:possible|equivocal|uncertain|doubtful|likely|probable|favou?red"
    rf"|(?:a|another) (?:consideration|possibility|concern)|[io]n the differential){_GOES_ON}"
    rf"|{_IS_OR_HAS}(?:likely|probably|possibly) {_SEEN}"
    rf"|(?:may|might|could|should) (?:also )?be (?:{_SEEN}|considered|suspected)"
    r"|(?:may|might|could) (?:exist|coexist|persist)"
    r"|if (?:any|present|real)(?=\W*$|,? (?:is|are|would|may|must)\b)",
    # A doubt that "no" before the mention turns into a denial: "no pneumonia is suspected".
    "suspected_after": rf"{_FELT}(?:suspected|questioned){_GOES_ON}",
    "doubtful_before": rf"(?:{_CANNOT}|(?:difficult|hard|impossible|unable|not able|not possible"
    rf"|no way|no evidence) to) {_ADVERB}{_EXCLUDE}"
    r"|no new|if any|less likely|(?<=likely )than"
    r"|possib(?:le|ly|ility)|may|might|could|probabl[ey]|likely|perhaps|potential(?:ly)?"
    r"|(?:likelihood|probability|chance) (?:of|for)|doubtful|favou?r(?:s|ed|ing)?"
    r"|presum(?:ed|ably|ptive)|suspect(?:ed)?|suspicious for|suspicion (?:for|of)"
    r"|concern(?:ing)?(?: for| of| about)?|worrisome for|suggest(?:s|ing|ed|ive|ion)?"
    r"|question(?:able|ed)?|equivocal|borderline|differential|consider(?:ations?)?|\?"
    r"|correlat(?:e|ed|ion)(?: \w+){0,3}? for",
    # A question, a history, a plan or a condition says nothing of this image.
    "ignored_before": r"(?:history|hx) of|h/o|(?:evaluat|assess|screen|treat|search|look)\w*"
    r"(?: \w+)? for|in search of|if|r/o|(?:rule|ruling) out|follow[ -]?up (?:\w+ )?for"
    rf"|to (?:{_EXCLUDE}|look for)"
    r"|(?:sensitive|sensitivity|risk|workup|work-up|protocol) (?:in|for|to|of)"
    r"|(?:until|to (?:document|ensure|confirm|establish|demonstrate)|ensure|documenting|document)"
    r" (?:\w+ )?(?:resolution|clearing)(?: of)?"
    r"|(?:indication|history|information|reason for (?:exam\w*|study)|question) ?:",
    "denied_after": rf"{_IS_OR_HAS}(?:no longer|not) (?:\w+ly )?{_FELT}{_SEEN}"
    rf"|{_IS_OR_HAS}(?:(?:now|since|completely) )*(?:resolved|cleared|disappeared|removed|gone"
    rf"|absent|excluded|ruled out|negative|discontinued){_GOES_ON}"
    rf"|{_FELT}(?:unlikely|not (?:\w+ly )?{_FELT}(?:likely|suspected|favou?red|considered))"
    rf"(?: to be (?:present|the cause|responsible))?{_GOES_ON}"
    r"|: ?(?:no|none|negative|absent)(?=\W*$)",
    "denied_before": r"no longer|no|not|nothing|without|(?:free|clear) of|free from|negative for"
    r"|nor|never|absen(?:ce|t)(?: of)?|lack of|neither|rather than|instead of|against|resolved"
    rf"|removed|(?:resolution|clearing|removal) of|{_FELT}unlikely(?: to \w+)?|doubts?|over",
    "either": r"versus|vs\b\.?|or",
    "end": r"[;:]|but|however|although|though|except|(?:aside|apart) from|other than|besides"
    r"|(?<!for )which|whereas|while"
    r"|and(?= (?:the|there|a|an|heart|lungs?|mild|moderate|severe|small|large|stable|unchanged"
    r"|possible|probable|likely)\b)"
    r"|(?<!compatible )(?<!consistent )(?<!associated )with(?= (?:an? )?(?:tiny|small|mild|moderate"
    r"|large|severe|minimal|trace|stable|unchanged|new|associated|adjacent|overlying|right|left"
    r"|bilateral|bibasilar)\b)",
    "end_of_doubt": r"(?<!compatible )(?<!consistent )(?<!associated )(?<!keeping )(?<!seen )with",
    "verb": r"(?<!that )(?<!which )(?:is|are|was|were|has|have|remains?|persists?|shows?|contains?"
    r"|terminates|ends|measures|projects)",
}
# After a comma these begin a new statement, unless the clause goes on as a list ("..., or ...").
STATEMENT_OPENERS = (
    r",\s*(?:and )?(?:the|there|this|an?|tiny|small|trace|minimal|mild|mildly|moderate|moderately"
    r"|large|severe|marked|stable|unchanged|increased|improved|worsening|persistent|new|possible"
    r"|possibly|probable|likely|right|left|bilateral|bibasilar|heart|cardiac|lungs?|mediastin\w*"
    r"|aort\w*|status|suggest\w*|concerning|consistent|compatible|again)\b"
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
