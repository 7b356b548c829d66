"""Pairs of a batch: which are judged, and how."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medclip_jax.models.matching import PairMatching, Pairs


@pytest.fixture
def outputs() -> dict[str, jax.Array]:
    vectors = jax.random.normal(jax.random.key(0), (2, 8, 6))
    image, text = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return {"image_embeddings": image, "text_embeddings": text, "temperature": jnp.float32(0.1)}


@pytest.fixture
def batch() -> dict[str, jax.Array]:
    return {
        "group_ids": jnp.array([[0, 0], [1, 1], [0, 2], [3, 3], [4, 1], [5, 5], [6, 6], [7, 7]]),
        "has_image": jnp.arange(8) != 6,
        "has_text": jnp.arange(8) != 7,
        "token_mask": jnp.ones((8, 3), bool),
        "labels": jnp.array([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1], [0, 0], [1, 1], [1, 0.0]]),
    }


def draw(module: PairMatching, batch: dict, outputs: dict, seed: int = 0) -> Pairs:
    keys = {"negatives": jax.random.key(seed)}
    return module.apply({}, batch, outputs, rngs=keys, method="draw")


def judge(module: PairMatching, batch: dict, outputs: dict, seed: int = 0) -> dict[str, jax.Array]:
    pairs = draw(module, batch, outputs, seed)
    image = {"image_embeddings": outputs["image_embeddings"][pairs.image_rows]}
    text = {"text_embeddings": outputs["text_embeddings"][pairs.text_rows]}
    key = jax.random.key(9)
    judged = module.init_with_output(key, image, text, None, False, method="judge")[0]
    return judged | pairs.targets()


def drawn_rows(batch: dict, outputs: dict, negatives: str, seed: int) -> list[tuple[int, int]]:
    """Of each false pair the row that keeps its side, and the row that was drawn."""
    pairs = draw(PairMatching(negatives=negatives, margin=0.5), batch, outputs, seed)
    found = []
    for row, (image, text) in enumerate(
        zip(pairs.image_rows[8:], pairs.text_rows[8:], strict=True)
    ):
        kept, drawn = (image, text) if row % 2 == 0 else (text, image)
        assert int(kept) == row
        found.append((row, int(drawn)))
    return found


def test_half_are_true_pairs_and_missing_ones_do_not_count(batch: dict, outputs: dict) -> None:
    judged = judge(PairMatching(hidden_size=4), batch, outputs)
    assert judged["match_logits"].shape == (16,)
    np.testing.assert_array_equal(judged["is_match"], np.arange(16) < 8)
    expected = np.ones(8, bool)
    expected[[6, 7]] = False
    np.testing.assert_array_equal(judged["match_mask"][:8], expected)
    # Even rows keep their image, odd ones their text: rows 6 and 7 lack just that.
    np.testing.assert_array_equal(judged["match_mask"][8:], expected)


@pytest.mark.parametrize("negatives", ["random", "label_aware"])
def test_false_pairs_are_neither_siblings_nor_incomplete(
    batch: dict, outputs: dict, negatives: str
) -> None:
    for seed in range(6):
        for keeper, drawn in drawn_rows(batch, outputs, negatives, seed):
            if keeper in (6, 7):
                continue
            groups = np.asarray(batch["group_ids"])
            assert not (groups[keeper] == groups[drawn]).any()
            assert drawn != (7 if keeper % 2 == 0 else 6)
            if negatives == "label_aware":
                labels = np.asarray(batch["labels"])
                assert (labels[keeper] != labels[drawn]).any()


def test_hard_negatives_follow_the_similarity(batch: dict, outputs: dict) -> None:
    alike = jnp.zeros((8, 6)).at[:, 0].set(1.0)
    image = alike.at[0].set(jnp.eye(6)[1])
    text = alike.at[3].set(jnp.eye(6)[1])  # the one text like image 0
    outs = outputs | {"image_embeddings": image, "text_embeddings": text}
    outs["temperature"] = jnp.float32(0.01)
    module = PairMatching(negatives="hard", margin=0.5)
    for seed in range(5):
        assert float(judge(module, batch, outs, seed)["match_similarities"][8]) == 1.0


def test_a_margin_judges_by_the_distance(batch: dict, outputs: dict) -> None:
    judged = judge(PairMatching(margin=0.8), batch, outputs)
    distance = np.linalg.norm(outputs["image_embeddings"] - outputs["text_embeddings"], axis=1)
    np.testing.assert_allclose(judged["match_logits"][:8], 0.4 - distance, atol=1e-5)


def test_the_head_sees_both_sides(outputs: dict) -> None:
    module = PairMatching(hidden_size=8)
    arguments = (None, False)
    variables = module.init(jax.random.key(0), outputs, outputs, *arguments, method="judge")
    first = module.apply(variables, outputs, outputs, *arguments, method="judge")["match_logits"]
    for key in ("image_embeddings", "text_embeddings"):
        changed = outputs | {key: -outputs[key]}
        second = module.apply(variables, changed, changed, *arguments, method="judge")
        assert not np.allclose(first, second["match_logits"])
