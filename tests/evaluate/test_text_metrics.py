"""The text metrics against COCO's caption evaluation, NLTK's corpus BLEU and formulas by hand."""

import numpy as np
import pytest
from nltk.translate.bleu_score import corpus_bleu

from medclip_jax.evaluate.text_metrics import TextMetrics, cider, meteor, rouge_l, tokenize

GENERATED = [
    "There is a small left pleural effusion. No pneumothorax.",
    "The heart is enlarged. The lungs are clear.",
    "No acute cardiopulmonary process.",
    "Mild pulmonary edema with cardiomegaly, no effusion.",
]
REFERENCES = [
    "Small left pleural effusion is seen. There is no pneumothorax.",
    "Heart size is normal. The lungs are clear. No effusion.",
    "No acute cardiopulmonary process.",
    "There is mild cardiomegaly. Mild pulmonary edema is present.",
]
WORDS = [tokenize(text) for text in GENERATED]
REFERENCE_WORDS = [tokenize(text) for text in REFERENCES]
ONES = np.ones(len(GENERATED))


def test_words_are_lower_case_without_punctuation():
    assert tokenize("Tip 4.5 cm above ___; NO  x-ray.") == "tip 4 5 cm above ___ no x ray".split()


def test_cider_is_that_of_coco():
    # What pycocoevalcap 1.2 gives for the same words.
    expected = [4.414191857200037, 3.4405277521660516, 10.0, 2.8878552985355377]
    np.testing.assert_allclose(cider(WORDS, REFERENCE_WORDS), expected, rtol=1e-12)


def test_bleu_is_that_of_coco_and_of_nltk():
    metrics = TextMetrics(GENERATED, REFERENCES)(ONES)
    # pycocoevalcap 1.2, which adds tiny numbers to counts.
    coco = [0.6572219556832568, 0.5456897470986202, 0.44340679962793766, 0.34195104323633196]
    for order, value in enumerate(coco, 1):
        assert metrics[f"bleu{order}"] == pytest.approx(value, rel=1e-9)
        nltk = corpus_bleu([[words] for words in REFERENCE_WORDS], WORDS, [1 / order] * order)
        assert metrics[f"bleu{order}"] == pytest.approx(nltk, rel=1e-12)


def test_short_texts_are_penalised_and_have_no_long_ngrams():
    metrics = TextMetrics(["no effusion"], ["there is no effusion"])(np.ones(1))
    assert metrics["bleu1"] == pytest.approx(np.exp(1 - 4 / 2))
    assert metrics["bleu2"] == pytest.approx(np.exp(1 - 4 / 2))
    assert metrics["bleu3"] == metrics["bleu4"] == 0.0


def _subsequence(first, second):
    """Length of the longest common subsequence, by recursion."""
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + _subsequence(first[:-1], second[:-1])
    return max(_subsequence(first[:-1], second), _subsequence(first, second[:-1]))


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    pairs = list(zip(WORDS, REFERENCE_WORDS, strict=True))
    expected = [
        2 * _subsequence(ours, theirs) / (len(ours) + len(theirs)) for ours, theirs in pairs
    ]
    np.testing.assert_allclose(rouge_l(WORDS, REFERENCE_WORDS), expected, rtol=1e-12)


def test_meteor_by_hand():
    # "effusions" matches "effusion" by its stem; "left sided" and "effusions" are two chunks.
    found = meteor(["left sided small effusions".split()], ["left sided pleural effusion".split()])
    precision = recall = 3 / 4
    f_mean = precision * recall / (0.9 * precision + 0.1 * recall)
    assert found[0] == pytest.approx(f_mean * (1 - 0.5 * (2 / 3) ** 3))
    # Synonyms do not count.
    assert meteor([["big"]], [["large"]])[0] == 0.0


def test_a_row_counts_as_often_as_it_weighs():
    weights = np.array([2.0, 0.0, 1.0, 3.0])
    index = np.repeat(np.arange(4), weights.astype(int))
    weighted = TextMetrics(GENERATED, REFERENCES)(weights)
    repeated = TextMetrics([GENERATED[i] for i in index], [REFERENCES[i] for i in index])
    plain = repeated(np.ones(len(index)))
    # The document frequencies of CIDEr stay those of all references.
    assert weighted.pop("cider") == pytest.approx(np.mean(cider(WORDS, REFERENCE_WORDS)[index]))
    del plain["cider"]
    assert weighted == pytest.approx(plain, rel=1e-12)


def test_equal_texts_score_highest_and_empty_ones_nothing():
    best = TextMetrics(REFERENCES, REFERENCES)(ONES)
    assert best["bleu4"] == best["rouge_l"] == 1.0
    assert best["cider"] == pytest.approx(10.0) and best["meteor"] > 0.98
    nothing = TextMetrics([""] * 4, REFERENCES)(ONES)
    assert set(nothing.values()) == {0.0}


def test_metrics_are_undefined_where_the_references_give_nothing():
    nothing = TextMetrics(GENERATED, [""] * 4)(ONES)
    assert len(nothing) == 7 and np.isnan(list(nothing.values())).all()
    # A weighting may lose all references with words.
    lost = TextMetrics(GENERATED, ["", *REFERENCES[1:]])(np.array([1.0, 0, 0, 0]))
    assert np.isnan(list(lost.values())).all()
    short = TextMetrics(["clear lungs", "big heart"], ["clear lungs", "normal heart"])(np.ones(2))
    assert np.isnan(short["bleu3"]) and np.isnan(short["bleu4"])
    assert short["bleu1"] == pytest.approx(3 / 4)
    same = TextMetrics(REFERENCES[:2], REFERENCES[:1] * 2)(np.ones(2))
    assert np.isnan(same.pop("cider")) and not np.isnan(list(same.values())).any()


def test_without_weight_all_are_undefined():
    for texts in (["a b c"], []):
        values = TextMetrics(texts, texts)(np.zeros(len(texts)))
        assert len(values) == 7 and np.isnan(list(values.values())).all()
