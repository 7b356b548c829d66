"""What bears on a finding: denial, doubt, plans, history and change, in many wordings each.

`X` stands for the finding. The expected values are what CheXpert's labeler gives, where it has a
rule, and else what the words mean.
"""

import numpy as np
import pytest
from support.stated_findings import in_order, stated

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


# What each says of the findings, as `stated` writes it; after "=" nothing where it says nothing.
WHERE_A_DENIAL_ENDS = """
Interval resolution of pulmonary edema with persistent effusions. = ED0 EF1
Interval removal of a right chest tube with residual small pneumothorax. = PX1 SD0
Interval removal of right pigtail catheter with increased right effusion. = EF1 SD0
Interval removal of the ET tube with worsening atelectasis. = AT1 SD0
Interval removal of the left chest tube with recurrent pneumothorax. = PX1 SD0
No pneumothorax with residual atelectasis. = AT1 PX0
No pneumothorax with slightly increased effusion. = PX0 EF1
No pneumothorax with underlying atelectasis. = AT1 PX0
No edema with focal consolidation. = ED0 CO1
Negative for pneumothorax with known effusion. = PX0 EF1
Clear of edema with chronic cardiomegaly. = CM1 ED0
No pneumothorax, decreased effusion. = PX0 EF1
No pneumothorax, interval increase in the left effusion. = PX0 EF1
No pneumothorax, loculated effusion. = PX0 EF1
No acute fracture, healed left rib fractures. = FX1
No evidence of acute fracture, old rib fractures noted. = FX1
No pneumothorax, chest tube in place. = PX0 SD1
No consolidation, only atelectasis. = CO0 AT1
No consolidation to account for fever, atelectasis only. = CO0 AT1
No focal consolidation, atelectasis is seen at the bases. = CO0 AT1
No evidence of edema, cardiomegaly persists. = CM1 ED0
Resolution of the consolidation, effusion remains. = CO0 EF1
There is no edema and cardiomegaly is unchanged. = CM1 ED0
No pneumothorax and tiny effusion. = PX0 EF1
No pneumothorax and residual left effusion. = PX0 EF1
No pneumothorax or effusion, cardiomegaly is stable. = CM1 PX0 EF0
"""
WHERE_A_DENIAL_GOES_ON = """
No pneumothorax with the patient upright. = PX0
No pneumothorax with increased lucency at the apex. = PX0
No pneumothorax, effusion or increased edema. = ED0 PX0 EF0
No pneumothorax, increased effusion, or edema. = ED0 PX0 EF0
No pneumothorax, pleural effusion, or old fracture. = PX0 EF0 FX0
No pneumothorax or increased effusion. = PX0 EF0
No large and increasing effusion. = EF0
No acute and chronic fractures. = FX0
No acute, displaced rib fracture. = FX0
No acute, old or healing fracture. = FX0
No consolidation, pneumothorax, effusion. = CO0 PX0 EF0
No consolidation, effusion is seen. = CO0 EF0
No pneumothorax and pleural effusion are seen. = PX0 EF0
No edema, pneumonia, pneumothorax, and effusion. = ED0 PN0 PX0 EF0
Effusion, edema, and pneumothorax have resolved. = ED0 PX0 EF0
No findings consistent with chronic edema. = ED0
No opacity in keeping with residual pneumonia. = LO0 PN0
No changes compatible with old fracture. = FX0
Interval removal of the right and left chest tubes. = SD0
Interval removal of the tracheostomy tube and right central venous catheter. = SD0
Resolution of small apical pneumothorax and basilar opacities. = LO0 PX0
History of heart failure, known pneumonia. =
Rule out pneumonia and residual effusion. =
"""
AFTER_WHAT_WAS_DONE = """
No evidence of pneumothorax status post right IJ line placement. = PX0 SD1
There is no pneumothorax s/p line placement with the catheter tip in the SVC. = PX0 SD1
No pneumothorax after left chest tube placement. = PX0 SD1
No pneumothorax following pacemaker insertion. = PX0 SD1
No pneumothorax post central line placement. = PX0 SD1
No pneumothorax post-PICC placement. = PX0 SD1
No effusion since placement of the right chest tube. = EF0 SD1
No pneumothorax despite a poorly positioned chest tube. = PX0 SD1
No pneumothorax in the presence of a chest tube. = PX0 SD1
No complication after placement of a pacemaker. = SD1
No pneumothorax after thoracentesis with residual effusion. = PX0 EF1
No pneumothorax following removal of the chest tube. = PX0 SD0
No pneumothorax status post chest tube removal. = PX0 SD0
No pneumothorax or effusion after thoracentesis. = PX0 EF0
No post-traumatic pneumothorax. = PX0
No evidence of post biopsy pneumothorax. = PX0
No post-obstructive pneumonia. = PN0
"""
QUESTIONS_PLANS_AND_HISTORY = """
Eval for pneumonia. =
Eval pneumonia. =
Chest pain, evaluate pneumothorax. =
Re-evaluate for pneumothorax. =
Reassess for pneumothorax. =
Monitor for pneumothorax. =
Comparison is made for pneumothorax. =
Radiograph obtained for cough shows left effusion. = EF1
Follow-up of known pneumothorax. =
Follow-up chest radiograph shows a new effusion. = EF1
CT is recommended to further evaluate the nodule. = LL1
Evaluation of the left base is limited by a large effusion. = EF1
Clinical question of edema. =
There is a question of a nodule. = LL?
Clinical concern: pneumonia. =
Should suspicion for fracture persist, CT is advised. =
Query pneumonia. = PN?
Query small left effusion. = EF?
Pneumonia? = PN?
PMH: CHF. =
Past history significant for pneumonia. =
Medical history includes heart failure. =
History of CHF with new effusion. = EF1
Please correlate with symptoms of pneumonia. = PN?
Clinical correlation with symptoms of infection is recommended. = PN?
Correlate with clinical signs of infection. = PN?
Clinical correlation is recommended regarding pneumonia. = PN?
Correlate with any infectious symptoms. = PN?
Correlation with the prior CT shows a stable nodule. = LL1
Repeat after treatment to document clearance of the pneumonia. =
Recommend follow-up to assess resolution of the opacity. =
Recommend follow-up to resolution of the opacity. =
Follow-up is recommended to ensure that the opacity has resolved. =
Improved aeration due to resolution of the effusion. = EF0
Please note that small pleural effusions may be missed on supine radiographs. =
Rib fractures may be radiographically occult. =
Small pneumothoraces are easily missed. =
Post-infectious scarring. =
Sequelae of prior infectious process. =
New infectious process. = PN1
"""
NOT_EXCLUDED = """
Pneumonia cannot be reliably excluded. = PN?
Pneumonia cannot entirely be excluded. = PN?
Pneumonia cannot at this time be excluded. = PN?
Pneumonia cannot, however, be excluded. = PN?
Pneumonia cannot with certainty be excluded. = PN?
Pneumonia cannot be completely or reliably excluded. = PN?
Pneumonia could not be confidently ruled out. = PN?
Pneumonia cannot be ruled-out. = PN?
Pneumonia can neither be confirmed nor excluded. = PN?
Pneumonia has not been excluded. = PN?
Cannot confidently exclude pneumonia. = PN?
Cannot rule-out pneumonia. = PN?
Cannot exclude with certainty a pneumothorax. = PX?
Unable to fully exclude pneumothorax. = PX?
This doesn't exclude pneumonia. = PN?
Superimposed infection is difficult to exclude in this setting. = PN?
Pneumonia is hard to rule out given the low volumes. = PN?
Exclusion of pneumonia is difficult. = PN?
Pneumonia remains possible. = PN?
Pneumonia has been effectively excluded. = PN0
Pneumothorax was ruled out. = PX0
No pneumonia, though early infection cannot be excluded. = PN?
"""
CLEARING_AND_CHANGE = """
Near-complete resolution of edema. = ED1
Near total resolution of the effusion. = EF1
Near-total clearing of the pneumonia. = PN1
Some clearing of the left base consolidation. = CO1
Substantial interval clearing of edema. = ED1
Continued clearing of the pneumonia. = PN1
No interval clearing of the pneumonia. = PN1
Complete clearing of the pneumonia. = PN0
Interval resolution of the effusion. = EF0
The effusion has fully resolved. = EF0
No short interval change in the pneumothorax. = PX1
No short-term change in the nodule. = LL1
Not much change in left effusion. = EF1
Not a significant change in the effusion. = EF1
No interval development of pneumothorax. = PX0
"""
NOT_SEEN_OR_NOT_WELL = """
Not seen is the previously noted nodule. = LL0
No longer seen is the small pneumothorax. = PX0
Not seen on this exam are the previously described opacities. = LO0
Gone is the left effusion. = EF0
The effusion is not seen and is likely resolved. = EF0
Pneumonia is not appreciated. = PN0
Effusion is incompletely evaluated. = EF?
The nodule is obscured. = LL?
The effusion is partially obscured by the pacemaker. = EF? SD1
The left base is obscured by effusion. = EF1
The ETT tip is obscured. = SD1
Fracture of the humerus, incompletely evaluated. = FX1
The nodule is not well-seen on today's study. = LL?
A 3.5 cm opacity is not well-seen on the lateral view. = LO1
Pneumonia is improbable. = PN0
Pneumonia is not probable. = PN0
Pneumonia is probable. = PN?
Atelectasis is presumed. = AT?
Edema is suggested. = ED?
No edema is suggested. = ED0
"""
NORMAL_ORGANS = """
Heart is top-normal in size. = CM0
Heart size: top-normal. = CM0
Normal heart, lungs, and mediastinum. = EC0 CM0
Normal heart size and mediastinal contours. = EC0 CM0
Unremarkable lungs, heart and mediastinum. = EC0 CM0
Heart, lungs, and mediastinum are normal. = EC0 CM0
Abnormal heart and mediastinum. =
The heart is non-enlarged. = CM0
Normal lungs with an enlarged heart. = CM1
Normal heart size, enlarged mediastinum. = EC1 CM0
Heart size is normal and the mediastinum is not well seen. = CM0
Stable biapical pleural-parenchymal scarring. = LO1 PO1
Swan-Ganz catheter and port-a-cath. = SD1
"""


def _rows(table):
    lines = [line for line in table.splitlines() if line]
    return pytest.mark.parametrize(
        ("sentence", "expected"), [[part.strip() for part in line.split("=")] for line in lines]
    )


@_rows(WHERE_A_DENIAL_ENDS)
def test_a_denial_ends_where_something_is_said_to_be_there(sentence, expected):
    assert stated(sentence) == in_order(expected)


@_rows(WHERE_A_DENIAL_GOES_ON)
def test_a_denial_goes_on_over_a_list_and_its_adjectives(sentence, expected):
    assert stated(sentence) == in_order(expected)


@_rows(AFTER_WHAT_WAS_DONE)
def test_a_denial_ends_before_what_was_done(sentence, expected):
    assert stated(sentence) == in_order(expected)


@_rows(QUESTIONS_PLANS_AND_HISTORY)
def test_questions_plans_and_history_say_nothing_of_the_image(sentence, expected):
    assert stated(sentence) == in_order(expected)


@_rows(NOT_EXCLUDED)
def test_what_is_not_excluded_is_uncertain(sentence, expected):
    assert stated(sentence) == in_order(expected)


@_rows(CLEARING_AND_CHANGE)
def test_what_has_not_cleared_or_changed_is_there(sentence, expected):
    assert stated(sentence) == in_order(expected)


@_rows(NOT_SEEN_OR_NOT_WELL)
def test_what_is_not_seen_is_denied_and_what_is_not_well_seen_uncertain(sentence, expected):
    assert stated(sentence) == in_order(expected)


@_rows(NORMAL_ORGANS)
def test_organs_are_normal_also_in_lists_and_a_hyphen_is_a_blank(sentence, expected):
    assert stated(sentence) == in_order(expected)
