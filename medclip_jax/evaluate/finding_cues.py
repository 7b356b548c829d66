"""The words that bear on a finding: those that deny, doubt or plan it, and those that end a denial.

All patterns are for text in lower case whose hyphens are blanks.
"""

# What a cue says. Where several kinds match, the first counts, and what is matched bears no second
# meaning: "cannot be excluded" holds no "not".
_SEEN = (
    r"(?:seen|visible|visuali[sz]ed|present|identified|evident|apparent|demonstrated|detected"
    r"|appreciated|observed|noted|found)"
)
_JUDGED = rf"(?:{_SEEN}|evaluated|assessed)"
_IS_OR_HAS = r"(?:(?:is|are|was|were|has|have|been) )*"
_FELT = (
    r"(?:(?:is|are|was|were|be|been|to|would|seems?|remains?|appears?|felt|thought|considered|believed"
    r"|deemed|judged|very|highly|quite|most|much|rather|somewhat|extremely|therefore|clinically"
    r"|also|now) )*"
)
_ADVERBS = r"(?:(?:\w+ly|yet|also|at this time) )*"
_CANNOT = r"(?:cannot|can not|can't|could not|couldn't|not|doesn't)"
_EXCLUDE = r"(?:exclude|rule out|r/o)"
_EXCLUDED = r"(?:excluded|ruled out)"
_UNABLE = (
    r"(?:difficult|hard|impossible|unable|not able|not possible|no way|no evidence|insufficient"
    r"|inadequate|not sufficient|too limited)"
)
_UNLIKELY = r"(?:unlikely|improbable|implausible)"
_POORLY = (
    r"(?:not (?:as |so |very )?(?:well|clearly|optimally|adequately|fully|completely|confidently)"
    r"|poorly|inadequately|suboptimally)"
)
_ELSEWHERE = (
    r"(?! (?:on|in) (?:the |this |any )?(?:prior|previous|earlier|last|remote|old|x+|lateral"
    r"|frontal|other)\b)"
)
# What may follow a cue that stands behind its mention.
_GOES_ON = (
    r"(?=\W*$|[,;]| (?:in|on|at|and|but|since|from|compared|with|without|bilaterally|completely"
    r"|given|however|although|radiographically|clinically|over|than)\b)"
)
_OR_WHY = rf"(?:{_GOES_ON}|(?= (?:by|due|because|here)\b))"
# What goes slowly, or not all the way: "some clearing", "near complete resolution".
_PARTLY = (
    r"(?:not|nearly|near|partial|partially|almost|incomplete|incompletely|largely|mostly|virtual"
    r"|virtually|some|much|good|modest|slight|slightly|mild|mildly|minimal|moderate|marked|substantial"
    r"|significant|considerable|further|continued|continuing|ongoing|gradual|progressive|slow)"
)
_RESOLUTION = r"(?:resolution|clearing|clearance)"
# A request stands at the beginning or after a mark: "chest pain, eval pneumonia".
_REQUEST = r"(?:(?<!\w )|(?<=please ))"
_STUDY = r"(?:study|exam|examination|radiographs?|films?|imaging|ct|cxr|x ?ray)"
_NO_RESULT = r"(?!.*\b(?:is|are|was|were|has|have|show\w*|demonstrat\w+|reveal\w*)\b)"

# How what is there is named: how much there is of it, how it goes, where it is.
_SIZES = r"tiny|small|trace|minimal|mild(?:ly)?|moderate(?:ly)?|large|severe(?:ly)?|marked(?:ly)?"
_COURSES = r"stable|unchanged|increased|improved|worsening|persistent|new"
_SIDES = r"right|left|bilateral|bibasilar"
_DOUBTS = r"possible|possibly|probable|likely"
# These as well where something else was denied; in a history or a question they go on with it.
_STILL_THERE = (
    rf"{_SIZES}|{_COURSES}|slight(?:ly)?|minor|subtle|extensive|sizable|some|several"
    r"|multiple|scattered|residual|recurrent|increasing|decreas(?:ed|ing)|improving|worsened"
    r"|persisting|resolving|enlarg(?:ed|ing)|progress(?:ive|ing)|continu(?:ed|ing)|ongoing"
    r"|evolving|interval|chronic|known|old|remote|heal(?:ed|ing)|loculated|layering|patchy|hazy"
    r"|streaky|linear|dense|diffuse|numerous|remaining|again|also|only"
)
# Not after "and": what "left tube and right line" shares is shared.
_PLACED = rf"{_STILL_THERE}|{_SIDES}|basal|bibasal|basilar|biapical|apical|retrocardiac"
# "No new and increased effusion", "no acute, displaced fracture": adjectives of one finding.
_NO_ADJECTIVE = "".join(
    rf"(?<!\b{word} )"
    for word in (
        "new acute old chronic focal tiny small large mild moderate severe patchy left"
    ).split()
)
_NO_ADJECTIVE_BEFORE_COMMA = _NO_ADJECTIVE.replace(" )", ")")
# "With" adds a finding, but not in these.
_WITH = r"(?<!compatible )(?<!consistent )(?<!associated )(?<!keeping )(?<!in line )with"
_AND = rf"{_NO_ADJECTIVE}and"

CUES = {
    # Nothing changed: what is said to be unchanged is there, all of it.
    "unchanged": r"(?:no|without|little|not (?:an?|any|much)|hardly any)(?: (?:significant"
    r"|interval|relevant|appreciable|substantial|definite|great|other|further|obvious|apparent|detectable"
    r"|measurable|major|visible|real|overall|large|short|long|term|clear|discernible|perceptible"
    r"|notable|noticeable|convincing|marked|dramatic|meaningful|or))* (?:change|increase|decrease"
    r"|difference|progression|improvement|growth|deterioration"
    rf"|(?:worsening|{_RESOLUTION}) (?:of|in))",
    # It looks like a negation and is none.
    "none": r"not (?:only|necessarily|included|imaged|large|without"
    r"|(?:significantly |appreciably |substantially )?changed"
    rf"|(?:well|optimally|adequately)(?! {_JUDGED}))"
    rf"|{_PARTLY}(?: (?:complete|completely|entirely|fully|total|totally|interval))*"
    r" (?:resol\w+|clear(?:ed|ing|ance))"
    r"|(?:no|without(?: a)?) doubt",
    "ignored_after": rf"(?:may|might|could|can) not (?:always )?be (?:\w+ly )?{_SEEN}"
    r"|(?:may|might|could|can) (?:\w+ly )?(?:be (?:\w+ly )?(?:missed|overlooked|occult|undetected"
    r"|undetectable|invisible|difficult to (?:see|detect|identify|appreciate|visuali[sz]e))"
    r"|go (?:undetected|unnoticed|unrecogni[sz]ed)|escape detection)"
    r"|(?:is|are) (?:often|easily|frequently|commonly|sometimes) (?:missed|overlooked)",
    "doubtful_after": r"(?:cannot|can't|couldn't|(?:can|could) (?:not|neither))"
    rf",? (?:(?!be\b)\w+,? ){{0,4}}?be (?:\w+ ){{0,3}}?{_EXCLUDED}"
    rf"|{_IS_OR_HAS}{_CANNOT} {_ADVERBS}(?:been |be )?{_ADVERBS}{_EXCLUDED}"
    rf"|{_FELT}{_UNABLE} to {_ADVERBS}(?:be {_ADVERBS}{_EXCLUDED}|{_EXCLUDE}{_OR_WHY})"
    r"|(?<!tip )(?<!tip is )(?<!tips )(?<!tips are )"
    rf"{_IS_OR_HAS}{_POORLY} {_JUDGED}\b{_ELSEWHERE}"
    r"|(?<!tip )(?:(?:is|are|was|were|be|been|remains?|appears?) )+(?:(?:\w+ly )?"
    rf"(?:obscured|masked|hidden){_OR_WHY}"
    rf"|(?:incompletely|insufficiently) (?:{_JUDGED}|imaged){_ELSEWHERE})"
    r"|(?<!versus, )(?<!vs, )(?<!or, )"
    rf"{_FELT}(?:less |more )?(?:possible|equivocal|uncertain|doubtful|likely|probable|favou?red"
    rf"|(?:a|another) (?:consideration|possibility|concern)|[io]n the differential){_GOES_ON}"
    rf"|{_IS_OR_HAS}(?:likely|probably|possibly) {_SEEN}"
    rf"|(?:may|might|could|should) (?:also )?be (?:{_SEEN}|considered|suspected)"
    r"|(?:may|might|could) (?:exist|coexist|persist)"
    r"|if (?:any|present|real)(?=\W*$|,? (?:is|are|would|may|must)\b)|(?<=\w)\?(?!\w)",
    # A doubt that "no" before the mention turns into a denial: "no pneumonia is suspected".
    "suspected_after": rf"{_FELT}(?:suspected|questioned|presumed|assumed|suggested|inferred)"
    rf"(?: to be present)?{_GOES_ON}",
    "doubtful_before": rf"(?:{_CANNOT}|{_UNABLE} to) {_ADVERBS}{_EXCLUDE}"
    r"(?: with (?:\w+ )?(?:certainty|confidence))?|exclusion of"
    r"|no new|if any|less likely|(?<=likely )than"
    r"|possib(?:le|ly|ility)|may|might|could|probabl[ey]|likely|perhaps|potential(?:ly)?"
    r"|(?:likelihood|probability|chance) (?:of|for)|doubtful|favou?r(?:s|ed|ing)?"
    r"|presum(?:ed|ably|ptive)|suspect(?:ed)?|suspicious for|suspicion (?:for|of)"
    r"|concern(?:ing|ed)?(?: for| of| about)?(?! ?:)|worrisome for|suggest(?:s|ing|ed|ive|ion)?"
    r"|(?<!clinical )question(?:able|ed)?|query|equivocal|borderline|differential"
    r"|consider(?:ations?)?|\?"
    r"|correlat(?:e|ed|ion)(?: [\w/]+){0,6}? (?:for|regarding|concerning|about"
    r"|as to|(?:signs?|symptoms?|evidence|findings|suspicion|presence|possibility) (?:of|for))"
    r"|correlat(?:e|ed|ion)(?: \w+){0,3}? with(?= (?:\w+ ){0,2}(?:infectious|pneumonic))",
    # A question, a history, a plan or a condition says nothing of this image.
    "ignored_before": r"(?:history|hx|pmhx?)(?: (?:is|was))?(?: (?:significant|notable|remarkable"
    r"|positive|pertinent) for| of| includ\w+| with| ?:)|h/o|pmhx?|hx"
    r"|(?:re ?)?(?:eval(?:uat\w*)?|assess\w*)(?: \w+)? for"
    r"|(?:screen|treat|search|look|check|monitor|surveil)\w*(?: \w+)? for"
    rf"|{_REQUEST}(?:re ?)?(?:eval|evaluate|assess)(?: ?:)?"
    rf"|{_REQUEST}(?:f/u|follow ?up)(?! (?:\w+ )?{_STUDY}\b){_NO_RESULT}"
    rf"|(?:comparison|{_STUDY})(?: (?:is|was|are|were))?"
    rf"(?: (?:made|performed|obtained|done|requested|ordered))? for\b{_NO_RESULT}"
    r"|in search of|if|(?:when|where|should|unless) (?:\w+ ){0,4}(?:suspicion|concern)"
    r"(?: (?:for|of))?"
    r"|r/o|(?:rule|ruling) out|follow ?up (?:\w+ )?for"
    rf"|to (?:{_EXCLUDE}|look for)"
    r"|detection of|(?:sensitive|sensitivity|risk|workup|work up|protocol) (?:in|for|to|of)"
    r"|(?:ensur(?:e|ing)|document(?:ing)?|to (?:confirm|establish|demonstrate|verify|assess|see))"
    r"(?= [^,;]*\b(?:resol(?:ution|v\w+)|clear(?:s|ed|ing|ance))\b)"
    rf"|(?:until|(?<!due )(?<!secondary )(?<!related )to)(?: \w+)? {_RESOLUTION}(?: of)?"
    r"|(?:indication|information|reason(?: for (?:exam\w*|study))?|question|concern) ?:"
    r"|clinical question (?:of|is)",
    "denied_after": rf"{_IS_OR_HAS}(?:no longer|not) (?:\w+ly )?{_FELT}{_SEEN}"
    r"(?!(?: (?:now|today|currently|on this \w+))? (?:is|are|was|were) (?:the|an?|any)\b)"
    rf"|{_IS_OR_HAS}(?:(?:now|since|completely|fully|entirely|totally|also|subsequently"
    r"|effectively|definitively) )*"
    r"(?:resolved|cleared|disappeared|removed|gone"
    rf"|absent|excluded|ruled out|negative|discontinued){_GOES_ON}"
    rf"|removal{_GOES_ON}"
    rf"|{_FELT}(?:{_UNLIKELY}|not (?:\w+ly )?{_FELT}(?:likely|probable|suspected|favou?red"
    r"|considered))"
    rf"(?: to be (?:present|the cause|responsible))?{_GOES_ON}"
    r"|: ?(?:no|none|negative|absent)(?=\W*$)",
    "denied_before": r"no longer|no|not|nothing|without|(?:free|clear) of|free from|negative for"
    r"|nor|never|gone (?:is|are)|absen(?:ce|t)(?: of)?|lack of|neither|rather than|instead of"
    rf"|against|resolved|removed|(?:{_RESOLUTION}|removal) of|{_FELT}{_UNLIKELY}(?: to \w+)?"
    r"|doubts?|over",
    "either": r"versus|vs\b\.?|or",
    "end": r"[;:]|but|however|although|though|except|(?:aside|apart) from|other than|besides"
    r"|(?<!for )which|whereas|while"
    rf"|{_AND}(?= (?:the|there|an?|heart|lungs?|stable|unchanged|{_SIZES}|{_DOUBTS})\b)"
    rf"|{_WITH}(?= (?:an? )?(?:{_SIZES}|{_SIDES}|stable|unchanged|new|associated|adjacent"
    r"|overlying)\b)",
    # What was done, and what else is there, was not denied.
    "end_of_denial": r"after|following|since|(?:de|in )spite(?: of)?|subsequent to|s/p|status post"
    r"|in the (?:setting|presence) of"
    r"|(?<!no )(?<!of )(?<!any )(?<!for )(?<!or )(?<!new )(?<!acute )post"
    r"(?! (?:traumatic|obstructive|operative|surgical|procedural|infectious|pneumonic)\b)"
    rf"|{_AND}(?= (?:{_STILL_THERE})\b)"
    rf"|{_WITH}(?= (?:an? )?(?:{_PLACED}|focal|underlying|superimposed|concomitant)\b)"
    r"|with(?=[^,;]* in (?:place|situ|position)\b)",
    "end_of_doubt": rf"(?<!seen ){_WITH}",
    "verb": r"(?<!that )(?<!which )(?:is|are|was|were|has|have|remains?|persists?|shows?|contains?"
    r"|terminates|ends|measures|projects)",
}

# After a comma these begin a new statement, unless the clause goes on as a list ("..., or ...").
STATEMENT_OPENERS = {
    "end": rf"{_NO_ADJECTIVE_BEFORE_COMMA},\s*(?:and )?(?:the|there|this|an?|{_SIZES}|{_COURSES}"
    rf"|{_SIDES}|{_DOUBTS}|heart|cardiac|lungs?|mediastin\w*|aort\w*|status|suggest\w*|concerning"
    r"|consistent|compatible|again)\b",
    "end_of_denial": rf"{_NO_ADJECTIVE_BEFORE_COMMA},\s*(?:and )?(?:{_PLACED})\b",
}
# Of a list that is denied, "no consolidation, effusion is seen", these are said as well.
_OF_A_LIST = (
    r"(?! (?:seen|visible|visuali[sz]ed|identified|evident|apparent|demonstrated|detected"
    r"|appreciated|observed|found)\W*$)"
)


def clause_with_a_verb(finding: str) -> str:
    """Matches what begins a statement of a finding, given by its pattern: ", edema persists"."""
    subject = rf" (?:(?!(?:no|not|and|nor|or|without)\b)\w+ ){{0,2}}?(?:{finding})"
    verb = r"noted|only|in (?:place|situ)|persists?|remains?|(?:is|was|has)\b" + _OF_A_LIST
    return rf",{subject} (?:{verb}|(?:are|were|have)\b{_OF_A_LIST})|\band{subject} (?:{verb})"
