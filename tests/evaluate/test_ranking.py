"""Searches against full sorts, the weighted median against NumPy, chance against permutations."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclip_jax.errors import UserError
from medclip_jax.evaluate import ranking
from medclip_jax.evaluate.instance_retrieval import InstanceRetrieval, Pairing
from medclip_jax.evaluate.pair_scoring import EmbeddingScores
from medclip_jax.evaluate.ranking import (
    RankedGallery,
    chance_metrics,
    rank_metrics,
    search,
    weighted_median,
)

# Rows are five queries, columns five entries; queries 3 and 4 share group 3 with entries 3 and 4.
SIMILARITY = np.array(
    [
        [0.9, 0.1, 0.2, 0.3, 0.4],  # own entry first
        [0.8, 0.5, 0.7, 0.6, 0.1],  # own entry fourth
        [0.1, 0.4, 0.4, 0.2, 0.3],  # own entry ties with a wrong one: second
        [0.1, 0.2, 0.3, 0.0, 0.9],  # own entry last, but its sibling is first
        [0.5, 0.1, 0.2, 0.3, 0.4],  # sibling third, own entry second
    ]
)
GROUPS = np.array([0, 1, 2, 3, 3])


def test_ranks_of_a_hand_made_matrix():
    found = search(SIMILARITY.__getitem__, GROUPS, GROUPS)
    assert found.ranks.tolist() == [1, 4, 2, 1, 2]
    assert found.neighbors[1].tolist() == [0, 2, 3, 1, 4]
    np.testing.assert_allclose(found.similarities[1], [0.8, 0.7, 0.6, 0.5, 0.1])
    metrics = rank_metrics(found.ranks, np.ones(5))
    assert metrics == {
        "recall@1": pytest.approx(0.4),
        "recall@5": 1.0,
        "recall@10": 1.0,
        "median_rank": 2.0,
        "mrr": pytest.approx((1 + 1 / 4 + 1 / 2 + 1 + 1 / 2) / 5),
    }


def test_a_constant_encoder_ranks_last():
    found = search(np.ones((6, 6)).__getitem__, np.arange(6), np.arange(6))
    assert found.ranks.tolist() == [6] * 6


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_queries=st.integers(1, 30),
    gallery_size=st.integers(1, 300),
    num_groups=st.integers(1, 20),
    num_levels=st.sampled_from([1, 2, 7, 100, 2**20]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_a_search_is_a_stable_sort_of_the_whole_gallery(
    seed, num_queries, gallery_size, num_groups, num_levels, dtype
):
    rng = np.random.default_rng(seed)
    scores = rng.integers(num_levels, size=(num_queries, gallery_size)).astype(dtype)
    scores -= num_levels // 2
    gallery_groups = rng.integers(num_groups, size=gallery_size)
    query_groups = rng.choice(gallery_groups, num_queries)
    found = search(scores.__getitem__, query_groups, gallery_groups)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, : ranking.NUM_NEIGHBORS]
    np.testing.assert_array_equal(found.neighbors, expected)
    values = np.take_along_axis(scores, expected, axis=1)
    np.testing.assert_array_equal(found.similarities, values)
    assert found.similarities.dtype == dtype
    for query, row in enumerate(scores):
        is_correct = gallery_groups == query_groups[query]
        wrong_first = np.lexsort((is_correct, -row))
        assert found.ranks[query] == 1 + np.argmax(is_correct[wrong_first])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_is_ranked_by_a_score_that_is_not_finite(value):
    scores = np.tile(np.arange(8.0), (3, 1))
    scores[1, 2] = value
    with pytest.raises(UserError, match="not finite"):
        search(scores.__getitem__, np.array([7, 5, 2]), np.arange(8))


def search_peak(num_studies):
    """Bytes that both searches allocate at most."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((2, num_studies, 8), np.float32)
    studies = np.arange(num_studies)
    tracemalloc.start()
    try:
        InstanceRetrieval.search(EmbeddingScores(*embeddings), Pairing(studies, studies, studies))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_a_search_grows_with_the_gallery_and_not_with_its_square(monkeypatch):
    monkeypatch.setattr(ranking, "_QUERIES_AT_ONCE", 64)
    small, large = search_peak(500), search_peak(2000)
    assert large < 5 * small  # 16 times would be its square
    assert large < 1.5 * 64 * 2000 * 4 + 2000 * 200  # a block of scores, and what is found


def test_blocks_of_queries_change_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(50, 30))
    groups = generator.integers(10, size=50), np.arange(30) % 10
    whole = search(scores.__getitem__, *groups)
    monkeypatch.setattr(ranking, "_QUERIES_AT_ONCE", 7)
    blocks = search(scores.__getitem__, *groups)
    assert np.array_equal(whole.ranks, blocks.ranks)
    assert np.array_equal(whole.neighbors, blocks.neighbors)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 4)), min_size=1, max_size=15))
def test_weighted_median_is_numpys_of_repeated_values(pairs):
    values, weights = (np.array(column) for column in zip(*pairs, strict=True))
    if weights.sum() == 0:
        return
    repeated = values.repeat(weights)
    assert weighted_median(values, weights.astype(float)) == np.median(repeated)


def test_rank_metrics_of_no_weight_are_undefined():
    assert np.isnan(list(rank_metrics(np.array([1, 2]), np.zeros(2)).values())).all()


@pytest.mark.parametrize("num_correct", [[1] * 4, [1, 2, 5, 1], [3] * 4])
def test_chance_is_that_of_random_orders(num_correct):
    generator = np.random.default_rng(0)
    gallery_size, draws = 12, 5000
    ranks = np.array(
        [
            1 + np.flatnonzero(generator.permutation(gallery_size) < correct)[0]
            for correct in num_correct * draws
        ]
    )
    seen = rank_metrics(ranks, np.ones(len(ranks)))
    expected = chance_metrics(num_correct, gallery_size)
    for name in ("recall@1", "recall@5", "recall@10", "mrr"):
        assert expected[name] == pytest.approx(seen[name], abs=0.01)
    assert expected["median_rank"] == pytest.approx(seen["median_rank"], abs=0.5)


def test_chance_with_one_correct_entry_is_the_share_of_the_gallery():
    expected = chance_metrics([1] * 7, 200)
    assert expected["recall@1"] == pytest.approx(1 / 200)
    assert expected["recall@10"] == pytest.approx(10 / 200)
    assert expected["median_rank"] == 100.5
    assert expected["mrr"] == pytest.approx(np.mean(1 / np.arange(1, 201)))


def test_precision_at_a_cutoff():
    scores = np.array([0.1, 0.9, 0.5, 0.5, 0.3])
    gallery = RankedGallery.from_scores(scores, np.array([True, True, True, False, False]))
    # Order: entry 1, then the tie with the irrelevant entry 3 before entry 2, then 4, 0.
    assert gallery.precision_at((1, 2, 3, 5), np.ones(5)) == [1.0, 0.5, pytest.approx(2 / 3), 0.6]
    assert np.isnan(gallery.precision_at((6,), np.ones(5))[0])


def test_precision_counts_an_entry_as_often_as_it_weighs():
    gallery = RankedGallery.from_scores(np.array([3.0, 2.0, 1.0]), np.array([False, True, False]))
    # In place: entry 0 twice, entry 1 three times, entry 2 not at all.
    assert gallery.precision_at((3, 4, 5), np.array([2.0, 3.0, 0.0])) == [
        pytest.approx(1 / 3),
        pytest.approx(1 / 2),
        pytest.approx(3 / 5),
    ]


@pytest.mark.parametrize("gallery", [[], [0, 0]])
def test_every_query_needs_an_entry(gallery):
    scores = np.zeros((2, len(gallery)))
    with pytest.raises(UserError, match="has no correct entry"):
        search(lambda rows: scores[rows], np.array([0, 1]), np.array(gallery, int))
    with pytest.raises(UserError, match="there is no query"):
        search(lambda rows: scores[:0], np.array([], int), np.array(gallery, int))


def test_ranks_and_weights_that_are_none_are_refused():
    ones = np.ones(3)
    for ranks, weights in (
        ([1, np.nan, 3], ones),
        ([0, 1, 2], ones),
        ([1, 2, 3], [1, np.nan, 1]),
        ([1, 2, 3], [1, -1, 1]),
    ):
        with pytest.raises(UserError, match="must be"):
            rank_metrics(np.array(ranks), np.array(weights, float))


def test_chance_of_impossible_numbers_is_refused_and_of_no_query_undefined():
    for num_correct, gallery_size in (([4], 3), ([0], 3), ([1], 0)):
        with pytest.raises(UserError, match="must have from 1 to"):
            chance_metrics(num_correct, gallery_size)
    assert all(np.isnan(value) for value in chance_metrics([], 3).values())


def test_an_empty_gallery_has_no_precision():
    gallery = RankedGallery.from_scores(np.zeros(0), np.zeros(0, bool))
    assert np.isnan(gallery.precision_at([5], np.zeros(0))).all()
