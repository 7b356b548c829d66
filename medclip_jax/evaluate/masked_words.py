"""Does the image help to fill the gaps of its report? Accuracy on masked words about findings.

All pieces of all words that say which finding there is, where, and how much of it, are masked, and
the model fills them from the rest of the report, once with the image in view and once without. The
same is asked of tokens at random.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.evaluate.bootstrap import RANDOM
from medclip_jax.evaluate.encode import MaskedEncoder, Studies, StudyTable, image_blocks
from medclip_jax.evaluate.finding_extractor import finding_words
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult, summarize

WORDS, TOKENS = "masked_word_accuracy", "masked_token_accuracy"
WITH_IMAGE, WITHOUT_IMAGE = "/with_image", "/without_image"
GAIN = "_gain"
TOKEN_RATE = 0.15  # BERT's

Tokens = Int[np.ndarray, "studies length"]
Places = Bool[np.ndarray, "studies length"]


@dataclasses.dataclass(frozen=True)
class Gaps:
    """The reports of the studies as tokens, and the places that are masked together.

    Attributes:
        token_ids: The reports.
        token_mask: False on padding.
        masked: Of each metric's name the places that it is about.
        mask_id: The token that stands in a masked place.
    """

    token_ids: Tokens
    token_mask: Places
    masked: Mapping[str, Places]
    mask_id: int

    @classmethod
    def draw(cls, texts: Sequence[str], tokenizer: Tokenizer, max_length: int, seed: int) -> "Gaps":
        """Finds the words of findings, and draws tokens with the probability `TOKEN_RATE`."""
        token_ids, token_mask = tokenizer.encode_batch(texts, max_length)
        is_text = token_mask & ~np.isin(token_ids, tokenizer.special_ids)
        drawn = np.random.default_rng(seed).random(token_ids.shape) < TOKEN_RATE
        words = mask_words(token_ids, is_text, tokenizer.tokens, finding_words())
        masked = {WORDS: words, TOKENS: drawn & is_text}
        return cls(token_ids, token_mask, masked, tokenizer.mask_id)


def mask_words(
    token_ids: Tokens, is_text: Places, tokens: Sequence[str], words: frozenset[str]
) -> Places:
    """True on all pieces of the words that are in `words`, whatever their case.

    Args:
        token_ids: Ids of word pieces, of which those that begin with "##" continue a word.
        is_text: False on padding and special tokens.
        tokens: The piece of each id.
        words: Words in lower case.
    """
    places = np.zeros(token_ids.shape, bool)
    for row, ids in enumerate(token_ids):
        pieces = [
            tokens[token_id] if text else ""
            for token_id, text in zip(ids, is_text[row], strict=True)
        ]
        starts = [place for place, piece in enumerate(pieces) if not piece.startswith("##")]
        for start, end in zip(starts, [*starts[1:], len(pieces)], strict=True):
            word = pieces[start] + "".join(piece[2:] for piece in pieces[start + 1 : end])
            places[row, start:end] = word.lower() in words
    return places


class GapAccuracy:
    """The share of masked tokens that are filled right, for weighted studies."""

    def __init__(
        self,
        masked: Mapping[str, Places],
        correct: Mapping[str, Float[np.ndarray, "studies"]],
    ):
        self.counts = {name: places.sum(axis=1) for name, places in masked.items()}
        self.correct = correct

    def __call__(self, weights: Float[np.ndarray, "studies"]) -> dict[str, float]:
        """`NAME/with_image`, `NAME/without_image` and `NAME_gain`.

        A masked token weighs as its study does.
        """
        metrics = {}
        for name, counts in self.counts.items():
            total = weights @ counts
            for view in (WITH_IMAGE, WITHOUT_IMAGE):
                right = weights @ self.correct[name + view]
                metrics[name + view] = float(right / total) if total else np.nan
            metrics[name + GAIN] = metrics[name + WITH_IMAGE] - metrics[name + WITHOUT_IMAGE]
        return metrics


def evaluate_words(
    encoder: MaskedEncoder, studies: Studies, table: StudyTable, request: Request
) -> EvaluationResult:
    """Fills the gaps with the encoder and its random initialisation; a study has its first image.

    Studies without text are left out, of which the table must not consist.
    """
    table = table.subset(np.array([bool(text) for text in table.texts]))
    max_length = encoder.config.text_encoder.max_length
    gaps = Gaps.draw(table.texts, encoder.tokenizer, max_length, request.seed)
    random = encoder.randomly_initialized(request.seed)
    metrics, intervals, bootstrap = summarize(
        GapAccuracy(gaps.masked, _correct(encoder, studies, table, gaps, "fill gaps")),
        {
            RANDOM: GapAccuracy(
                gaps.masked,
                _correct(random, studies, table, gaps, "fill gaps, random initialisation"),
            )
        },
        {},
        table.patient_ids,
        headline=[WORDS + WITH_IMAGE],
        num_resamples=request.num_resamples,
        seed=request.seed,
    )
    return EvaluationResult(
        metrics=metrics,
        confidence_intervals=intervals,
        num_examples=len(table.study_ids),
        num_patients=table.num_patients,
        protocol={
            "masked_words": "all pieces of all words of findings at once, always by the mask token",
            "finding_words": sorted(finding_words()),
            "masked_tokens": f"each token of the text with a probability of {TOKEN_RATE:g}",
            "accuracy": "share of masked pieces filled with the true one",
            "images": "the first of each study",
            "num_masked": {name: int(places.sum()) for name, places in gaps.masked.items()},
            "num_studies": len(table.study_ids),
        }
        | bootstrap,
    )


def _correct(
    encoder: MaskedEncoder, studies: Studies, table: StudyTable, gaps: Gaps, description: str
) -> dict[str, Float[np.ndarray, "studies"]]:
    """How many masked tokens of each study are filled right, by masking and view."""
    correct = {
        name + view: np.zeros(len(table.study_ids))
        for name in gaps.masked
        for view in (WITH_IMAGE, WITHOUT_IMAGE)
    }
    for block, images in image_blocks(studies, table, description):
        first = table.image_number[block] == 0
        rows = table.image_study[block][first]
        seen = [image for image, is_first in zip(images, first, strict=True) if is_first]
        token_ids, token_mask = gaps.token_ids[rows], gaps.token_mask[rows]
        for name, masked in gaps.masked.items():
            # The encoder is not even told what it is to find.
            shown = np.where(masked[rows], gaps.mask_id, token_ids)
            for view, pictures in ((WITH_IMAGE, seen), (WITHOUT_IMAGE, None)):
                filled = encoder.fill_masks(shown, token_mask, masked[rows], pictures)
                right = (filled == token_ids) & masked[rows]
                correct[name + view][rows] = right.sum(axis=1)
    return correct
