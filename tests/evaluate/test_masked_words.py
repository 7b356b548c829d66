"""Masked words of findings: which they are, and the accuracy of a model that reads the image."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict
from support.vector_images import vectors_of

from medclip_jax.data.tokenizer import load_tokenizer, train_wordpiece
from medclip_jax.errors import UserError
from medclip_jax.evaluate import encode, masked_words
from medclip_jax.evaluate.masked_words import GapAccuracy, Gaps, mask_words
from medclip_jax.evaluate.regeneration import evaluate
from medclip_jax.evaluate.request import Request

TEXTS = ["Small effusion.", "Large pneumothorax and effusion.", "No effusion or pneumothorax."]
WORDS = frozenset({"effusion", "pneumothorax"})
TOKENS = ["[PAD]", "[CLS]", "[SEP]", "no", "eff", "##usion", "##s", "Edema", "usion"]


def test_words_are_matched_whole_with_all_their_pieces():
    ids = np.array([[1, 3, 4, 5, 7, 2, 0, 0], [1, 4, 5, 6, 4, 8, 5, 2]])
    is_text = (ids != 0) & (ids != 1) & (ids != 2)
    found = mask_words(ids, is_text, TOKENS, frozenset({"effusion", "edema"}))
    # "no eff ##usion Edema"; "eff ##usion ##s eff usion ##usion" holds no word of the two.
    assert found.astype(int).tolist() == [[0, 0, 1, 1, 1, 0, 0, 0], [0] * 8]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """So few pieces that words of findings have several."""
    directory = tmp_path_factory.mktemp("tokenizer")
    train_wordpiece(TEXTS * 3, 45, directory)
    return load_tokenizer(directory)


@dataclasses.dataclass
class Reader:
    """With the image it knows the report; without, it says the same token everywhere."""

    tokenizer: object
    guess: int
    config: ConfigDict = dataclasses.field(
        default_factory=lambda: ConfigDict(
            {
                "data": {"sections": ("findings", "impression")},
                "text_encoder": {"max_length": 32},
            }
        )
    )
    knows: bool = True

    def fill_masks(self, token_ids, token_mask, is_masked, images):
        guesses = np.full_like(token_ids, self.guess)
        if images is not None and self.knows:
            texts = [TEXTS[int(number)] for (number,) in vectors_of(images)]
            guesses, _ = self.tokenizer.encode_batch(texts, token_ids.shape[1])
        elif is_masked.sum() < token_mask.sum():  # not the trial of what the model can do
            assert np.all(token_ids[is_masked] == self.tokenizer.mask_id)
        return np.where(is_masked, guesses, token_ids)

    @property
    def patch_grid(self):
        raise UserError("this run trained no masked vision")

    def randomly_initialized(self, seed=0):
        return dataclasses.replace(self, knows=False)


@pytest.fixture
def studies(study, studies_of):
    """One study of each text, the second with another image first; and one without text."""
    images = [[[0]], [[1], [2]], [[2]]]
    reports = [study(i, images[i], report=text) for i, text in enumerate(TEXTS)]
    return studies_of([study(3, [[0]]), *reports])


@pytest.fixture
def counts(tokenizer):
    """Of all pieces of finding words how many there are, and the commonest of them."""
    ids, mask = tokenizer.encode_batch(TEXTS, 32)
    is_text = mask & ~np.isin(ids, tokenizer.special_ids)
    places = mask_words(ids, is_text, tokenizer.tokens, WORDS)
    pieces, numbers = np.unique(ids[places], return_counts=True)
    assert len(pieces) > 2  # the words are in pieces
    return int(pieces[numbers.argmax()]), numbers.max() / numbers.sum()


def run(encoder, studies, **options):
    request = Request("d", task="regeneration", num_resamples=30, **options)
    return evaluate(encoder, lambda split: studies, request)


def test_the_image_tells_the_words(tokenizer, studies, counts, monkeypatch):
    monkeypatch.setattr(masked_words, "finding_words", lambda: WORDS)
    monkeypatch.setattr(encode, "_STUDIES_AT_ONCE", 2)
    guess, share = counts
    result = run(Reader(tokenizer, guess), studies)
    metrics = result.metrics
    assert metrics["masked_word_accuracy/with_image"] == 1
    assert metrics["masked_word_accuracy/without_image"] == pytest.approx(share)
    assert metrics["masked_word_accuracy_gain"] == pytest.approx(1 - share)
    assert metrics["masked_token_accuracy/with_image"] == 1
    assert metrics["random_initialization/masked_word_accuracy/with_image"] == pytest.approx(share)
    low, high = result.confidence_intervals["masked_word_accuracy_gain"]
    assert low <= 1 - share <= high
    assert result.num_examples == 3 and result.protocol["num_studies"] == 3
    assert result.protocol["left_out"] == {
        name: "this run trained no masked vision" for name in ("pixels", "report")
    }


def test_random_tokens_are_about_fifteen_percent_and_never_special(tokenizer):
    gaps = Gaps.draw(TEXTS * 200, tokenizer, 32, seed=0)
    special = np.isin(gaps.token_ids, tokenizer.special_ids)
    masked = gaps.masked["masked_token_accuracy"]
    assert not (masked & special).any()
    assert masked.sum() / (~special).sum() == pytest.approx(0.15, abs=0.01)
    again = Gaps.draw(TEXTS * 200, tokenizer, 32, seed=0)
    assert np.array_equal(masked, again.masked["masked_token_accuracy"])


def test_accuracy_of_weighted_studies():
    masked = {"masked_word_accuracy": np.array([[True, True], [True, False], [False, False]])}
    correct = {
        "masked_word_accuracy/with_image": np.array([1.0, 1.0, 0.0]),
        "masked_word_accuracy/without_image": np.array([0.0, 1.0, 0.0]),
    }
    accuracy = GapAccuracy(masked, correct)
    assert accuracy(np.array([3.0, 1.0, 5.0])) == {
        "masked_word_accuracy/with_image": pytest.approx(4 / 7),
        "masked_word_accuracy/without_image": pytest.approx(1 / 7),
        "masked_word_accuracy_gain": pytest.approx(3 / 7),
    }
    assert np.isnan(accuracy(np.array([0.0, 0.0, 1.0]))["masked_word_accuracy_gain"])
