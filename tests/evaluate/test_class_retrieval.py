"""Precision by class on hand-made candidates."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.vector_images import image_of

from medclip_jax.errors import UserError
from medclip_jax.evaluate.class_retrieval import ClassRetrieval, exclusive_studies
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.retrieval import evaluate

LABELS = ("Edema", "Nodule", "Support Devices")
EDEMA, NODULE = [1, 0, 0], [0, 1, 1]


def write(path, text):
    path.write_text(text)
    return path


@pytest.fixture
def text_queries(tmp_path):
    return write(
        tmp_path / "query.csv",
        "Variable,Text\nEdema,Wet lungs.\nNodule,Round spot.\nEdema,Fluid.\n",
    )


@pytest.fixture
def studies(study, studies_of):
    """Six exclusive candidates along the first axis (edema) or the second, and two others."""
    angles = [0.0, 0.1, 0.2, 1.3, 1.4, 1.5]
    candidates = [
        study(i, [[np.cos(a), np.sin(a)]], labels=EDEMA if a < 1 else NODULE)
        for i, a in enumerate(angles)
    ]
    both = study(6, [[1, 0]], labels=[1, 1, 0])
    none = study(7, [[1, 0]], labels=[np.nan, 0, 1])
    return studies_of([*candidates, both, none], LABELS)


@pytest.fixture
def encoder(encoder_of):
    """Reads paths as well, as `medclip_jax.load`'s does."""

    class PathEncoder(encoder_of):
        def image_features(self, images):
            images = [Path(i).read_bytes() if isinstance(i, str) else i for i in images]
            return super().image_features(images)

    vectors = {"Wet lungs.": [1, 0], "Round spot.": [0, 1], "Fluid.": [0.1, 1]}
    texts = {text: np.array(vector, np.float32) for text, vector in vectors.items()}
    return PathEncoder(texts, np.eye(2, dtype=np.float32))


def test_precision_by_hand():
    similarity = np.arange(12.0)[::-1][None].repeat(2, axis=0)  # candidate 0 is the best
    relevant = np.zeros((2, 12), bool)
    relevant[0, [0, 1, 4, 9]] = True
    relevant[1, 11] = True
    metrics = ClassRetrieval("text_to_image", ["A", "B"], similarity, relevant)(np.ones(12))
    assert metrics["text_to_image_precision@5/A"] == pytest.approx(3 / 5)
    assert metrics["text_to_image_precision@10/A"] == pytest.approx(4 / 10)
    assert metrics["text_to_image_precision@5"] == pytest.approx((3 / 5 + 0) / 2)
    assert np.isnan(metrics["text_to_image_precision@50"])  # twelve candidates


def test_text_queries_against_exclusive_candidates(studies, encoder, text_queries):
    result = evaluate(encoder, lambda split: studies, Request("d", queries=(text_queries,)))
    assert result.num_examples == 6
    metrics = result.metrics
    # Three of six are relevant to each query: the five nearest hold all 3, 3 and (from the wrong
    # side) 2 of them.
    assert metrics["text_to_image_precision@5/Nodule"] == pytest.approx(3 / 5)
    assert metrics["text_to_image_precision@5/Edema"] == pytest.approx((3 / 5 + 2 / 5) / 2)
    assert metrics["chance/text_to_image_precision@5"] == pytest.approx(0.5)
    assert "random_initialization/text_to_image_precision@5" in metrics
    assert result.protocol["classes"] == ["Edema", "Nodule"]
    assert result.protocol["queries"][1] == {"class": "Nodule", "query": "Round spot."}


def test_instance_and_class_retrieval_in_one_result(study, studies, encoder, text_queries):
    studies.studies.append(study(8, [[0, 1]], report="Round spot."))
    studies.studies[-1].labels.resize(3, refcheck=False)
    request = Request("d", queries=(text_queries,), num_resamples=5)
    result = evaluate(encoder, lambda split: studies, request)
    assert "image_to_text_recall@1" in result.metrics
    assert "text_to_image_precision@5" in result.metrics
    assert result.protocol["class_queries"][0]["query_file"] == text_queries
    assert "image_to_text_ranks" in result.arrays


def test_image_queries(tmp_path, studies, encoder):
    """Two query images, one a class."""
    queries = write(tmp_path / "query.csv", "Variable,Path\nNodule,a\nEdema,b\n")
    root = tmp_path / "images"
    root.mkdir()
    for name, vector in {"a": [0, 1], "b": [0.4, 1]}.items():
        (root / name).write_bytes(image_of(vector))
    request = Request("d", queries=(queries,), image_root=root, num_resamples=2)
    result = evaluate(encoder, lambda split: studies, request)
    # Of six candidates all but the farthest are among the first five: the third edema is not.
    assert result.metrics["image_to_image_precision@5/Nodule"] == pytest.approx(3 / 5)
    assert result.metrics["image_to_image_precision@5/Edema"] == pytest.approx(2 / 5)


def test_exclusive_studies_have_exactly_one_of_the_classes():
    labels = np.array([[1, 0, 1], [1, 1, 0], [np.nan, 1, 0], [0, 0, 1], [1, np.nan, np.nan]])
    assert exclusive_studies(labels, LABELS, ["Edema", "Nodule", "Edema"]).tolist() == [
        True,
        False,
        True,
        False,
        True,
    ]
    with pytest.raises(UserError, match="'Edema' as its only"):
        exclusive_studies(
            np.array([[1.0, 1.0], [0.0, 1.0]]), ("Edema", "Nodule"), ["Edema", "Nodule"]
        )


HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,Edema,Nodule\n"


@pytest.fixture
def candidates(tmp_path):
    """Ten candidates in CheXpert's columns; the images lie along the first or second axis."""
    lines = []
    for number in range(10):
        edema = number < 4
        folder = tmp_path / f"CheXpert-v1.0-small/train/patient{number // 2:05d}/study{number}"
        folder.mkdir(parents=True)
        vector = np.array([1, 0.01 * number] if edema else [0.01 * number, 1], np.float32)
        (folder / "view1_frontal.jpg").write_bytes(image_of(vector))
        values = "1.0,0.0" if edema else "-1.0,1.0" if number == 9 else ",1.0"
        path = folder.relative_to(tmp_path) / "view1_frontal.jpg"
        lines.append(f"{path},Male,60,Frontal,AP,{values}\n")
    return write(tmp_path / "candidate.csv", HEADER + "".join(lines))


def test_queries_against_a_list_of_candidates(candidates, studies, encoder, text_queries):
    request = Request("d", queries=(text_queries,), candidates=candidates, num_resamples=20)
    result = evaluate(encoder, lambda split: studies, request)
    assert (result.num_examples, result.num_patients) == (10, 5)
    metrics = result.metrics
    # "Wet lungs." finds the four along its axis first; "Fluid." is nearer to the other six.
    assert metrics["text_to_image_precision@5/Edema"] == pytest.approx((4 / 5 + 0) / 2)
    assert metrics["text_to_image_precision@5/Nodule"] == 1
    assert metrics["text_to_image_precision@10/Nodule"] == pytest.approx(6 / 10)
    assert metrics["chance/text_to_image_precision@5/Edema"] == pytest.approx(4 / 10)
    assert result.protocol["candidate_file"] == candidates
    low, high = result.confidence_intervals["text_to_image_precision@5/Edema"]
    assert low < high


def test_candidates_stand_beside_instance_retrieval(study, studies, encoder, candidates, tmp_path):
    queries = write(tmp_path / "q.csv", "Variable,Text\nEdema,Wet lungs.\n")
    studies = dataclasses.replace(studies, studies=[study(0, [[1, 0]], report="Fluid.")])
    request = Request("d", queries=(queries,), candidates=candidates, num_resamples=2)
    result = evaluate(encoder, lambda split: studies, request)
    assert result.num_examples == 1
    assert result.metrics["image_to_text_recall@1"] == 1
    assert result.metrics["text_to_image_precision@5"] == pytest.approx(4 / 5)
    assert result.protocol["class_queries"][0]["gallery_size"] == 10


def test_a_class_that_no_candidate_has(candidates, studies, encoder, text_queries, tmp_path):
    content = candidates.read_text().replace("1.0,0.0", "-1.0,0.0")
    request = Request("d", queries=(text_queries,), candidates=write(tmp_path / "c.csv", content))
    with pytest.raises(UserError, match="no candidate has 'Edema' present"):
        evaluate(encoder, lambda split: studies, request)


def test_candidates_without_queries(candidates, studies, encoder):
    with pytest.raises(UserError, match="give them with --queries"):
        evaluate(encoder, lambda split: studies, Request("d", candidates=candidates))
