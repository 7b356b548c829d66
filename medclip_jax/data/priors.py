"""Words in a report that refer to an earlier study, and how to take them out.

A model that sees one image and learns to write "unchanged from prior" learns to make things up.
Ramesh, Chi and Rajpurkar (Improving Radiology Report Generation Systems by Removing Hallucinated
References to Non-existent Priors, ML4H 2022, which made CXR-PRO) take such words out of the reports
to train on, and so does the follow-up of RadTex (arXiv 2310.19635). Here it is done by rules.
"Mild edema, unchanged from prior." becomes "Mild edema."; what cannot be mended, such as "The
effusion has resolved.", is left out clause by clause.
"""

import re

from medclip_jax.data.reports import split_sentences

# "Prior median sternotomy" is the patient's history, not a study.
_HISTORY = (
    r"(?:(?:[\w-]+ ){0,2}(?:surg\w*|granulomatous|sternotomy|cabg|trauma\w*|infect\w*|inflamm\w*"
    r"|fractur\w*|injur\w*|\w+ectomy|resection|thoracotomy|radiation|bypass|vertebroplasty|fusion"
    r"|tuberculosis|tb|asbestos|exposure|operation|procedure|treatment|replacement))"
)
_EARLIER = rf"(?:prior|previous)s?(?! (?:{_HISTORY}|to)\b)"
_STUDY = (
    r"(?:stud(?:y|ies)|exam(?:ination)?s?|radiographs?|films?|images?|imaging|x-?rays?|cts?|scans?"
    r"|reports?|cxrs?)"
)
# What things are compared with: "the most recent prior radiograph dated ___".
_PRIOR = (
    rf"(?:(?:the|a|her|his|most|recent|outside|chest|portable|available|{_EARLIER}|preceding"
    rf"|earlier|last) )*(?:{_EARLIER}|{_STUDY}|yesterday|before|baseline|admission|_+)"
    r"(?: (?:of|from|dated|on|performed) (?:the )?[\w/:-]+)*"
)
_THAN = r"(?:(?:when |as )?compared (?:to|with)|since|from|than(?: on| in)?|to|as on|on|with)"
_STEADY = r"(?:unchanged|(?<!hemodynamically )(?<!clinically )stable)"
_MOVED = r"(?:improv|worsen|progress|increas|decreas|changed|evolv|grown|develop|re-?accumulat)\w*"
_COMPARATIVE = r"(?:worse|larger|smaller|greater|more|less|fewer|better|similar|different)"
_CHANGED = (
    rf"(?:{_STEADY}|{_MOVED}|{_COMPARATIVE}|new(?:ly)?|a new finding|persistent|re-?demonstrated)"
)
_ADVERBS = (
    r"(?:(?:not|grossly|largely|essentially|relatively|overall|slightly|mildly|moderately|markedly"
    r"|significantly|substantially|minimally|somewhat|also|now|again|otherwise|likely|is|are|was"
    r"|were|has|have|had|been|remains?|appears?|being) )*"
)
_IN_SIZE = (
    r"(?: in (?:the )?(?:interval|appearance|size|position|extent|severity|number|volume|degree"
    r"|conspicuity|configuration|distribution)(?: and \w+)?)?"
)
_NO_CHANGE = r"(?:no|without|little|minimal|any) (?:\w+ ){0,3}change"
_SEEN = r"(?:seen|noted|described|identified|known|mentioned|demonstrated|visuali[sz]ed|present)"

# Any of these, in any case, is a reference to an earlier study.
_REFERENCE = re.compile(
    rf"\b(?:{_EARLIER}|{_STEADY}|new(?:ly)?|again|still|interval(?:ly)?|no longer|previously"
    rf"|yesterday|compar(?:ed|isons?|ing)|since {_PRIOR}|(?:earlier|preceding|last) {_STUDY}"
    r"|than before|re-?demonstrat\w*|re-?accumulat\w*|re-?expan\w*|recurren\w*|persist\w*"
    r"|remain(?:s|ed)?|continu(?:es?|ed|ing)|worsen\w*|improv\w*|progress\w*"
    r"|(?:increas|decreas|enlarg|evolv)ing"
    rf"|(?:has|have|had) (?:\w+ ){{0,2}}(?:{_MOVED}|enlarged|removed|placed|inserted|exchanged"
    r"|withdrawn|repositioned|advanced|pulled|extubated|cleared)"
    rf"|(?:{_MOVED}|{_COMPARATIVE}) (?:in (?:size|extent|severity|number|volume|conspicuity)"
    rf"|{_THAN} {_PRIOR})|(?:is|are|now) (?:\w+ly )?(?:worse|larger|smaller)(?=\W*$|,)"
    rf"|{_NO_CHANGE}|not (?:\w+ )?changed|change (?:in|from)|similar (?:in )?(?:appearance|to)"
    r"|(?:been|was|were) (?:removed|extubated)"
    r"|resol(?:ved|ving|ves)|resolution of|clearing of|removal of)\b",
    re.IGNORECASE,
)
# What to delete, in this order; the rest of the sentence is then tidied.
_DELETED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # "Compared to the prior study, …", "Since ___, …", "Again seen is …"
        r"^(?:(?:as|when) )?(?:in )?compar(?:ed|ison) (?:to|with) [^,;]*?(?:,|(?= there ))",
        rf"^(?:since|from) {_PRIOR},?",
        rf"^(?:once )?(?:again|re)[ -]?(?:{_SEEN}|demonstration)(?: (?:is|are|of))*",
        r"^(?:there (?:has|have) been )?(?:interval )?(?:placement|insertion|development) of",
        rf"^(?:on|in) (?:(?:the|an?|her|his|most|recent) )*{_EARLIER}.*",
        # "No interval change in …", ", without significant change"
        rf"^(?:there (?:is|are|has been) )?{_NO_CHANGE}\b.*",
        rf",?\s*\b(?:and |with )?{_NO_CHANGE}\b[^,;]*?(?=[,;]|$| but )",
        # ", not seen on the prior study", ", slightly increased in size since the prior study"
        rf",?\s*\b(?:(?:which|that) )?(?:(?:is|are|was|were) )?not (?:\w+ly )?{_SEEN} (?:on|in)"
        rf" {_PRIOR}",
        rf",?\s*\b(?:(?:and|which|that) )?{_ADVERBS}{_CHANGED}{_IN_SIZE},? {_THAN} {_PRIOR}",
        rf",?\s*\b(?:(?:when|as) )?compared (?:to|with) {_PRIOR}",
        rf"(?<!^),?\s*\b(?:since|from|than(?: on)?|to|on) (?:the |most |recent )*"
        rf"(?:{_EARLIER}|yesterday)(?: (?:\w+ )?{_STUDY})?(?: (?:of|from|dated) [\w/:-]+)?",
        r"\bin the interval\b",
        # "… is unchanged", ", stable in appearance", "… persists"
        rf",?\s*\b(?:(?:and|which|that) )?{_ADVERBS}{_CHANGED}{_IN_SIZE}(?=\W*$|[,;])",
        r"\b(?:(?:is|are|has|have) )?(?:persist(?:s|ed|ing)?|re-?demonstrated)(?=\W*$|[,;])",
        # "in unchanged position", "Stable appearance of the …", "Interval increase in the …"
        rf"\bin (?:an? )?(?:{_STEADY}|similar) (?:position|appearance|location)",
        rf"\b{_STEADY} (?:position|appearance|size|extent)(?: and \w+)? of (?:the )?",
        r"\b(?:there (?:has|have) been )?(?:(?:an?|the) )?(?:interval )?(?:\w+ )?"
        r"(?:increase|decrease|progression|worsening|improvement|persistence) (?:in|of)"
        r" (?:(?:the )?(?:size|extent|degree|severity) of )?(?:the )?",
        r"\b(?:once )?(?:again|still|intervally)\b",
        rf"\bpreviously {_SEEN}\b",
    )
)
# An adjective before what it is said of, with the article that may have to change.
_ADJECTIVE = re.compile(
    rf"(?:\b(?P<article>an?) )?\b(?:(?:grossly|slightly|mildly|overall|relatively) )?(?:{_STEADY}"
    r"|persistent|new(?:ly)?|interval|recurrent|continued|worse(?:ned|ning)|improv(?:ed|ing)"
    r"|progressive(?:ly)?|progressing|(?:increas|decreas|enlarg|evolv|persist|resolv)ing)"
    r" (?!(?:in|on|from|since|to|than|and|or|but|with|compared|when)\b)(?=(?P<next>\w))",
    re.IGNORECASE,
)
_REPLACED = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"\b(?:remains|continues to be)\b", "is"),
        (r"\b(?:remain|continue to be)\b", "are"),
        (r"\bremained\b", "was"),
    )
)
_CLAUSE_END = re.compile(
    r"\s*(?:[,;]|\b(?:but|however|although|though|while|whereas)\b"
    r"|\band(?= (?:there|the|a|an|no)\b))\s*",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    r"\b(?:is|are|was|were|there|shows?|seen|noted|no|without|ends|terminates|projects|contains?)\b",
    re.IGNORECASE,
)
_DANGLING_START = re.compile(
    r"^(?:[\s,;.:]|(?:and|but|or|with|which|that|however|although)\b)+", re.I
)
_DANGLING_END = re.compile(
    r"(?:[\s,;:]|\b(?:and|but|or|with|which|that|the|an?|of|in|from|to|on|since|than|as|is|are|was"
    r"|were|has|have|been|not|slightly|also|now))+$",
    re.IGNORECASE,
)
# Words that say nothing by themselves: "The heart size." is what "… is unchanged" leaves.
_EMPTY_WORDS = frozenset(
    "the a an of and or in is are was were has have been there this it no with both other right"
    " left bilateral heart cardiac size cardiomediastinal mediastinal mediastinum hilar hilum"
    " silhouette silhouettes contour contours lung lungs volume volumes chest aorta aortic knob"
    " appearance osseous bony bones structures study exam examination radiograph findings finding"
    " position overall pulmonary vasculature vascularity pleural tip tips otherwise also now these"
    " as".split()
)
_CLAUSE = re.compile(r"(?:^|[,;])[^,;]*")
_EMPTY_LINE = re.compile(r"\n[ \t]*\n")
_STOP = re.compile(r"[.!?]+$")
_MARKER = re.compile(r"^(?:[-*•]|\(?\d{1,2}[.)])\s+")


def mentions_prior(text: str) -> bool:
    """Whether a sentence refers to an earlier study, as "unchanged", "new" or "interval" do."""
    return any(_REFERENCE.search(sentence) for sentence in split_sentences(text))


def remove_prior_references(text: str) -> str:
    """The text without its references to earlier studies.

    A sentence is mended where the rest of it stands alone ("Stable mild edema." becomes "Mild
    edema."); else the clauses with a reference are left out, or all of it. A text without any is
    returned as it is; in others white space is folded, but for empty lines between paragraphs. The
    result never satisfies `mentions_prior`, so that to remove again changes nothing.
    """
    # Sentences that come to stand next to each other may be split otherwise than before.
    while mentions_prior(text):
        paragraphs = (_mend_paragraph(paragraph) for paragraph in _EMPTY_LINE.split(text))
        text = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    return text


def _mend_paragraph(paragraph: str) -> str:
    mended = (_mend(sentence) for sentence in split_sentences(paragraph))
    # A list item without a full stop keeps the line's end that parts it from the next.
    return "".join(
        sentence + (" " if _STOP.search(sentence) else "\n") for sentence in mended if sentence
    ).strip()


def _mend(sentence: str) -> str:
    """The sentence without references to earlier studies; empty if nothing stands alone."""
    if not _REFERENCE.search(sentence):
        return sentence
    marker = _MARKER.match(sentence)
    start = marker[0] if marker else ""
    stop = _STOP.search(sentence)
    rest = sentence[len(start) : stop.start() if stop else len(sentence)]
    capital = rest[:1].isupper()
    for pattern in _DELETED:
        rest = _tidy(pattern.sub(" ", rest))
    rest = _tidy(_ADJECTIVE.sub(_article, rest))
    for pattern, replacement in _REPLACED:
        rest = pattern.sub(replacement, rest)
    if _REFERENCE.search(rest):
        rest = _other_clauses(rest)
    rest = _tidy(_CLAUSE.sub(lambda clause: "" if _says_nothing(clause[0]) else clause[0], rest))
    if not rest:
        return ""
    return start + (rest[0].upper() if capital else rest[0]) + rest[1:] + (stop[0] if stop else "")


def _article(match: re.Match[str]) -> str:
    if not match["article"]:
        return ""
    article = "an " if match["next"].lower() in "aeio" else "a "
    return article.capitalize() if match["article"][0].isupper() else article


def _other_clauses(sentence: str) -> str:
    """The clauses that are statements of their own and refer to no earlier study."""
    clauses = _CLAUSE_END.split(sentence)
    kept = [c for c in clauses if _STATEMENT.search(c) and not _REFERENCE.search(c)]
    rest = _tidy(", ".join(kept))
    return "" if _REFERENCE.search(rest) else rest


def _says_nothing(clause: str) -> bool:
    return all(word in _EMPTY_WORDS for word in re.findall(r"\w+", clause.lower()))


def _tidy(text: str) -> str:
    """The text without double spaces and without words that lead to or come from nothing."""
    text = re.sub(r"\s+([,;:.])", r"\1", " ".join(text.split()))
    text = re.sub(r"([,;])(?:\s*[,;])+", r"\1", text)
    return _DANGLING_END.sub("", _DANGLING_START.sub("", text))
