"""Which pairs are negatives, by a loop over all pairs, and the distribution of those drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.models.negatives import allowed_negatives, draw_negatives

SIZE, DRAWS = 6, 4000
ALL = np.ones(SIZE, bool)
ALLOWED = np.array(
    [
        [0, 1, 1, 0, 1, 1],
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 0, 1, 1, 0, 1],
        [1, 1, 1, 1, 1, 0],
    ],
    bool,
)


def test_allowed_negatives_by_a_loop_over_all_pairs():
    generator = np.random.default_rng(0)
    size = 24
    groups = generator.integers(0, 12, (size, 2))
    labels = generator.choice([0.0, 1.0, np.nan], (size, 2))
    row_ok, column_ok = generator.random((2, size)) < 0.8
    plain = allowed_negatives(groups, row_ok=row_ok, column_ok=column_ok)
    aware = allowed_negatives(groups, labels=labels, row_ok=row_ok, column_ok=column_ok)
    for row, column in np.ndindex(size, size):
        siblings = row == column or any(a == b for a, b in zip(*groups[[row, column]], strict=True))
        expected = bool(row_ok[row] and column_ok[column] and not siblings)
        assert plain[row, column] == expected
        positive = [{c for c in range(2) if labels[r, c] == 1} for r in (row, column)]
        assert aware[row, column] == (expected and positive[0] != positive[1])
    assert 0 < aware.sum() < plain.sum() < size**2 - size


def test_rows_without_any_positive_label_have_the_same_labels():
    labels = np.array([[0.0, 0.0], [np.nan, 0.0], [1.0, np.nan], [1.0, 0.0], [0.0, 1.0], [1, 1]])
    groups = np.arange(SIZE)[:, None]
    allowed = allowed_negatives(groups, labels=labels, row_ok=ALL, column_ok=ALL)
    kinds = np.array([0, 0, 1, 1, 2, 3])
    np.testing.assert_array_equal(allowed, kinds[:, None] != kinds[None, :])


def frequencies(**options) -> np.ndarray:
    """How often each column is drawn for each row, over many keys."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    draw = jax.jit(jax.vmap(lambda key: draw_negatives(key, allowed=ALLOWED, **options)))
    columns, exists = draw(keys)
    assert columns.dtype == jnp.int32
    np.testing.assert_array_equal(exists, np.broadcast_to(ALLOWED.any(axis=1), exists.shape))
    return (np.asarray(columns)[:, :, None] == np.arange(SIZE)).mean(axis=0)


@pytest.mark.parametrize("temperature", [None, 0.5, 0.1])
def test_columns_are_drawn_with_their_probabilities(temperature):
    """Uniformly, or by the softmax of the similarity over the allowed columns."""
    similarity = np.random.default_rng(1).uniform(-1, 1, (SIZE, SIZE)).astype(np.float32)
    if temperature is None:
        ours, weights = frequencies(), ALLOWED.astype(float)
    else:
        ours = frequencies(similarity=similarity, temperature=temperature)
        weights = ALLOWED * np.exp(similarity / temperature)
    some = ALLOWED.any(axis=1)
    expected = weights[some] / weights[some].sum(axis=1, keepdims=True)
    assert not ours[some][~ALLOWED[some]].any()
    deviation = np.sqrt(expected * (1 - expected) / DRAWS)
    assert (np.abs(ours[some] - expected) < 4 * deviation + 1e-6).all()


def test_rows_draw_independently():
    keys = jax.random.split(jax.random.key(2), DRAWS)
    allowed = np.ones((2, 2), bool)
    columns, _ = jax.vmap(lambda key: draw_negatives(key, allowed=allowed))(keys)
    same = float((columns[:, 0] == columns[:, 1]).mean())
    assert same == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(DRAWS))


def test_extreme_similarities_are_no_trouble():
    similarity = np.full((SIZE, SIZE), -1.0)
    similarity[:, 3] = 1.0
    columns, _ = draw_negatives(
        jax.random.key(0), allowed=ALLOWED, similarity=similarity, temperature=1e-3
    )
    has_it = ALLOWED[:, 3]
    assert (np.asarray(columns)[has_it] == 3).all()
    assert ALLOWED[np.arange(SIZE), columns][ALLOWED.any(axis=1)].all()


def test_a_batch_without_any_negative_is_no_trouble():
    columns, exists = draw_negatives(jax.random.key(0), allowed=np.zeros((SIZE, SIZE), bool))
    assert not exists.any()
    np.testing.assert_array_equal(columns, np.zeros(SIZE))
