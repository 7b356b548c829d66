"""Ranks of a search by score and the figures made of them: recall, median rank, MRR.

A query is answered by the first correct entry of the gallery. A tie with a wrong entry counts
against the query, so an encoder that maps everything to one point has the worst ranks, not the
best.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln

from medclip_jax.errors import UserError
from medclip_jax.finite import require_finite

RECALL_CUTOFFS = (1, 5, 10)
NUM_NEIGHBORS = 5  # kept for the report page
_QUERIES_AT_ONCE = 256  # their scores take half the memory of a gallery of width 512
_SAMPLE_EVERY = 16


@dataclasses.dataclass(frozen=True)
class Search:
    """The outcome of a search.

    Attributes:
        ranks: Rank (from 1) of the first correct entry for each query.
        neighbors: The best entries of each query, best first.
        similarities: Their scores.
    """

    ranks: Int[np.ndarray, "queries"]
    neighbors: Int[np.ndarray, "queries neighbors"]
    similarities: Float[np.ndarray, "queries neighbors"]


def search(
    scores_of: Callable[[slice], Float[np.ndarray, "block gallery"]],
    query_groups: Int[np.ndarray, "queries"],
    gallery_groups: Int[np.ndarray, "gallery"],
) -> Search:
    """Ranks the gallery by score, highest first; an entry is correct if its group is the query's.

    Every query must have a correct entry.

    Args:
        scores_of: The scores of some queries with the whole gallery; it is asked for 256 queries at
            a time, so that memory grows with the gallery and not with its square.
        query_groups: Group of each query.
        gallery_groups: Group of each entry.

    Raises:
        UserError: a score is not finite, a query has no correct entry, or there is no query.
    """
    missing = np.flatnonzero(~np.isin(query_groups, gallery_groups))
    if missing.size or not len(query_groups):
        what = f"query {missing[0]} has no correct entry" if missing.size else "there is no query"
        raise UserError(f"nothing to search for in a gallery of {len(gallery_groups)}: {what}")
    order = np.argsort(gallery_groups, kind="stable")
    first, last = (
        np.searchsorted(gallery_groups, query_groups, side, sorter=order)
        for side in ("left", "right")
    )
    correct = [order[start:end] for start, end in zip(first, last, strict=True)]
    blocks = []
    for start in range(0, len(query_groups), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        blocks.append(_search_block(scores_of(rows), correct[rows]))
    ranks, neighbors, similarities = map(np.concatenate, zip(*blocks, strict=True))
    return Search(ranks, neighbors, similarities)


def _search_block(
    scores: Float[np.ndarray, "block gallery"], correct: Sequence[Int[np.ndarray, "entries"]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `Search` holds of some queries, of which the correct entries are given.

    Query by query, since what is made of a row is dropped at once, and stays in the cache.
    """
    require_finite(scores, "scores to rank by")
    ranks = np.array([_rank(row, own) for row, own in zip(scores, correct, strict=True)])
    neighbors = np.stack([_nearest(row) for row in scores])
    return ranks, neighbors, np.take_along_axis(scores, neighbors, axis=1)


def _rank(scores: Float[np.ndarray, "gallery"], correct: Int[np.ndarray, "entries"]) -> int:
    """1 + the number of wrong entries that are not below the best correct one."""
    own = scores[correct]
    best = own.max()
    below, own_below = np.count_nonzero(scores < best), np.count_nonzero(own < best)
    return int(1 + (len(scores) - below) - (len(own) - own_below))


def _nearest(scores: Float[np.ndarray, "gallery"]) -> Int[np.ndarray, "neighbors"]:
    """The first `NUM_NEIGHBORS` of a stable sort, best first.

    Only entries that reach the last neighbor within a sample of the gallery are sorted.
    """
    count = min(NUM_NEIGHBORS, len(scores))
    sample = scores[:: min(_SAMPLE_EVERY, len(scores) // count)]
    bound = -np.partition(-sample, count - 1)[count - 1]
    candidates = np.flatnonzero(scores >= bound)
    return candidates[np.argsort(-scores[candidates], kind="stable")[:count]]


def rank_metrics(
    ranks: Int[np.ndarray, "queries"], weights: Float[np.ndarray, "queries"]
) -> dict[str, float]:
    """`recall@K`, `median_rank` and `mrr` (mean reciprocal rank) of weighted queries.

    Raises:
        UserError: a rank is below 1 or NaN, or a weight is negative or not finite.
    """
    if not np.all(ranks >= 1):
        raise UserError("a rank must be 1 or above")
    if not np.all((weights >= 0) & np.isfinite(weights)):
        raise UserError("a weight must be 0 or above, and finite")
    total = weights.sum()
    if total == 0:
        return _undefined()
    recalls = {f"recall@{k}": float(weights[ranks <= k].sum() / total) for k in RECALL_CUTOFFS}
    return recalls | {
        "median_rank": weighted_median(ranks, weights),
        "mrr": float(np.sum(weights / ranks) / total),
    }


def _undefined() -> dict[str, float]:
    names = [*(f"recall@{k}" for k in RECALL_CUTOFFS), "median_rank", "mrr"]
    return dict.fromkeys(names, np.nan)


def weighted_median(values: Int[np.ndarray, "rows"], weights: Float[np.ndarray, "rows"]) -> float:
    """The median of values that count `weights` times; the mean of the middle two at a draw."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    half = cumulative[-1] / 2
    low = np.searchsorted(cumulative, half * (1 - 1e-12), side="left")
    high = np.searchsorted(cumulative, half * (1 + 1e-12), side="right")
    return float(values[order[low]] + values[order[high]]) / 2


def chance_metrics(num_correct: Sequence[int], gallery_size: int) -> dict[str, float]:
    """The expected figures of a random order of the gallery, exactly.

    Args:
        num_correct: Number of correct entries of each query.
        gallery_size: Number of entries.

    The first of P correct entries among G comes after rank r with probability
    C(G - r, P) / C(G, P). The median is that of this distribution, averaged over the queries.
    All are NaN where there is no query.

    Raises:
        UserError: a query has no correct entry, or more than the gallery has entries.
    """
    if not len(num_correct):
        return _undefined()
    if min(num_correct) < 1 or max(num_correct) > gallery_size:
        raise UserError(
            f"a query must have from 1 to {gallery_size} correct entries, the size of the gallery"
        )
    ranks = np.arange(1, gallery_size + 1)
    unique, counts = np.unique(np.asarray(num_correct), return_counts=True)
    after = np.zeros(gallery_size)
    for correct, count in zip(unique, counts, strict=True):
        rest = gallery_size - ranks
        possible = rest >= correct
        log_after = _log_binomial(rest[possible], correct) - _log_binomial(gallery_size, correct)
        after[possible] += count / counts.sum() * np.exp(log_after)
    found = 1 - after
    probability = np.diff(found, prepend=0.0)
    recalls = {f"recall@{k}": float(found[min(k, gallery_size) - 1]) for k in RECALL_CUTOFFS}
    return recalls | {
        "median_rank": weighted_median(ranks, probability),
        "mrr": float(np.sum(probability / ranks)),
    }


def _log_binomial(total: Int[np.ndarray, "ranks"] | int, chosen: int) -> Float[np.ndarray, "ranks"]:
    total = np.asarray(total, np.float64)
    return gammaln(total + 1) - gammaln(chosen + 1) - gammaln(total - chosen + 1)


@dataclasses.dataclass(frozen=True)
class RankedGallery:
    """A gallery in the order in which it answers one query, and which entries are relevant."""

    order: Int[np.ndarray, "gallery"]
    relevant: Bool[np.ndarray, "gallery"]

    @classmethod
    def from_scores(
        cls, scores: Float[np.ndarray, "gallery"], relevant: Bool[np.ndarray, "gallery"]
    ) -> "RankedGallery":
        """Sorts the gallery, best first; among ties the irrelevant entries come first."""
        require_finite(scores, "scores to rank by")
        order = np.lexsort((relevant, -scores))
        return cls(order, relevant[order])

    def precision_at(
        self, cutoffs: Sequence[int], weights: Float[np.ndarray, "gallery"]
    ) -> list[float]:
        """Share of relevant entries among the first K, an entry of weight w standing w times.

        NaN for a cutoff beyond the gallery.
        """
        cumulative = np.cumsum(weights[self.order])
        precisions = []
        for cutoff in cutoffs:
            inside = np.diff(np.minimum(cumulative, cutoff), prepend=0.0)
            enough = weights.sum() >= cutoff
            precisions.append(float(inside @ self.relevant / cutoff) if enough else np.nan)
        return precisions
