"""The headers of a report's sections: what one looks like, and which section it opens.

English ones are those of MIMIC-CXR, by the list in MIT-LCP's parser; of Spanish, French, German,
Portuguese and Italian the common ones are known.
"""

import re
import unicodedata

# Common headers by language; an accented letter may stand without its accent, as in capitals.
_HEADER_NAMES = "|".join(
    (
        # English
        "findings and impression|findings?|impressions?|conclusions?|indications?|comparisons?"
        "|techniques?|history|clinical (?:indication|history|information)|examination|exam"
        "|reason for exam(?:ination)?|recommendations?|notifications?|addendum|comments?|wet read",
        # Spanish
        "hallazgos?|impresi[oó]n(?: diagn[oó]stica)?|conclusi[oó]n|conclusiones|indicaci[oó]n"
        "|t[eé]cnica|comparaci[oó]n|datos cl[ií]nicos|antecedentes|recomendaci[oó]n",
        # French
        "r[eé]sultats?|constatations?|comparaison|ant[eé]c[eé]dents|renseignements cliniques"
        "|recommandations?",
        # German
        "befunde?|beurteilung|zusammenfassung|indikation|fragestellung|klinische angaben|technik"
        "|vergleich|empfehlung",
        # Portuguese
        "achados?|impress[aã]o(?: diagn[oó]stica)?|conclus[aã]o|indica[cç][aã]o|compara[cç][aã]o"
        "|dados cl[ií]nicos|recomenda[cç][aã]o",
        # Italian
        "reperti|referto|descrizione|conclusioni|indicazione|quesito(?: clinico)?|tecnica"
        "|confronto",
    )
)
_CAPITALS = "".join(filter(str.isupper, map(chr, range(0x530))))  # Latin, Greek and Cyrillic
# Capitals before a colon at the start of a line, or a common name there in any case. A common name
# in capitals counts within a line too, for reports whose line ends were lost.
HEADER = re.compile(
    rf"(?:^[^\S\n]*(?:[{_CAPITALS}][{_CAPITALS} ()/,-]*[{_CAPITALS})]|(?i:{_HEADER_NAMES}))"
    rf"|(?<=\s)(?:{_HEADER_NAMES.upper()}))[ \t]*:(?=\s|$)",
    re.MULTILINE,
)
# As they are met in MIMIC-CXR, by the list in MIT-LCP's parser.
_IMPRESSION_MISSPELT = (
    "impresson|imprression|imoression|impressoin|imprssion|impresion|imperssion|impession"
)
_FINDINGS_MISSPELT = "findins|findindgs|findgings|findngs|findnings|finidngs"
# The first pattern found in a header without its accents gives its section's name. "ndication"
# because the first letter is often lost, and before "impression" because such headers were once
# taken for impressions.
_SECTION_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (
            r"ndication|idication|reason for|indicacion|indicacao|indicazione|indikation"
            r"|fragestellung|quesito|motivo|motif",
            "indication",
        ),
        (
            r"compari?si?on|comparrison|reference exam|comparacion|comparaison|comparacao"
            r"|vergleich|confronto",
            "comparison",
        ),
        (r"end of impression", "end of impression"),  # in CheXpert Plus: signatures
        (
            r"mpression|conclusion|impressao|conclusao|beurteilung|zusammenfassung|"
            + _IMPRESSION_MISSPELT,
            "impression",
        ),
        (
            r"finding|hallazgo|resultat|resultado|risultat|constatation|befund|achado|reperti"
            r"|descripcion|descricao|descrizione|^(?:informe|laudo|referto|relatorio)\b"
            r"(?! (?:firmado|assinado))|" + _FINDINGS_MISSPELT,
            "findings",
        ),
        (
            r"history|clinical info|historia|antecedent|(?:datos|dados) clinicos"
            r"|renseignements cliniques|klinische angaben|anamnes",
            "history",
        ),
        (r"addend", "addendum"),
        (r"technique|tecnica|technik", "technique"),
        (r"recommendation|recomendac|recommandation|empfehlung|raccomandazion", "recommendation"),
        (r"notification", "notification"),
        (r"exam|esame|untersuchung|exploracion|^estudio|^etude", "examination"),
        (r"\bcomments?\b", "comment"),
        (r"^notes?$", "note"),
        (r"wet ?read", "wet read"),
        (r"^pfi$", "pfi"),  # provisional
        (
            r"\b(?:views?|chest|radiographs?|portable|pa|ap|lat|lateral|ribs|bone windows?)\b",
            "findings",
        ),
        (
            r"^(?:date|time|name|patient|age|sex|gender|summary|narrative|procedure|fecha|datum)\b"
            r"|accession|physician|radiologist|signed|dictated|transcri|read by|condition",
            "details",
        ),
    )
)
# What a radiologist may write all of a report under.
REMARKS = ("comment", "note", "wet read")
KNOWN_NAMES = frozenset(name for _, name in _SECTION_NAMES) - {"details"}


def section_name(header: str) -> str:
    """The section that a header opens: one of `KNOWN_NAMES`, "details", or itself in lower case."""
    name = header.strip().rstrip(":").rstrip().lower()
    plain = "".join(c for c in unicodedata.normalize("NFD", name) if not unicodedata.combining(c))
    return next((known for pattern, known in _SECTION_NAMES if pattern.search(plain)), name)
