"""Instance retrieval on studies whose answers are known: merged texts, siblings, weights."""

import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.evaluate.encode import read_table, text_groups
from medclip_jax.evaluate.instance_retrieval import InstanceRetrieval, Pairing
from medclip_jax.evaluate.pair_scoring import EmbeddingScores
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.retrieval import evaluate

NORMAL = "No acute process."


@pytest.fixture
def studies(study, studies_of):
    """Five studies, four texts: studies 0 and 3 say the same; study 1 has two images."""
    return studies_of(
        [
            study(0, [[1, 0, 0, 0]], report=NORMAL),
            study(1, [[0, 1, 0, 0], [0, 0.9, 0.1, 0]], report="Left effusion."),
            study(2, [[0, 1, 1, 0.2]], report="Right nodule."),
            study(3, [[0.8, 0, 0.3, 0]], report="no  acute PROCESS"),
            study(4, [[1, 0, 0, 0.1]], report="Edema.", patient="p2"),
        ]
    )


TEXTS = {
    NORMAL: [1, 0, 0, 0],
    "Left effusion.": [0, 1, 0, 0],
    "Right nodule.": [0, 0, 1, 0],
    "Edema.": [0, 0, 0, 1],
}


@pytest.fixture
def encoder(encoder_of):
    return encoder_of(
        {t: np.array(v, np.float32) for t, v in TEXTS.items()}, np.eye(4, dtype=np.float32)
    )


def test_figures_by_hand(studies, encoder):
    result = evaluate(encoder, lambda split: studies, Request("d"))
    # Images in order: rank 1, 1, 1; study 2 ties with the wrong "Left effusion": 2; 3 finds the
    # merged text: 1; study 4 is nearer to the normal text: 2.
    assert result.arrays["image_to_text_ranks"].tolist() == [1, 1, 1, 2, 1, 2]
    # "No acute process" finds study 0 first; effusion its own; nodule study 2; edema is in study
    # 2's image (0.2 / |v|) more than in study 4's.
    assert result.arrays["text_to_image_ranks"].tolist() == [1, 1, 1, 2]
    metrics = result.metrics
    assert metrics["image_to_text_recall@1"] == pytest.approx(4 / 6)
    assert metrics["text_to_image_recall@1"] == pytest.approx(3 / 4)
    assert metrics["text_to_image_mrr"] == pytest.approx((3 + 1 / 2) / 4)
    assert metrics["image_to_text_median_rank"] == 1
    assert metrics["chance/image_to_text_recall@1"] == pytest.approx(1 / 4)
    # Two of six images are right for the first two texts, one for the others.
    assert metrics["chance/text_to_image_recall@1"] == pytest.approx((2 + 2 + 1 + 1) / 6 / 4)
    assert result.num_examples == 5 and result.num_patients == 4
    assert result.protocol["gallery_size"] == {"image_to_text": 4, "text_to_image": 6}


def test_every_figure_has_its_random_initialisation_and_interval(studies, encoder):
    result = evaluate(encoder, lambda split: studies, Request("d", num_resamples=50))
    names = [
        f"{d}_{m}"
        for d in ("image_to_text", "text_to_image")
        for m in ("recall@1", "recall@5", "recall@10", "median_rank", "mrr")
    ]
    for name in names:
        low, high = result.confidence_intervals[name]
        assert low <= result.metrics[name] <= high
        assert f"random_initialization/{name}" in result.confidence_intervals
        assert f"chance/{name}" in result.metrics
    random = evaluate(encoder.randomly_initialized(0), lambda split: studies, Request("d"))
    for name in names:
        assert result.metrics[f"random_initialization/{name}"] == random.metrics[name]


def test_study_without_text_is_left_out(study, studies, encoder):
    studies.studies.append(study(5, [[1, 0, 0, 0]]))
    studies.studies.append(study(6, [], report="Edema."))
    result = evaluate(encoder, lambda split: studies, Request("d", num_resamples=2))
    assert result.num_examples == 5
    assert result.protocol["studies_left_out_without_text"] == 1
    assert result.protocol["gallery_size"]["text_to_image"] == 6


def test_a_set_without_texts_needs_queries(study, studies_of, encoder):
    studies = studies_of([study(0, [[1, 0, 0, 0]])])
    with pytest.raises(UserError, match="--queries"):
        evaluate(encoder, lambda split: studies, Request("d"))


def test_a_set_without_images_is_an_error(study, studies_of, encoder):
    with pytest.raises(UserError, match="no study of the split has an image"):
        evaluate(encoder, lambda split: studies_of([study(0, [], report=NORMAL)]), Request("d"))


def test_weights_of_merged_texts_are_shared_by_their_studies(studies):
    pairing = Pairing.from_table(read_table(studies))
    generator = np.random.default_rng(0)
    scores = EmbeddingScores(generator.normal(size=(6, 4)), generator.normal(size=(4, 4)))
    retrieval = InstanceRetrieval.search(scores, pairing)
    weights = np.array([2.0, 0.0, 1.0, 0.0, 1.0])
    metrics = retrieval(weights)
    # Texts: NORMAL weighs (2 + 0) / 2, effusion 0, nodule 1, edema 1.
    right = (retrieval.text_to_image.ranks <= 5) @ np.array([1, 0, 1, 1]) / 3
    assert metrics["text_to_image_recall@5"] == pytest.approx(right)
    right = (retrieval.image_to_text.ranks <= 1) @ np.array([2, 0, 0, 1, 0, 1]) / 4
    assert metrics["image_to_text_recall@1"] == pytest.approx(right)


def test_texts_that_differ_in_case_spacing_or_punctuation_are_one():
    groups, first = text_groups(["No edema.", "Edema.", "no  edema", "Edema 2 cm."])
    assert groups.tolist() == [0, 1, 0, 2]
    assert first.tolist() == [0, 1, 3]


def test_only_findings_and_impression_are_used(study, studies_of):
    report = "INDICATION: Cough.\n\nFINDINGS: Clear lungs.\n\nIMPRESSION: Normal."
    table = read_table(studies_of([study(0, [[1]], report=report)]))
    assert "Cough" not in table.texts[0]
    assert "Clear lungs." in table.texts[0] and "Normal." in table.texts[0]
