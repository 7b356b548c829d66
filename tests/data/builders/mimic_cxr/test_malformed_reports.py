"""The studies of MIMIC-CXR that were read by hand: each kind of them, and any text in them."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medclip_jax.data import reports
from medclip_jax.data.builders.mimic_cxr.malformed_reports import MALFORMED, mend_report

TITLE = "                                 FINAL REPORT\n"
PIECES = """FINDINGS: IMPRESSION: Impression: CHEST, TWO VIEWS: PA: A: : NOTE: clear lungs. 1.5 ___
WET READ: FINAL REPORT ADDENDUM""".split(" ")
TEXTS = st.lists(st.sampled_from([*PIECES, " ", "\n", "\n ", "\n \n", "\t"])).map("".join)


def selected(study_id: str, report: str) -> str:
    return reports.select_sections(mend_report(study_id, report))


def test_all_studies_of_the_tables() -> None:
    assert len(MALFORMED) == 23 + 31


def test_a_range_of_characters() -> None:
    report = f"{'x' * 59}{'The made-up lungs are clear.':159}rest of it"
    assert selected("56579911", report) == "The made-up lungs are clear."
    assert reports.select_sections(mend_report("56579911", report), ["findings"]) == ""
    assert selected("56760320", "x" * 219 + "y" * (457 - 219) + "z") == "y" * (457 - 219)


def test_headers_in_a_range_are_words() -> None:
    passage = "CHEST: Clear.\n FINDINGS:\n Heart is large. IMPRESSION: No edema."
    report = f"{'x' * 59}{passage:159}rest"
    assert selected("56579911", report) == passage.replace(":", ".")


def test_a_report_that_is_too_short_for_its_range_stays() -> None:
    report = "FINDINGS: The lungs are clear."
    assert mend_report("56579911", report) == report
    assert selected("56579911", report) == "The lungs are clear."


def test_a_study_without_findings_is_empty() -> None:
    assert mend_report("58235663", TITLE + " INDICATION: ___\n\n Not done.") == ""


def test_the_section_that_holds_the_text() -> None:
    report = (
        f"{TITLE} INDICATION:  Cough.\n \n Lungs are\n clear.  Heart is normal.\n \n"
        " COMPARISON:  ___.\n \n TECHNIQUE:  PA.\n"
    )
    assert selected("50058765", report) == "Cough.\n \n Lungs are\n clear.  Heart is normal."


def test_the_section_counts_beside_findings_and_impression() -> None:
    report = (
        f"{TITLE} FINDINGS: \n \n Lines are in place.\n \n IMPRESSION: \n \n"
        " RECOMMENDATION(S):  Clear lungs.\n \n Follow up.\n"
    )
    assert selected("50913680", report) == "Clear lungs.\n \n Follow up."


def test_the_last_of_several_sections_of_the_name() -> None:
    report = (
        f"{TITLE} TYPE OF EXAMINATION:  CHEST.\n \n EXAMINATION:  Clear lungs.\n \n COMPARISON: ___"
    )
    assert selected("50743547", report) == "Clear lungs."


def test_the_last_section_ends_at_an_empty_line_without_findings_and_impression() -> None:
    report = f"{TITLE} NOTE:  Clear\n lungs.\n \n Read by ___.\n"
    assert selected("56451190", report) == "Clear\n lungs."
    assert selected("56451190", report.replace("FINAL", "\n IMPRESSION: x\n")).endswith("by ___.")


def test_the_line_below_a_header_is_its_text() -> None:
    report = f"{TITLE} HISTORY:\n CLEAR LUNGS: no edema.\n COMPARISON:  ___\n"
    assert selected("51491012", report) == "CLEAR LUNGS. no edema."


def test_headers_need_capitals_and_a_space_before_them() -> None:
    report = f"{TITLE} INDICATION:  Cough.\nIMPRESSION: Clear.\n Findings: None.\n  PA: x\n"
    expected = "Cough.\nIMPRESSION. Clear.\n Findings. None."
    assert selected("57936451", report) == expected


@pytest.mark.parametrize("report", ["", "Lungs are clear.", "IMPRESSION: Clear."])
def test_a_report_without_the_section_stays(report: str) -> None:
    assert mend_report("59279892", report) == report


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("CHEST: PA VIEW: x")
def test_any_passage_is_what_is_selected(passage: str) -> None:
    report = "x" * 59 + passage[:159].ljust(159)
    text = selected("56579911", report)
    assert text.replace(".", ":") == passage[:159].strip().replace(".", ":")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(MALFORMED)), TEXTS)
def test_no_report_is_too_strange(study_id: str, report: str) -> None:
    mended = mend_report(study_id, report)
    if mended not in ("", report):
        names = [section.name for section in reports.split_sections(mended)]
        assert names == ["impression"]
        text = reports.select_sections(mended)
        assert "".join(text.replace(".", ":").split()) in "".join(report.replace(".", ":").split())
