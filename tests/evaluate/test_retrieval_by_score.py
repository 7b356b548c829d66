"""Retrieval by the matching head and the caption decoder, and the accuracy of single pairs."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medclip_jax.errors import UserError
from medclip_jax.evaluate import encode
from medclip_jax.evaluate.matching_accuracy import MatchingAccuracy, MatchingPairs
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.retrieval import evaluate

TEXTS = {"Normal.": [1, 0, 0], "Effusion.": [0, 2, 0], "Nodule.": [0, 0, 1]}


@pytest.fixture
def encoder(encoder_of):
    vectors = {text: np.array(vector, np.float32) for text, vector in TEXTS.items()}
    return encoder_of(vectors, np.eye(3, dtype=np.float32))


@pytest.fixture
def studies(study, studies_of):
    """Four studies of four patients, three texts; the last image is nearer to another text."""
    return studies_of(
        [
            study(0, [[1, 0.1, 0], [2, 0, 0.1]], report="Normal."),
            study(1, [[0, 2, 0.1]], report="Effusion."),
            study(2, [[0, 0.1, 1]], report="normal"),
            study(3, [[0.2, 0, 1]], report="Nodule."),
        ],
        ("A", "B"),
    )


def run(encoder, studies, **options):
    return evaluate(encoder, lambda split: studies, Request("d", num_resamples=20, **options))


def test_the_matching_head_ranks_as_the_embeddings_that_it_is_made_of(
    encoder, studies, monkeypatch
):
    monkeypatch.setattr(encode, "_STUDIES_AT_ONCE", 3)  # the matrix comes in two blocks
    expected, found = run(encoder, studies), run(encoder, studies, score="matching")
    for name, value in expected.metrics.items():
        assert found.metrics[name] == pytest.approx(value), name
    assert found.protocol["ranked_by"] == "logit of the matching head"
    np.testing.assert_allclose(
        found.arrays["image_to_text_similarities"],
        expected.arrays["image_to_text_similarities"] - 0.5,
        atol=1e-6,
    )


def test_captioning_ranks_by_its_own_scores(encoder, studies):
    found = run(encoder, studies, score="captioning")
    # Distances: [2, 0, 0.1] is nearest to its own text, [0, 0.1, 1] to "Nodule.", the others right.
    assert found.arrays["image_to_text_ranks"].tolist() == [1, 1, 1, 2, 1]
    # The images by their distance from "Normal.": 0, then 1 (0.1, about 1); "Nodule." finds the
    # image of study 2 first (0.1), then its own (0.2).
    assert found.arrays["text_to_image_ranks"].tolist() == [1, 1, 2]
    assert "matching_accuracy" not in found.metrics
    assert "random_initialization/image_to_text_recall@1" in found.metrics


def test_single_pairs(encoder, studies):
    found = run(encoder, studies, score="matching")
    # Only the image of study 2 is wrong about its own report, and it is wrong about "Nodule." too
    # if that is the other report drawn.
    images, others = found.arrays["matching_images"], found.arrays["matching_other_texts"]
    assert images.tolist() == [0, 1, 2, 3, 4]
    wrong = 1 + int(others[3] == 2)
    assert found.metrics["matching_accuracy"] == pytest.approx(1 - wrong / 10)
    assert found.metrics["chance/matching_accuracy"] == 0.5
    low, high = found.confidence_intervals["matching_accuracy"]
    assert low <= found.metrics["matching_accuracy"] <= high
    assert "improvement_over_random_initialization/matching_accuracy" in found.confidence_intervals
    assert found.protocol["matching"]["num_pairs"] == 10


def test_other_reports_are_of_other_patients_and_say_something_else():
    generator = np.random.default_rng(0)
    texts, patients = generator.integers(4, size=60), generator.integers(20, size=60)
    image_study = np.repeat(np.arange(60), 2)
    pairs = MatchingPairs.draw(texts, image_study, [str(p) for p in patients], seed=1)
    assert pairs.images.tolist() == list(range(120))
    assert np.all(pairs.other_texts != pairs.own_texts)
    for study, other in zip(pairs.studies, pairs.other_texts, strict=True):
        assert np.any((texts == other) & (patients != patients[study]))
    again = MatchingPairs.draw(texts, image_study, [str(p) for p in patients], seed=1)
    assert np.array_equal(pairs.other_texts, again.other_texts)
    # Studies are drawn, so a frequent text is drawn often.
    skewed = MatchingPairs.draw(
        np.array([0] + [1] * 90 + [2] * 10), np.zeros(500, int), [str(p) for p in range(101)], 0
    )
    assert np.mean(skewed.other_texts == 1) == pytest.approx(0.9, abs=0.05)


def test_an_image_for_which_there_is_no_other_report_is_left_out():
    pairs = MatchingPairs.draw(np.array([0, 0, 1]), np.arange(3), ["a", "b", "b"], seed=0)
    assert pairs.images.tolist() == [0, 2]  # study 1 differs only from its own patient's
    none = MatchingPairs.draw(np.array([0, 0]), np.arange(2), ["a", "b"], seed=0)
    metrics = MatchingAccuracy(np.ones((2, 1)), none)(np.ones(2))
    assert np.isnan(list(metrics.values())).all()


def test_pairs_of_weighted_studies():
    generator = np.random.default_rng(0)
    texts = np.arange(30) % 5
    pairs = MatchingPairs.draw(texts, np.arange(30), [str(i) for i in range(30)], seed=0)
    logits = generator.normal(size=(30, 5))
    weights = generator.integers(4, size=30).astype(float)
    metrics = MatchingAccuracy(logits, pairs)(weights)
    own = logits[np.arange(30), texts].repeat(weights.astype(int))
    other = logits[np.arange(30), pairs.other_texts].repeat(weights.astype(int))
    labels = np.repeat([1, 0], len(own))
    scores = np.concatenate([own, other])
    assert metrics["matching_accuracy"] == pytest.approx(np.mean((scores > 0) == labels))
    assert metrics["matching_auroc"] == pytest.approx(roc_auc_score(labels, scores))


def test_class_queries_by_the_matching_head(encoder, study, studies_of, tmp_path):
    """Of eight candidates three have A; the query of A finds two of them among its first five."""
    vectors = [[1, 0, 0], [1, 0, 0.1], [0, 0, 1]] + [[1, 0, 0.2]] * 3 + [[0, 0.1, 1]] * 2
    labels = [[1, 0]] * 3 + [[0, 1]] * 5
    studies = studies_of(
        [study(i, [v], labels=x) for i, (v, x) in enumerate(zip(vectors, labels, strict=True))],
        ("A", "B"),
    )
    queries = tmp_path / "q.csv"
    queries.write_text("Variable,Text\nA,Normal.\nB,Effusion.\n")
    found = run(encoder, studies, queries=(queries,), score="matching")
    assert found.metrics["text_to_image_precision@5/A"] == pytest.approx(2 / 5)
    assert found.protocol["ranked_by"] == "logit of the matching head"


def test_a_model_without_embeddings_ranks_by_its_matching_head(encoder, studies):
    class WithoutEmbeddings(type(encoder)):
        def match(self, images, texts, *, progress=False):
            return super().image_features(images) @ self.embed(texts).T

        def embed(self, texts):
            return np.stack([self.texts[text] for text in texts]) @ self.matrix

        def embed_images(self, images):
            raise UserError("this run trained no embeddings")

        embed_texts = embed_images

    bare = WithoutEmbeddings(encoder.texts, encoder.matrix)
    assert run(bare, studies, score="matching").metrics["image_to_text_recall@10"] == 1
    with pytest.raises(UserError, match="trained no embeddings"):
        run(bare, studies)


def test_image_queries_need_embeddings(encoder, studies, tmp_path):
    (tmp_path / "a.png").touch()
    queries = tmp_path / "q.csv"
    queries.write_text("Variable,Path\nA,a.png\n")
    studies.studies[0].labels.resize(2, refcheck=False)
    for study in studies.studies:
        study.labels.resize(2, refcheck=False)
        study.labels[:] = [1, 0]
    with pytest.raises(UserError, match="--score matching compares images with texts"):
        run(encoder, studies, queries=(queries,), score="matching")
