"""What sections the reports give that the `mimic_cxr` builder stores, form by form."""

from pathlib import Path

import pytest
from support.mimic_cxr_tree import write_tree

from medclip_jax.data import build, datasets, reports

TITLE = "                                 FINAL REPORT\n"
LINE = " " + "_" * 78 + "\n"
# Report, findings, impression; wrapped as the set's authors do, with a space before each line.
FORMS = {
    "usual": (
        f"{TITLE} EXAMINATION:  CHEST (PA AND LAT)\n \n INDICATION:  ___F with cough\n \n"
        " TECHNIQUE:  Chest PA and lateral\n \n COMPARISON:  ___\n \n FINDINGS: \n \n"
        " The phantom's lungs are clear, and its heart\n is normal.\n \n IMPRESSION: \n \n"
        " No made-up disease.\n",
        "The phantom's lungs are clear, and its heart\n is normal.",
        "No made-up disease.",
    ),
    "merged": (f"{TITLE} FINDINGS AND IMPRESSION:  Clear.\n", "", "Clear."),
    "merged with a slash": (f"{TITLE} FINDINGS/IMPRESSION: \n \n Clear.\n", "", "Clear."),
    "findings alone": (f"{TITLE} FINDINGS:  Clear.\n", "Clear.", ""),
    "impression alone": (f"{TITLE} HISTORY: ___\n \n IMPRESSION:  Clear.\n", "", "Clear."),
    "conclusion": (f"{TITLE} CONCLUSION:  Clear.\n", "", "Clear."),
    "small letters": (f"{TITLE} Findings: Clear.\n Impression: Normal.\n", "Clear.", "Normal."),
    "the view as header": (
        f"{TITLE} CHEST, TWO VIEWS:  Clear.\n \n IMPRESSION:  Normal.\n",
        "Clear.",
        "Normal.",
    ),
    "the view as title": (
        f"{TITLE} CHEST, PA AND LATERAL:\n \n HISTORY:  ___\n \n FINDINGS:  Clear.\n",
        "Clear.",
        "",
    ),
    "addendum": (
        f"                                 FINAL ADDENDUM\n ADDENDUM:  Second reading.\n {LINE}"
        f"{TITLE} FINDINGS:  Clear.\n \n IMPRESSION:  Normal.\n",
        "Clear.",
        "Normal.",
    ),
    "addendum with an impression": (
        f" ADDENDUM \n \n IMPRESSION:  Changed.\n \n{LINE}{TITLE} IMPRESSION:  Normal.\n",
        "",
        "Normal.",
    ),
    "wet read": (
        f" WET READ: ___ ___ 4:00 PM\n  Clear.\n{LINE}{TITLE} FINDINGS:  No disease.\n",
        "No disease.",
        "",
    ),
    "a lost letter": (f"{TITLE} NDICATION:  ___M with pain\n \n FINDINGS: Clear.\n", "Clear.", ""),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each form as the builder stores it."""
    root: Path = tmp_path_factory.mktemp("reports")
    first_with_usual_report = 3
    truth = write_tree(root / "mimic", len(FORMS) + first_with_usual_report, 0, reports="folder")
    studies = [study.study_id for study in truth[first_with_usual_report:]]
    files = {path.stem: path for path in (root / "mimic").rglob("s*.txt")}
    for study, (report, _, _) in zip(studies, FORMS.values(), strict=True):
        files[f"s{study}"].write_text(report)
    build.build("mimic_cxr", manual_dir=root / "mimic", data_dir=root / "sets")
    found = {
        study.study_id: study.report
        for split in ("train", "validation", "test")
        for study in datasets.open_split("mimic_cxr/default", split, root / "sets")
    }
    return {form: found[study] for form, study in zip(FORMS, studies, strict=True)}


@pytest.mark.parametrize("form", FORMS)
def test_sections(stored: dict[str, str], form: str) -> None:
    report, findings, impression = FORMS[form]
    assert stored[form] == report
    assert reports.select_sections(stored[form], ["findings"]) == findings
    assert reports.select_sections(stored[form], ["impression"]) == impression


def test_without_headers_the_last_paragraph_counts() -> None:
    report = f"{TITLE} INDICATION:  Cough.\n \n Clear.\n"
    assert reports.select_sections(report, ["impression"]) == "Clear."
