"""The finding extractor on sentences labelled by hand and on reports with known labels."""

import numpy as np
import pytest
from sklearn.metrics import f1_score
from support.stated_findings import SHORT, in_order, stated

from medclip_jax.data.builders.synthetic_cxr.findings import LABEL_NAMES as SYNTHETIC_LABELS
from medclip_jax.data.builders.synthetic_cxr.findings import NO_FINDING
from medclip_jax.data.builders.synthetic_cxr.patients import sample_visits
from medclip_jax.data.builders.synthetic_cxr.report_writer import write_report
from medclip_jax.data.reports import select_sections
from medclip_jax.errors import UserError
from medclip_jax.evaluate.finding_extractor import (
    extract_findings,
    extract_labels,
    finding_words,
)
from medclip_jax.evaluate.finding_lexicon import LABEL_NAMES

# A sentence, and what it says: 1 present, 0 denied, ? uncertain; what is left out is not mentioned.
SENTENCES = [
    ("No focal consolidation, pleural effusion, or pneumothorax.", "CO0 EF0 PX0"),
    ("No pneumothorax. Small left pleural effusion is unchanged.", "PX0 EF1"),
    ("No pneumothorax, small left pleural effusion.", "PX0 EF1"),
    ("No pneumothorax, large effusion or fracture.", "PX0 EF0 FX0"),
    ("There is no longer a pneumothorax.", "PX0"),
    ("The right apical pneumothorax is no longer seen.", "PX0"),
    ("The left pleural effusion has resolved.", "EF0"),
    ("The left pleural effusion has nearly completely resolved.", "EF1"),
    ("Resolved bibasilar atelectasis.", "AT0"),
    ("Interval removal of the endotracheal tube.", "SD0"),
    ("Chest tube has been removed without development of pneumothorax.", "SD0 PX0"),
    ("Patient has been extubated and the NG tube removed.", "SD0"),
    ("The patient is intubated.", "SD1"),
    ("ET tube terminates 4.5 cm above the carina, and there is a new left PICC.", "SD1"),
    ("Right IJ catheter tip in the low SVC without pneumothorax.", "SD1 PX0"),
    ("Dual-lead left-sided pacemaker with leads in the right atrium and ventricle.", "SD1"),
    ("A visceral pleural line is seen at the left apex.", ""),
    (
        "Bibasilar opacities, likely atelectasis, although pneumonia cannot be excluded.",
        "LO1 AT? PN?",
    ),
    ("Left retrocardiac opacity may represent atelectasis or pneumonia.", "LO1 AT? PN?"),
    ("Hazy opacity at the right base which may be due to layering effusion.", "LO1 EF?"),
    ("Opacity in the right lower lobe is concerning for pneumonia.", "LO1 PN?"),
    ("Findings suggest mild interstitial edema.", "ED?"),
    ("Pulmonary edema versus multifocal pneumonia.", "ED? PN?"),
    ("Atelectasis or consolidation at the left base.", "AT? CO?"),
    ("Small or moderate pleural effusion on the left.", "EF1"),
    ("Possible small right pleural effusion.", "EF?"),
    ("Possible small right pleural effusion, mild cardiomegaly.", "EF? CM1"),
    ("A small pleural effusion cannot be excluded.", "EF?"),
    ("Cannot exclude an underlying consolidation.", "CO?"),
    ("The effusion may be loculated.", "EF1"),
    ("Heart size is borderline, possible mild cardiomegaly.", "CM?"),
    ("No change in moderate cardiomegaly.", "CM1"),
    ("Heart size is top normal.", "CM0"),
    ("The heart is not significantly enlarged.", "CM0"),
    ("The heart is mildly enlarged but there is no evidence of pulmonary edema.", "CM1 ED0"),
    ("Cardiac silhouette is moderately enlarged.", "CM1"),
    ("The cardiomediastinal and hilar contours are within normal limits.", "CM0 EC0"),
    ("Widened mediastinum, concerning for aortic injury.", "EC1"),
    ("The mediastinum is not widened.", "EC0"),
    # CheXpert leaves blank what clear lungs do not name.
    ("Lungs are clear without focal consolidation, effusion or pneumothorax.", "CO0 EF0 PX0"),
    ("Lungs are clear except for minimal left basilar atelectasis.", "AT1"),
    ("Left lung is clear of airspace disease and free of edema.", "LO0 ED0"),
    ("Costophrenic angles are sharp.", "EF0"),
    ("No acute displaced rib fractures are identified.", "FX0"),
    ("An acute fracture of the left sixth rib is noted.", "FX1"),
    ("Please note that nondisplaced rib fractures may not be visible.", ""),
    ("Multiple compression deformities of the thoracic spine.", "FX1"),
    ("6 mm nodule in the right upper lobe; CT recommended.", "LL1"),
    ("No suspicious pulmonary nodules or masses.", "LL0"),
    ("There is no mass effect on the trachea.", ""),
    ("Evaluate for pneumonia.", ""),
    ("History of lung carcinoma, mild edema.", "ED1"),
    ("If pneumonia is suspected clinically, repeat radiograph is advised.", ""),
    ("Biapical pleural thickening is stable.", "PO1"),
    ("Moderate pericardial effusion.", ""),
    ("Neither effusion nor pneumothorax is identified.", "EF0 PX0"),
    ("Negative for pneumothorax or pleural effusion.", "PX0 EF0"),
    ("There is no evidence of pneumonia, but a large right effusion is present.", "PN0 EF1"),
    ("Although there is no pneumothorax, a moderate effusion persists.", "PX0 EF1"),
    ("The effusion is no longer seen and the heart is enlarged.", "EF0 CM1"),
    ("Effusion is present and pneumothorax is no longer seen.", "EF1 PX0"),
    ("Right effusion with adjacent atelectasis, not significantly changed.", "EF1 AT1"),
    ("Pneumonia is unlikely.", "PN0"),
    ("Pleural effusion: none.", "EF0"),
    ("no effusion . the heart is enlarged .", "EF0 CM1"),
    ("Loculated right hydropneumothorax.", "EF1 PX1"),
    ("Possible pneumonia with pleural effusion.", "PN? EF1"),
    ("Small effusion, pneumothorax has resolved.", "EF1 PX0"),
    ("Effusion, edema, and pneumothorax have resolved.", "EF0 ED0 PX0"),
    ("No pneumothorax with small effusions bilaterally.", "PX0 EF1"),
    ("Opacity compatible with pneumonia or atelectasis.", "LO1 PN? AT?"),
]


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES, ids=lambda value: value[:60])
def test_sentences_in_the_style_of_radiologists(sentence, expected):
    assert stated(sentence) == in_order(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No acute cardiopulmonary process.", 1.0),
        ("Tortuous aorta. The lungs are clear.", 1.0),
        ("Small effusion. Possible pneumonia.", 0.0),
        ("Possible pneumonia. No effusion.", -1.0),
        (" . ", np.nan),
    ],
)
@pytest.mark.parametrize("devices_count", [True, False])
def test_no_finding_is_the_opposite_of_the_strongest_statement(text, expected, devices_count):
    found = extract_findings(text, devices_count=devices_count)
    np.testing.assert_equal(found[NO_FINDING], expected)


@pytest.mark.parametrize(
    ("text", "chexpert", "synthetic"),
    [
        ("ET tube in place. The lungs are clear.", 1.0, 0.0),
        ("Possible PICC. No effusion.", 1.0, -1.0),
        ("Pacemaker with possible edema.", -1.0, 0.0),
        ("Pacemaker with small effusion.", 0.0, 0.0),
    ],
)
def test_a_device_stands_against_no_finding_in_the_synthetic_set_only(text, chexpert, synthetic):
    assert extract_findings(text)[NO_FINDING] == chexpert
    assert extract_findings(text, devices_count=True)[NO_FINDING] == synthetic
    assert extract_labels([text], [NO_FINDING, "Edema"])[0, 0] == chexpert
    place = SYNTHETIC_LABELS.index(NO_FINDING)
    assert extract_labels([text], SYNTHETIC_LABELS)[0, place] == synthetic


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Small effusion. No effusion. Possible effusion.", 1.0),
        ("Possible effusion. No effusion.", -1.0),
        ("No effusion.\n\nThe heart is enlarged.", 0.0),
    ],
)
def test_present_counts_before_uncertain_and_uncertain_before_denied(text, expected):
    assert extract_findings(text)["Pleural Effusion"] == expected


@pytest.fixture(scope="module")
def synthetic():
    """Visits, what was extracted from their findings and impression, and the true labels."""
    visits = [visit for patient in range(400) for visit in sample_visits(11, patient)]
    reports = [write_report(visit, np.random.default_rng(i)) for i, visit in enumerate(visits)]
    found = extract_labels([select_sections(report) for report in reports], SYNTHETIC_LABELS)
    truth = np.array(
        [[name in (v.labels or {NO_FINDING}) for name in SYNTHETIC_LABELS] for v in visits]
    )
    return visits, found, truth


@pytest.mark.parametrize("label", SYNTHETIC_LABELS)
def test_synthetic_reports_give_back_their_labels(synthetic, label):
    visits, found, truth = synthetic
    # What a report doubts it does not state; where anything is doubted "No Finding" is in doubt.
    known = np.array(
        [label not in v.doubted and (label != NO_FINDING or not v.doubted) for v in visits]
    )
    column = SYNTHETIC_LABELS.index(label)
    assert truth[known, column].sum() > 30
    assert f1_score(truth[known, column], found[known, column] == 1) >= 0.95


@pytest.mark.parametrize("label", [name for name in SYNTHETIC_LABELS if name != NO_FINDING])
def test_what_synthetic_reports_doubt_is_uncertain_and_nothing_else_is(synthetic, label):
    visits, found, _ = synthetic
    doubted = np.array([label in visit.doubted for visit in visits])
    uncertain = found[:, SYNTHETIC_LABELS.index(label)] == -1
    assert np.mean(doubted == uncertain) > 0.99
    assert doubted.any() == (label != "Support Devices")


def test_a_long_text_without_full_stops_is_read_in_time_and_whole():
    text = "possible edema no effusion or pneumothorax the heart is enlarged " * 1000
    found = extract_findings(text + "; a rib fracture is seen")
    assert found["Fracture"] == found["Cardiomegaly"] == 1.0
    assert found["Edema"] == -1.0


def test_labels_are_chosen_by_name_and_unknown_ones_refused():
    found = extract_labels(["No effusion.", "Mild edema."], ("Edema", "Pleural Effusion"))
    np.testing.assert_array_equal(found, np.array([[np.nan, 0], [1, np.nan]], np.float32))
    assert found.dtype == np.float32
    assert extract_labels([], ("Edema",)).shape == (0, 1)
    with pytest.raises(UserError, match="no rules for label 'Hernia'"):
        extract_labels(["text"], ("Hernia",))


def test_labels_are_those_of_chexpert():
    assert set(LABEL_NAMES) == {NO_FINDING, *SHORT}
    assert set(SYNTHETIC_LABELS) <= set(LABEL_NAMES)


def test_finding_words_say_what_where_and_how_much_and_nothing_else():
    words = finding_words()
    assert {"effusion", "pneumothorax", "enlarged", "nodule", "pacemaker", "opacities"} <= words
    assert {"left", "right", "bilateral", "upper", "base", "small", "moderate", "severe"} <= words
    assert all(word == word.lower() and " " not in word for word in words)
    assert not words & {"no", "the", "is", "lung", "lungs", "heart", "normal", "of", "seen"}
