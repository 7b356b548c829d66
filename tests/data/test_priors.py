"""References to earlier studies: what is found, how it is mended, and what holds for any text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclip_jax.data.builders.synthetic_cxr import phrases
from medclip_jax.data.builders.synthetic_cxr.patients import sample_visits
from medclip_jax.data.builders.synthetic_cxr.report_writer import write_report
from medclip_jax.data.priors import mentions_prior, remove_prior_references
from medclip_jax.data.reports import select_sections

# A sentence and what is left of it.
MENDED = [
    ("Mild edema, unchanged from prior.", "Mild edema."),
    ("Stable mild cardiomegaly.", "Mild cardiomegaly."),
    ("There is a small effusion, improved since the prior study.", "There is a small effusion."),
    ("Right pneumothorax, new compared with the prior radiograph.", "Right pneumothorax."),
    ("Small left effusion, a new finding.", "Small left effusion."),
    ("The heart is enlarged, similar to the prior study of ___.", "The heart is enlarged."),
    ("Severe edema is present, worse than on the prior study.", "Severe edema is present."),
    ("Right basilar atelectasis is unchanged.", "Right basilar atelectasis."),
    (
        "Right effusion is slightly larger, with adjacent edema.",
        "Right effusion, with adjacent edema.",
    ),
    ("Small bilateral effusions persist.", "Small bilateral effusions."),
    ("Effusion without significant interval change.", "Effusion."),
    ("Previously seen nodule projects over the apex.", "Nodule projects over the apex."),
    ("No new consolidation or pneumothorax.", "No consolidation or pneumothorax."),
    ("There is an unchanged small effusion.", "There is a small effusion."),
    ("There is a stable effusion.", "There is an effusion."),
    ("The heart remains enlarged.", "The heart is enlarged."),
    ("Lungs remain clear.", "Lungs are clear."),
    ("Again seen is a pacemaker on the left.", "A pacemaker on the left."),
    ("There is again a small right effusion.", "There is a small right effusion."),
    ("Interval increase in right pleural effusion.", "Right pleural effusion."),
    ("There has been interval placement of a PICC.", "A PICC."),
    ("Unchanged position of the endotracheal tube.", "Endotracheal tube."),
    ("The lines are in unchanged position.", "The lines."),
    ("Left opacity is noted, not visualized on prior.", "Left opacity is noted."),
    (
        "Compared to the prior study of ___, there is an opacity at the base.",
        "There is an opacity at the base.",
    ),
    (
        "The effusion has resolved, but there is a small pneumothorax.",
        "There is a small pneumothorax.",
    ),
    (
        "1. Improved pulmonary edema. 2. No effusion.\n3. Stable nodule.",
        "1. Pulmonary edema. 2. No effusion. 3. Nodule.",
    ),
    ("- Stable nodule\n- No effusion", "- Nodule\n- No effusion"),
    ("Stable nodule.\n\nNo  effusion.", "Nodule.\n\nNo effusion."),
]
DROPPED = [
    "Previously seen left pleural effusion has resolved.",
    "The left pleural effusion is no longer seen.",
    "Interval resolution of the left pleural effusion.",
    "The endotracheal tube has been removed.",
    "In comparison with the study of ___, there is little change in the heart and lungs.",
    "As compared to the previous radiograph, the patient has been extubated.",
    "No significant interval change.",
    "No interval change in the effusion, which is small.",
    "The cardiomediastinal silhouette is stable.",
    "Stable appearance of the chest.",
    "On the previous scan, the right upper lobe was consolidated.",
    "No prior studies are available for comparison.",
    "Atelectasis and effusion have cleared in the interval.",
]
UNTOUCHED = [
    "Sternotomy wires from prior surgery are intact.",
    "Evidence of prior granulomatous disease.",
    "Prior median sternotomy.",
    "The patient is hemodynamically stable.",
    "Increased interstitial markings,\n  worse at the left base.",
    "Degenerative changes of the spine.",
    "Atelectasis, right greater than left.",
    "The heart is enlarged. No effusion, remaining lung is clear.",
    "CT with high resolution is recommended.",
    "",
]


@pytest.mark.parametrize(("text", "expected"), MENDED)
def test_what_stands_alone_is_kept(text, expected):
    assert mentions_prior(text)
    assert remove_prior_references(text) == expected


@pytest.mark.parametrize("text", DROPPED)
def test_what_cannot_be_mended_is_left_out(text):
    assert mentions_prior(text)
    assert remove_prior_references(text) == ""
    assert remove_prior_references(f"The heart is enlarged. {text}") == "The heart is enlarged."


@pytest.mark.parametrize("text", UNTOUCHED)
def test_history_and_description_are_no_reference(text):
    assert not mentions_prior(text)
    assert remove_prior_references(text) == text


_PIECES = [
    *(text.rstrip(".") for text, _ in MENDED),
    *(text.rstrip(".") for text in (*DROPPED, *UNTOUCHED)),
    *"the a an is has no and but with stable new interval prior study since heart , ; .".split(),
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(_PIECES), max_size=8),
    st.lists(st.sampled_from([" ", ". ", ", ", "\n", "\n\n", ".", " and ", "\n- "]), min_size=8),
)
def test_the_result_mentions_nothing_and_removing_again_changes_nothing(pieces, joints):
    text = "".join(piece + joint for piece, joint in zip(pieces, joints, strict=False))
    removed = remove_prior_references(text)
    assert not mentions_prior(removed)
    assert remove_prior_references(removed) == removed
    if not mentions_prior(text):
        assert removed == text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["stable", "new", "Unchanged", "again", "prior"]))
def test_any_characters_around_a_reference_are_borne(text, word):
    removed = remove_prior_references(f"{text} {word} {text}")
    assert not mentions_prior(removed)


@pytest.fixture(scope="module")
def synthetic():
    visits = [visit for patient in range(150) for visit in sample_visits(5, patient)]
    return [
        (visit, select_sections(write_report(visit, np.random.default_rng(i))))
        for i, visit in enumerate(visits)
    ]


def test_synthetic_reports_mention_a_prior_only_where_there_is_one(synthetic):
    said = [phrase for texts in phrases.CHANGES.values() for phrase in texts]
    said += [*phrases.NEW, *(text.split("{finding}")[-1] for text in phrases.RESOLVED[:2])]
    said += ["Interval resolution", "has been removed"]
    for _, text in synthetic:
        flat = " ".join(text.split())
        assert mentions_prior(flat) == any(phrase in flat for phrase in said), flat
    first = [mentions_prior(text) for visit, text in synthetic if visit.previous is None]
    later = [mentions_prior(text) for visit, text in synthetic if visit.previous is not None]
    assert not any(first) and np.mean(later) > 0.5


def test_synthetic_findings_outlive_the_removal(synthetic):
    changed = 0
    for _, text in synthetic:
        flat = " ".join(text.split())
        removed = remove_prior_references(flat)
        changed += removed != flat
        # A statement loses its remark on change and nothing else.
        for sentence in removed.split(". "):
            assert sentence.rstrip(".") in flat, (sentence, flat)
    assert changed > 20
