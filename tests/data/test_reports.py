"""Sections and sentences of reports: cases from MIMIC-CXR and OpenI, and properties."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclip_jax.data import reports

MIMIC = """ WET READ: ___ ___ 4:00 PM
  No pneumothorax.
 ______________________________________________________________________________
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough  // eval for pneumonia

 COMPARISON:  ___ at 1:00 p.m.

 FINDINGS:

 The lungs are clear.  There is a 1.5 cm nodule
 in the left lung, seen by Dr. ___.

 IMPRESSION:

 1. No acute cardiopulmonary process.
 2. Nodule, as described above.
"""

# Pieces that the rules look at, in any order: more telling than arbitrary characters.
PIECES = """Dr. no No. a.m. vs. 1.5 cm 1. 2. 1) 12. - • . ? ! ... XXXX ___ J. e.g. : FINDINGS:
IMPRESSION: Impression: PA ( ) " ' The heart clear.The é É 5 ؟""".split()
TEXTS = st.lists(st.sampled_from([*PIECES, " ", "\n", "\n\n", "\t", "\u2028", "\x1c"])).map("".join)


def test_sections_of_a_mimic_report() -> None:
    names = [section.name for section in reports.split_sections(MIMIC)]
    assert names == [
        "wet read",
        "examination",
        "indication",
        "comparison",
        "findings",
        "impression",
    ]
    assert reports.select_sections(MIMIC, ["comparison"]) == "___ at 1:00 p.m."
    assert reports.select_sections(MIMIC).startswith("The lungs are clear.")
    assert list(reports.report_sentences(MIMIC)) == [
        "The lungs are clear.",
        "There is a 1.5 cm nodule in the left lung, seen by Dr. ___.",
        "No acute cardiopulmonary process.",
        "Nodule, as described above.",
    ]


def test_sections_come_in_the_order_asked_for() -> None:
    report = "FINDINGS: Clear lungs.\nIMPRESSION: Normal chest."
    assert reports.select_sections(report, ["impression", "findings"]) == (
        "Normal chest.\n\nClear lungs."
    )


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("FINDINGS AND IMPRESSION:", "impression"),
        ("PROVISIONAL FINDINGS IMPRESSION (PFI):", "impression"),
        ("CONCLUSION:", "impression"),
        ("REASON FOR EXAM:", "indication"),
        ("END OF IMPRESSION:", "end of impression"),
        ("NDICATION:", "indication"),  # once taken for an impression by a public parser
        ("CHEST, TWO VIEWS:", "findings"),
        ("PA AND LATERAL CHEST RADIOGRAPH:", "findings"),
        ("COMPARISONS:", "comparison"),
        ("COMPARSION:", "comparison"),
        ("REFERENCE EXAM:", "comparison"),
        ("IMPRESSON:", "impression"),
        ("MPRESSION:", "impression"),
        ("IMPERSSION:", "impression"),
        ("FINIDNGS:", "findings"),
        ("BONE WINDOWS:", "findings"),
        ("IDICATION:", "indication"),
        ("CLINICAL HISTORY:", "history"),
        ("FINAL ADDENDUM:", "addendum"),
        ("TYPE OF EXAMINATION:", "examination"),
        ("Impression:", "impression"),
        ("findings:", "findings"),
        ("NOTE:", "note"),
        ("WETREAD:", "wet read"),
        ("ACCESSION NUMBER:", "details"),
        ("ÉCHOGRAPHIE:", "échographie"),
    ],
)
def test_header_names(header: str, name: str) -> None:
    sections = reports.split_sections(f"Before.\n {header} text\n of it")
    assert [section.name for section in sections] == ["preamble", name]
    assert sections[1].text == " text\n of it"


def test_headers_within_a_line() -> None:
    report = "COMPARISON: None. FINDINGS: The lungs are clear. IMPRESSION: No acute disease."
    assert reports.select_sections(report) == "The lungs are clear.\n\nNo acute disease."


def test_times_and_ratios_are_no_headers() -> None:
    text = "Seen at 08:12 HOURS. CT:12 and\n PA 10:30 views"
    assert [section.name for section in reports.split_sections(text)] == ["preamble"]


def test_the_last_section_of_a_name_that_is_not_empty_counts() -> None:
    report = "FINDINGS: first version\nFINDINGS: second version\nFINDINGS:\nIMPRESSION: x"
    assert reports.select_sections(report, ["findings"]) == "second version"


def test_without_findings_and_impression_the_last_paragraph_counts() -> None:
    report = " FINAL REPORT\n HISTORY: Cough.\n\n Portable view.\n \n Lungs are\n clear."
    assert reports.select_sections(report) == "Portable view.\n \n Lungs are\n clear."
    assert reports.select_sections(" HISTORY: Cough and fever.") == ""
    assert reports.select_sections(report, ["comparison"]) == ""


def test_the_last_paragraph_begins_after_the_first_blank_line() -> None:
    report = " INDICATION:  Cough.\n \n Lungs clear.\n \n Heart normal.\n"
    assert reports.select_sections(report) == "Lungs clear.\n \n Heart normal."


def test_empty_findings_do_not_hide_the_last_paragraph() -> None:
    report = " INDICATION:  Cough.\n \n Lungs clear.\n CHEST, TWO VIEWS:\n IMPRESSION: \n"
    assert reports.select_sections(report) == "Lungs clear."


def test_a_section_that_was_not_asked_for_gives_nothing() -> None:
    assert reports.select_sections("FINDINGS: Clear lungs.", ["impression"]) == ""
    assert reports.report_sentences("FINDINGS: Clear lungs.", ("impression",)) == ()


def test_a_report_without_known_headers_is_whole() -> None:
    assert reports.select_sections(" The lungs are clear. ") == "The lungs are clear."
    assert reports.select_sections("FINAL REPORT\n ICU: intubated.") == "ICU: intubated."
    assert reports.select_sections("  \n") == ""


COMMENT = " FINAL REPORT\n COMMENT:  AP chest compared to ___.\n \n Lungs are clear.  Heart big.\n"


@pytest.mark.parametrize(
    "header",
    ["COMMENT", "COMMENTS", "NOTE", "WET READ", "Comment", "Comments", "comment", "Wet Read"],
)
@pytest.mark.parametrize("title", ["", " PORTABLE AP, ___\n \n"])
def test_a_report_that_is_a_comment_gives_its_last_paragraph(header: str, title: str) -> None:
    report = COMMENT.replace(" COMMENT", f"{title} {header}")
    assert reports.select_sections(report) == "Lungs are clear.  Heart big."


def test_no_text_is_lost_for_a_comment() -> None:
    for report in (
        "COMMENT: Lungs are clear.",
        "The lungs are clear. The heart is big.\nNOTE: Dr. ___ was told.\n\nBy phone.",
        "BEVINDINGEN: geen.\nNOTE: a\n\nb",
    ):
        assert reports.select_sections(report) == report
    report = "INDICATION: Cough.\nCOMMENT: Lungs are clear."
    assert reports.select_sections(report) == "Lungs are clear."
    assert reports.select_sections("FINDINGS: Big heart.\nCOMMENT: Read late.") == "Big heart."


def test_a_comparison_is_no_finding() -> None:
    assert reports.select_sections(" INDICATION: Cough.\n COMPARISON: Radiograph of ___.") == ""


@pytest.mark.parametrize(
    "report",
    [
        "TÉCNICA: a\nHALLAZGOS: findings.\nCONCLUSIÓN: impression.",
        "TECNICA: a\nHALLAZGOS: findings.\nCONCLUSION: impression.",
        "Datos clínicos: a\nHallazgos: findings.\nImpresión diagnóstica: impression.",
        "MOTIVO: a\nCOMPARACIÓN: b\nHALLAZGO: findings.\nIMPRESION: impression.",
        "INDICATION : a\nTECHNIQUE : b\nRESULTATS : findings.\nCONCLUSION : impression.",
        "RENSEIGNEMENTS CLINIQUES : a\nRÉSULTAT : findings.\nCONCLUSION : impression.",
        "Résultats : findings.\nConclusion : impression.\nRecommandation : a",
        "KLINISCHE ANGABEN: a\nTECHNIK: b\nBEFUND: findings.\nBEURTEILUNG: impression.",
        "Fragestellung: a\nVergleich: b\nBefund: findings.\nBeurteilung: impression.",
        "INDICAÇÃO: a\nTÉCNICA: b\nACHADOS: findings.\nIMPRESSÃO: impression.",
        "Dados clínicos: a\nAchados: findings.\nConclusão: impression.",
        "QUESITO CLINICO: a\nTECNICA: b\nREFERTO: findings.\nCONCLUSIONI: impression.",
        "TECNICA: a. HALLAZGOS: findings. CONCLUSION: impression.",
    ],
)
def test_headers_of_other_languages(report: str) -> None:
    assert reports.select_sections(report) == "findings.\n\nimpression."
    assert reports.select_sections(report, ["impression"]) == "impression."


@pytest.mark.parametrize(
    ("report", "text"),
    [
        ("INDICATIE: a\nBEVINDINGEN: b\n\nCONCLUSIE: c", None),
        ("ОПИСАНИЕ: a\n\nЗАКЛЮЧЕНИЕ: b", None),
        ("DATE: 2020\nLungs are clear.", None),
        ("INDICATION: a\nBEVINDINGEN: b", "BEVINDINGEN: b"),
        ("REPORT: Lungs clear.\nIMPRESSION: Normal.", "REPORT: Lungs clear.\n\nNormal."),
        ("LUNGS: Clear.\nHEART: Big.\nIMPRESSION: c", "LUNGS: Clear.\nHEART: Big.\n\nc"),
        ("FINDINGS:\n\nLUNGS: Clear.\nIMPRESSION: c", "LUNGS: Clear.\n\nc"),
        ("FINDINGS: PA.\nLUNGS: Clear.\nIMPRESSION: c", "PA.\nLUNGS: Clear.\n\nc"),
        ("FINDINGS: a\nIMPRESSION: b\nSIGNED BY: c\nOTHER: d", "a\n\nb"),
        ("DATE: 2020\nPATIENT: X\nNARRATIVE: y\nIMPRESSION: b", "b"),
    ],
)
def test_text_under_unknown_headers_is_kept(report: str, text: str | None) -> None:
    assert reports.select_sections(report) == (report if text is None else text)


def test_other_ends_of_lines_and_spaces() -> None:
    report = "\u00a0FINDINGS:\r\n\tLungs clear\r\n\r\nHeart is big\r\nIMPRESSION:\r\n___ chest.\r\n"
    assert reports.split_sentences(reports.select_sections(report)) == [
        "Lungs clear",
        "Heart is big",
        "___ chest.",
    ]
    title = "FINAL REPORT\r\nCOMMENT: a\r\n\r\nLungs clear.\r\n"
    assert reports.select_sections(title) == "Lungs clear."


@pytest.mark.parametrize("piece", ["seen at a.m. and ", "Dr. J. ", "NO EFFUSION ", "___ ", "(1. "])
def test_long_texts_without_breaks_are_split_in_time_that_grows_with_their_length(
    piece: str,
) -> None:
    def seconds(length: int) -> float:
        report = piece * (length // len(piece))
        start = time.process_time()
        sentences = reports.split_sentences(reports.select_sections(report))
        taken = time.process_time() - start
        assert "".join("".join(sentences).split()) == "".join(report.split())
        return taken

    # Of eight times the length; with its square it was 64 times as long.
    assert seconds(2**16) < 25 * max(seconds(2**13), 0.01)


@pytest.mark.parametrize(
    "sentences",
    [
        ["A 1.5 cm nodule.", "The heart is normal."],
        ["Seen by Dr. J. R. Smith at 10 a.m. on ___.", "No change."],
        ["It was 5 p.m.", "The tube is in place."],
        ["AP vs. PA view, e.g. lateral.", "XXXX XXXX.", "No XXXX."],
        ["1. No effusion.", "2. Fracture of rib 2.", "3. Normal heart."],
        ["Unchanged from examination no. 3 of ___.", "Is it pneumonia?", "Yes!"],
        ["Consolidation ? pneumonia.", "Stable."],
        ["no effusion.", "heart is normal."],
        ["no effusion .", "heart is normal ."],
        ["Report by ___, M.D.", "Dictated."],
        ['He said "clear."', "Then (see below.)", "Done"],
        ["Small ... but stable."],
        ["Between T10 and T11 are 3.5 x 2.0 cm masses in all."],
    ],
)
def test_sentences_with_spaces_between_them(sentences: list[str]) -> None:
    assert reports.split_sentences(" ".join(sentences)) == sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Lungs are\n clear.\nHeart normal", ["Lungs are clear.", "Heart normal"]),
        ("First part\n\nsecond part", ["First part", "second part"]),
        ("1. Stable mass\n2. No change", ["1. Stable mass", "2. No change"]),
        ("As follows:\n(1) mass\n(2) cyst", ["As follows:", "(1) mass", "(2) cyst"]),
        ("It grew from 1 to\n2. Heart normal", ["It grew from 1 to 2.", "Heart normal"]),
        ("Findings\n- mass\n- cyst\n• tube", ["Findings", "- mass", "- cyst", "• tube"]),
        ("Lungs are clear.Heart is normal.", ["Lungs are clear.", "Heart is normal."]),
        ("Clear right lung XXXX.In the left", ["Clear right lung XXXX.", "In the left"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences_over_lines(text: str, sentences: list[str]) -> None:
    assert reports.split_sentences(text) == sentences


@settings(max_examples=400, deadline=None)
@given(TEXTS | st.text())
def test_sentences_lose_only_white_space_and_are_stable(text: str) -> None:
    sentences = reports.split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    for sentence in sentences:
        assert sentence == " ".join(sentence.split()) != ""
        assert reports.split_sentences(sentence) == [sentence]


@settings(max_examples=400, deadline=None)
@given(TEXTS | st.text())
def test_sections_spell_the_report(report: str) -> None:
    sections = reports.split_sections(report)
    assert "".join(section.header + section.text for section in sections) == report
    assert all(section.header for section in sections[1:])


@settings(max_examples=200, deadline=None)
@given(TEXTS | st.text())
def test_selected_text_comes_from_the_report(report: str) -> None:
    for sentence in reports.report_sentences(report):
        assert reports.normalize_sentence(sentence)
        assert "".join(sentence.split()) in "".join(report.split())


def test_short_sentences_go_only_where_there_are_longer_ones() -> None:
    assert list(reports.report_sentences("Normal. The heart is normal. ... 1. Clear.")) == [
        "The heart is normal."
    ]
    assert list(reports.report_sentences("Normal. --- . Clear.")) == ["Normal.", "Clear."]
    assert list(reports.report_sentences("- . ?")) == []


def test_list_markers_go() -> None:
    report = "IMPRESSION:\n 1. No acute disease seen.\n (2) Two old fractures.\n - A central line."
    assert list(reports.report_sentences(report)) == [
        "No acute disease seen.",
        "Two old fractures.",
        "A central line.",
    ]


def test_normalized_sentences() -> None:
    same = reports.normalize_sentence("No  acute process.")
    assert same == reports.normalize_sentence("no acute,\nprocess") == "no acute process"
    assert reports.normalize_sentence("1.5 cm") != reports.normalize_sentence("15 cm")
