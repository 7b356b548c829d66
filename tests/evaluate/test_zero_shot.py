"""Zero-shot probabilities against the formula in NumPy, prompts, and what is written down."""

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from medclip_jax.errors import UserError
from medclip_jax.evaluate.prompts import default_prompts, read_prompts
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.zero_shot import evaluate, probabilities, prompt_embeddings

CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
NIH = (
    "No Finding",
    "Infiltration",
    "Effusion",
    "Atelectasis",
    "Nodule",
    "Mass",
    "Pneumothorax",
    "Consolidation",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Emphysema",
    "Edema",
    "Fibrosis",
    "Pneumonia",
    "Hernia",
)


@pytest.fixture
def vectors():
    generator = np.random.default_rng(0)
    return lambda *shape: generator.normal(size=shape).astype(np.float32)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_probability_is_the_softmax_over_the_two_mean_prompts(vectors):
    texts = {name: unit(vectors(6)) for name in "abcde"}
    prompts = {"X": (["a", "b"], ["c"]), "Y": (["d"], ["e", "a", "b"])}
    images, temperature = unit(vectors(7, 6)), 0.07
    embeddings = prompt_embeddings(lambda names: np.stack([texts[n] for n in names]), prompts)
    found = probabilities(images, embeddings, temperature)
    for column, (positive, negative) in enumerate(prompts.values()):
        pair = [unit(np.mean([texts[n] for n in names], axis=0)) for names in (positive, negative)]
        expected = softmax(images @ np.stack(pair).T / temperature, axis=1)[:, 0]
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-5)


def test_probabilities_far_apart_stay_apart():
    embeddings = np.array([[[1.0, 0.0], [-1.0, 0.0]]])
    found = probabilities(np.array([[-1.0, 0.0], [-0.99, 0.1], [1.0, 0.0]]), embeddings, 0.005)
    assert 0 < found[0, 0] < found[1, 0] < found[2, 0] <= 1


@pytest.fixture
def case(study, studies_of, encoder_of, vectors):
    """Thirty studies of one or two images with labels that follow the first two axes."""
    prompts = default_prompts(("Edema", "Pneumonia"))
    texts = {}
    for axis, (positive, negative) in enumerate(prompts.values()):
        sign = {text: 1 for text in positive} | {text: -1 for text in negative}
        texts |= {text: s * np.eye(4, dtype=np.float32)[axis] for text, s in sign.items()}
    studies = []
    for number in range(30):
        images = vectors(1 + number % 2, 4)
        labels = (images.mean(axis=0)[:2] + 0.5 * vectors(2) > 0).astype(np.float32)
        studies.append(study(number, images, labels=labels))
    studies[3].labels[0] = np.nan
    return encoder_of(texts, np.eye(4, dtype=np.float32)), studies_of(
        studies, ("Edema", "Pneumonia")
    )


def test_scores_are_means_over_a_studys_images(case):
    encoder, studies = case
    result = evaluate(encoder, lambda split: studies, Request("d", num_resamples=20))
    scores = []
    for study in studies.studies:
        images = encoder.embed_images(study.images)
        scores.append((1 / (1 + np.exp(-2 * images[:, :2] / 0.5))).mean(axis=0))
    np.testing.assert_allclose(result.arrays["scores"], scores, rtol=1e-5)
    labels, known = result.arrays["labels"], ~np.isnan(result.arrays["labels"][:, 0])
    expected = roc_auc_score(labels[known, 0], np.array(scores)[known, 0])
    assert result.metrics["auroc/Edema"] == pytest.approx(expected)
    assert result.metrics["macro_auroc"] > 0.8
    assert result.num_examples == 30
    assert result.protocol["label_counts"]["Edema"]["unknown"] == 1
    assert result.protocol["prompts"]["Edema"]["negative"][0] == "no pulmonary edema"


def test_labels_and_prompt_file_choose_what_is_evaluated(case, tmp_path):
    encoder, studies = case
    chosen = evaluate(
        encoder, lambda split: studies, Request("d", labels=("Pneumonia",), num_resamples=2)
    )
    assert chosen.arrays["label_names"].tolist() == ["Pneumonia"]
    file = tmp_path / "prompts.json"
    prompts = default_prompts(("Pneumonia",))["Pneumonia"]
    file.write_text(json.dumps({"Pneumonia": {"positive": prompts[0][:1], "negative": prompts[1]}}))
    own = evaluate(encoder, lambda split: studies, Request("d", prompts=file, num_resamples=2))
    assert own.protocol["prompts"] == {
        "Pneumonia": {"positive": prompts[0][:1], "negative": prompts[1]}
    }
    np.testing.assert_allclose(own.arrays["scores"], chosen.arrays["scores"], rtol=1e-5)
    with pytest.raises(UserError, match="no label 'Hernia'"):
        evaluate(encoder, lambda split: studies, Request("d", labels=("Hernia",)))


def test_a_set_without_labels_is_an_error(study, studies_of, encoder_of):
    with pytest.raises(UserError, match="no labels"):
        evaluate(
            encoder_of({}, np.eye(1)), lambda split: studies_of([study(0, [[1]])]), Request("d")
        )


@pytest.mark.parametrize("label_names", [CHEXPERT, NIH])
def test_default_prompts_cover_the_sets_and_negate_no_label_name(label_names):
    for label, (positive, negative) in default_prompts(label_names).items():
        assert positive and negative and not set(positive) & set(negative)
        assert not any("finding" in text and text.startswith("no ") for text in negative), label
    no_finding = default_prompts(label_names)["No Finding"]
    assert "no acute cardiopulmonary process" in no_finding[0]
    assert all(not text.startswith("no ") for text in no_finding[1])


def test_synthetic_set_has_default_prompts():
    from medclip_jax.data.builders.synthetic_cxr.findings import LABEL_NAMES

    assert set(default_prompts(LABEL_NAMES)) == set(LABEL_NAMES)


def test_unknown_label_without_prompts():
    with pytest.raises(UserError, match="no default prompts for label 'Kerley lines'.*--prompts"):
        default_prompts(("Edema", "Kerley lines"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"Hernia": {"positive": ["a"], "negative": ["b"]}}', "no label 'Hernia'"),
        ('{"Edema": {"positive": ["a"]}}', "form"),
        ('{"Edema": [["a"], ["b"]]}', "form"),
        ('{"Edema": {"positive": [], "negative": ["b"]}}', "two lists"),
        ('{"Edema": {"positive": "a", "negative": ["b"]}}', "two lists"),
        ("[]", "form"),
        ("{", "not valid JSON"),
        ("{}", "form"),
        ('{"Edema": {}}', "form"),
        ('{"Edema": {"positive": ["{}"], "negative": ["no {}"]}}', "has a gap"),
        ('{"Edema": {"positive": [" "], "negative": ["b"]}}', "none of them empty"),
        ('{"Edema": {"positive": [null], "negative": ["b"]}}', "two lists"),
    ],
)
def test_wrong_prompt_files(tmp_path, content, message):
    file = tmp_path / "prompts.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_prompts(file, ("Edema",))


def test_a_prompt_file_that_is_a_folder_or_of_another_encoding(tmp_path):
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_prompts(tmp_path, ("Edema",))
    file, content = tmp_path / "prompts.json", '{"Edema": {"positive": ["é"], "negative": ["b"]}}'
    file.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="not valid JSON in UTF-8"):
        read_prompts(file, ("Edema",))
    file.write_text(content, encoding="utf-8-sig")  # as Windows writes it
    assert read_prompts(file, ("Edema",)) == {"Edema": (["é"], ["b"])}


def test_missing_prompt_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_prompts(tmp_path / "none.json", ("Edema",))
