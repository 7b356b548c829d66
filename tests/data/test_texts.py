"""The texts that a row may show of a report."""

import pytest

from medclip_jax.data.texts import report_texts

REPORT = (
    "INDICATION: cough.\nFINDINGS: There is a small left effusion, unchanged from prior. The\n"
    " heart size is normal.\nIMPRESSION: Small left effusion.\n"
)
SECTIONS = ("findings", "impression")


def test_sentences_sections_and_the_whole() -> None:
    assert report_texts(REPORT, SECTIONS, "sentence") == (
        "There is a small left effusion, unchanged from prior.",
        "The heart size is normal.",
        "Small left effusion.",
    )
    assert report_texts(REPORT, SECTIONS, "section") == (
        "There is a small left effusion, unchanged from prior. The heart size is normal.",
        "Small left effusion.",
    )
    (whole,) = report_texts(REPORT, SECTIONS, "report")
    assert whole == " ".join(report_texts(REPORT, SECTIONS, "section"))


@pytest.mark.parametrize("kind", ["sentence", "section", "report"])
def test_priors_are_removed(kind: str) -> None:
    texts = report_texts(REPORT, SECTIONS, kind, remove_priors=True)
    assert "unchanged" not in " ".join(texts) and "small left effusion" in " ".join(texts)
    only = report_texts("FINDINGS: Unchanged from prior.", SECTIONS, kind, remove_priors=True)
    assert only == ()


@pytest.mark.parametrize("kind", ["sentence", "section", "report"])
def test_no_text_gives_none(kind: str) -> None:
    assert report_texts("", SECTIONS, kind) == ()
    assert report_texts("FINDINGS: Clear lungs.", ("impression",), kind) == ()
