"""BLEU, ROUGE-L, CIDEr and METEOR of generated reports, on weighted rows.

What a metric needs of each pair of texts is counted once; a weighting then costs a few sums, which
is what makes a thousand bootstrap resamples quick. All metrics see the same words: runs of letters,
digits and underscores in lower case, without the punctuation, as in COCO's caption evaluation.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from nltk.translate.bleu_score import modified_precision
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer

from medclip_jax.data.reports import normalize_sentence

MAX_ORDER = 4
_CIDER_SIGMA = 6.0


def tokenize(text: str) -> list[str]:
    """The words and numbers of a text in lower case, without punctuation."""
    return normalize_sentence(text).split()


class TextMetrics:
    """The metrics of generated texts against one reference each.

    BLEU is that of the whole corpus, from the counts of the weighted rows; the others are weighted
    means of a value per row (`rouge_l`, `meteor`, `cider`). A metric is NaN where the references
    give nothing to compare with: no word at all, no n-gram of BLEU's order, or for CIDEr one text.
    """

    def __init__(self, generated: Sequence[str], references: Sequence[str]):
        words = [tokenize(text) for text in generated]
        expected = [tokenize(text) for text in references]
        self._bleu = BleuCounts(words, expected)
        self.rouge_l = rouge_l(words, expected)
        self.cider = cider(words, expected)
        self.meteor = meteor(words, expected)
        self._num_words = np.array([len(words) for words in expected], np.float64)

    def __call__(self, weights: Float[np.ndarray, "rows"]) -> dict[str, float]:
        """`bleu1` to `bleu4`, `rouge_l`, `cider` and `meteor`."""
        bleu_names = {f"bleu{order}": order for order in range(1, MAX_ORDER + 1)}
        if not weights @ self._num_words:
            return dict.fromkeys([*bleu_names, "rouge_l", "cider", "meteor"], np.nan)
        bleu = {name: self._bleu(weights, order) for name, order in bleu_names.items()}
        return bleu | {
            name: float(np.average(values, weights=weights))
            for name, values in (
                ("rouge_l", self.rouge_l),
                ("cider", self.cider),
                ("meteor", self.meteor),
            )
        }


class BleuCounts:
    """What BLEU (Papineni et al., ACL 2002) is made of: clipped n-gram matches and lengths.

    The matches are NLTK's. BLEU-n is the brevity penalty times the geometric mean of the precisions
    of 1- to n-grams, without smoothing: zero where one of them is, NaN where no reference is as
    long as an n-gram.
    """

    def __init__(self, generated: Sequence[Sequence[str]], references: Sequence[Sequence[str]]):
        orders = range(1, MAX_ORDER + 1)
        self._matches = np.array(
            [
                [modified_precision([expected], words, order).numerator for order in orders]
                for words, expected in zip(generated, references, strict=True)
            ],
            np.float64,
        )
        self._lengths = np.array([len(words) for words in generated], np.float64)
        self._reference_lengths = np.array([len(words) for words in references], np.float64)
        self._ngrams = np.maximum(self._lengths[:, None] - np.arange(MAX_ORDER), 0.0)
        self._has_ngrams = self._reference_lengths[:, None] > np.arange(MAX_ORDER)

    def __call__(self, weights: Float[np.ndarray, "rows"], order: int = MAX_ORDER) -> float:
        """BLEU of the order on the rows of a weighting, which count as often as they weigh."""
        matches, ngrams = weights @ self._matches[:, :order], weights @ self._ngrams[:, :order]
        if not weights @ self._has_ngrams[:, order - 1]:
            return np.nan
        if not np.all(matches):
            return 0.0
        ratio = (weights @ self._reference_lengths) / (weights @ self._lengths)
        brevity_penalty = min(1.0, np.exp(1.0 - ratio))
        return float(brevity_penalty * np.exp(np.mean(np.log(matches / ngrams))))


def rouge_l(
    generated: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> Float[np.ndarray, "rows"]:
    """ROUGE-L of each pair: the F1 of the longest common subsequence, over the whole text.

    By `rouge-score`, Google's implementation of Lin (ACL 2004), without stemming. (COCO's caption
    evaluation weighs recall higher, with beta 1.2.)
    """
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return np.array(
        [
            scorer.score(" ".join(expected), " ".join(words))["rougeL"].fmeasure
            for words, expected in zip(generated, references, strict=True)
        ]
    )


def meteor(
    generated: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> Float[np.ndarray, "rows"]:
    """METEOR of each pair, with words that match exactly or by Porter's stem.

    By NLTK, after Lavie and Agarwal (WMT 2007), with alpha 0.9, beta 3 and gamma 0.5. Its third
    stage, synonyms, needs WordNet to be downloaded and is left out: the figures are a little lower
    than with it.
    """
    return np.array(
        [
            single_meteor_score(expected, words, wordnet=_NoSynonyms())
            for words, expected in zip(generated, references, strict=True)
        ]
    )


def cider(
    generated: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> Float[np.ndarray, "rows"]:
    """CIDEr-D of each pair (Vedantam et al., arXiv 1411.5726, section 5), times ten as in COCO.

    The mean over n from 1 to 4 of the cosine similarity of TF-IDF weighted n-grams, where those of
    the generated text are clipped to the reference's, times a Gaussian penalty (sigma 6) on the
    difference of the lengths in words. Document frequencies are those of the references given, and
    stay so when rows are weighted. NaN if all references are the same: n-grams that are in each
    of them weigh nothing. Our own: the one package that has it, pycocoevalcap, weighs 100 MB and
    brings Java programs.
    """
    lengths = np.array([len(words) for words in generated], np.float64)
    difference = lengths - np.array([len(words) for words in references], np.float64)
    if len({tuple(words) for words in references}) == 1:
        return np.full(len(lengths), np.nan)
    total = np.zeros(len(lengths))
    for order in range(1, MAX_ORDER + 1):
        counts = [_ngrams(words, order) for words in references]
        frequency = Counter(ngram for count in counts for ngram in count)
        total += [
            _clipped_cosine(_ngrams(words, order), expected, frequency, len(references))
            for words, expected in zip(generated, counts, strict=True)
        ]
    return 10 * total / MAX_ORDER * np.exp(-(difference**2) / (2 * _CIDER_SIGMA**2))


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _clipped_cosine(
    generated: Counter[tuple[str, ...]],
    reference: Counter[tuple[str, ...]],
    frequency: Counter[tuple[str, ...]],
    num_references: int,
) -> float:
    def weigh(counts: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        return {
            ngram: count * np.log(num_references / max(frequency[ngram], 1))
            for ngram, count in counts.items()
        }

    ours, theirs = weigh(generated), weigh(reference)
    norms = np.linalg.norm(list(ours.values())) * np.linalg.norm(list(theirs.values()))
    shared = sum(
        min(value, theirs[ngram]) * theirs[ngram]
        for ngram, value in ours.items()
        if ngram in theirs
    )
    return float(shared / norms) if norms > 0 else 0.0


class _Words:
    """The tokenizer that `rouge_score` asks for; the texts are words already."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


class _NoSynonyms:
    """A WordNet that knows no word, so that NLTK needs no download."""

    def synsets(self, word: str) -> list[object]:
        return []
