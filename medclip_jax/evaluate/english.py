"""Whether texts are English, which the rules of the finding extractor are for."""

import re
from collections.abc import Sequence

# Words of English, common in reports, that are none in the other languages that write "edema" or
# "pneumothorax": "no", "in", "is", "of", "a", "normal" and "focal" are.
_WORDS = re.compile(
    r"\b(?:the|and|with|without|there|this|that|been|which|from|within|seen|noted|not|has|lungs?"
    r"|heart|chest|clear|left|right|upper|lower|small|size|mild|stable|effusions?|opacity"
    r"|opacities|bibasilar|cardiomegaly|airspace|fractures|enlarged|unchanged|disease|process"
    r"|abnormality|abnormalities|evidence|findings)\b",
    re.IGNORECASE,
)
_MIN_SHARE = 0.5


def are_english(texts: Sequence[str]) -> bool:
    """Whether half of the texts hold one of some forty common English words.

    Of real English reports nearly all do, telegraphic ones ("no pneumothorax. lungs clear.")
    included, and of reports in another language hardly any.
    """
    return sum(_WORDS.search(text) is not None for text in texts) >= _MIN_SHARE * len(texts)
