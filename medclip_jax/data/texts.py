"""The texts that a row of a batch may show of a report: sentences, sections, or all of it."""

import functools

from medclip_jax.data.priors import remove_prior_references
from medclip_jax.data.reports import select_sections, text_sentences

TEXTS = ("sentence", "section", "report")


# An epoch of MIMIC-CXR's 227,835 reports fits; their sentences take about a kilobyte each.
@functools.lru_cache(maxsize=2**18)
def report_texts(
    report: str, sections: tuple[str, ...], kind: str, remove_priors: bool = False
) -> tuple[str, ...]:
    """The texts to draw one from; none if the report has no text.

    What was found is kept: a study comes again in every epoch.

    Args:
        report: the whole report.
        sections: the sections to take.
        kind: "sentence", "section", or "report" for the sections as one text.
        remove_priors: leaves out what refers to earlier studies.
    """
    groups = [(name,) for name in sections] if kind == "section" else [sections]
    texts = [select_sections(report, group) for group in groups]
    if remove_priors:
        texts = [remove_prior_references(text) for text in texts]
    if kind == "sentence":
        return tuple(sentence for text in texts for sentence in text_sentences(text))
    folded = (" ".join(text.split()) for text in texts)
    return tuple(dict.fromkeys(text for text in folded if text))
