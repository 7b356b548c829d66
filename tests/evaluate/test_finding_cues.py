"""What bears on a finding: denial, doubt, plans, history and change, in many wordings each.

`X` stands for the finding. The expected values are what CheXpert's labeler gives, where it has a
rule, and else what the words mean.
"""

import numpy as np
import pytest

from medclip_jax.evaluate.finding_extractor import extract_findings

# The finding is told from others by its cue alone, so that any will do.
FINDINGS = {
    "pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
    "pleural effusion": "Pleural Effusion",
    "pulmonary edema": "Edema",
}
DENIED = """
No X. | There is no X. | No evidence of X. | No evidence for X. | No radiographic evidence of X.
No definite X. | No definite evidence of X is seen. | No convincing evidence of X.
Without evidence of X. | Lungs are clear without X. | Free of X. | The lungs are clear of X.
Negative for X. | Absence of X. | X is absent. | Nothing to suggest X. | Never any X.
X is not seen. | X not identified. | X is not present. | No longer any X. | X is no longer seen.
The X is no longer present. | X no longer visualized. | X has resolved. | The X has cleared.
Interval resolution of X. | Resolution of previously seen X. | Resolved X. | X is excluded.
X has been ruled out. | X: none. | No evidence of worsening X. | No nodule or X.
No nodule, fracture, or X. | No nodule, no X. | No nodule nor X. | Neither nodule nor X is seen.
Findings are unlikely to represent X. | This is unlikely to be X. | Unlikely X. | X is unlikely.
X is felt to be unlikely. | X is thought to be unlikely. | X is considered unlikely.
X is highly unlikely. | X would be unlikely. | X appears unlikely. | X is unlikely given the shape.
X is not suspected. | X is not likely. | X is not favored. | X is not thought to be present.
No X is suspected. | Doubt X. | We doubt X. | I doubt that this is X.
Favors a nodule over X. | A nodule is favored over X. | A nodule rather than X.
Findings are not suggestive of X. | Findings are not consistent with X. | I do not see X.
The previously seen X is not seen. | The previously described X has resolved.
"""
UNCERTAIN = """
Possible X. | X is possible. | Probable X. | X is probable. | Likely X. | X is likely. | X likely.
Suspected X. | X is suspected. | Question X. | Questionable X. | Concern for X. | Concerning for X.
There may be X. | This could represent X. | X may be present. | X should be considered.
Consider X. | Suggestive of X. | Suspicious for X. | Low suspicion for X. | Less likely X.
X is less likely. | X is felt to be less likely. | X is much less likely. | X is doubtful.
A nodule is more likely than X. | Low likelihood of X. | The possibility of X is low.
X not excluded. | X is not excluded. | Cannot exclude X. | X cannot be excluded. | Can't exclude X.
X cannot be ruled out. | X cannot be entirely excluded. | X is difficult to exclude.
It is not possible to exclude X. | Unable to exclude X. | No evidence to rule out X.
Nodule versus X. | Nodule vs. X. | Nodule vs X. | Nodule or X. | Favor X. | X is favored.
Favored to represent X. | Favors X over a nodule. | X is favored over a nodule.
Minimal, if any, X. | Little if any X. | Small if any X. | Trace X, if any.
X, if present, is mild.
Correlate clinically for X. | Please correlate clinically for X. | Correlate for X.
Clinical correlation for X. | Clinical correlation for X is recommended.
Clinical correlation for signs of X. | The previously noted X is not well seen. | X not well seen.
X is not clearly seen. | X is poorly visualized. | X is not well evaluated.
No new X. | No new focal X. | A nodule versus, less likely, X. | X is another consideration.
X is also on the differential. | A nodule, for which the differential includes X.
"""
PRESENT = """
X. | There is X. | Stable X. | Unchanged X. | X is stable. | X is unchanged. | New X.
No change in X. | No significant change in X. | No interval change in X. | No decrease in X.
No appreciable interval change in X. | No significant interval change in the X.
No significant change in X or nodule. | No significant change in nodule or X.
X without significant change. | X is not significantly changed. | No increase in X.
There is no significant change in the size of the X. | X has not changed. | X has not resolved.
Improved but persistent X. | Decreased but persistent X. | X has improved but persists.
Improving X. | Decreased X. | Near complete resolution of X. | X has almost resolved.
Not without X. | There is no doubt about the X. | The previously noted X is stable.
Findings consistent with X. | Compatible with X. | Known X. | X rather than a nodule.
X without nodule. | X but no nodule. | X not well seen on the prior study.
"""
UNSAID = """
Rule out X. | Please rule out X. | R/o X. | Evaluate for X. | Evaluation for X. | Assess for X.
Follow-up for X is recommended. | CT is recommended to exclude X. | Recommend CT to rule out X.
History of X. | Prior history of X. | Status post treatment for X. | Indication: X.
Clinical indication: rule out X. | Reason for exam: X. | If X is suspected, CT is advised.
Radiographs have limited sensitivity for X. | Follow up to document resolution of X.
Limited sensitivity for haze as seen with X.
"""


def _cases():
    for text, value in ((DENIED, 0), (UNCERTAIN, -1), (PRESENT, 1), (UNSAID, np.nan)):
        for sentence in text.replace("\n", "|").split("|"):
            if sentence.strip():
                yield sentence.strip(), value


@pytest.mark.parametrize(("sentence", "expected"), list(_cases()))
def test_what_a_sentence_says_of_a_finding(sentence, expected):
    for name, label in FINDINGS.items():
        text = sentence.replace("X", name)
        found = extract_findings(text[0].upper() + text[1:])
        np.testing.assert_equal(found[label], float(expected), err_msg=text)


@pytest.mark.parametrize(
    "text",
    [
        "Old granulomatous infection.",
        "Sequela of prior granulomatous infection.",
        "Scarring from old infection.",
        "Calcified nodes from prior tuberculous infection.",
        "Previous granulomatous infection, stable.",
        "Residuals of healed pneumonia.",
    ],
)
def test_old_infections_are_no_pneumonia(text):
    assert np.isnan(extract_findings(text)["Pneumonia"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Favors atelectasis over pneumonia.", {"Atelectasis": -1, "Pneumonia": 0}),
        ("Atelectasis rather than pneumonia.", {"Atelectasis": 1, "Pneumonia": 0}),
        ("An opacity unlikely to be pneumonia.", {"Lung Opacity": 1, "Pneumonia": 0}),
        ("Pneumonia is unlikely, but effusion is possible.", {"Pneumonia": 0}),
        ("Pneumonia is unlikely, but effusion is possible.", {"Pleural Effusion": -1}),
        ("Edema, catheter over the right atrium.", {"Edema": 1, "Support Devices": 1}),
        ("The right PICC tip is not well visualized.", {"Support Devices": 1}),
    ],
)
def test_a_cue_reaches_one_finding_and_not_the_other(text, expected):
    found = extract_findings(text)
    assert {label: found[label] for label in expected} == expected


@pytest.mark.parametrize(
    "text",
    [
        "The lungs are clear.",
        "Lungs fully expanded and clear.",
        "Clear lungs bilaterally.",
        "The lungs are well inflated, and they are clear.",
    ],
)
def test_clear_lungs_are_no_finding_and_name_none(text):
    found = extract_findings(text)
    assert found.pop("No Finding") == 1
    assert np.isnan(list(found.values())).all()
