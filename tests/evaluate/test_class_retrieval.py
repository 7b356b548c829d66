"""Precision by class on hand-made candidates, and ConVIRT's query files."""

from pathlib import Path

import numpy as np
import pytest

from medclip_jax.errors import UserError
from medclip_jax.evaluate.class_retrieval import (
    ClassRetrieval,
    exclusive_studies,
    read_queries,
)
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
    vectors = {"Wet lungs.": [1, 0], "Round spot.": [0, 1], "Fluid.": [0.1, 1]}
    texts = {text: np.array(vector, np.float32) for text, vector in vectors.items()}
    return encoder_of(texts, np.eye(2, dtype=np.float32))


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
    """Two query images, one a class; the encoder reads paths as `medclip_jax.load`'s does."""
    queries = write(tmp_path / "query.csv", "Variable,Path\nNodule,a\nEdema,b\n")
    root = tmp_path / "images"
    root.mkdir()
    for name, vector in {"a": [0, 1], "b": [0.4, 1]}.items():
        (root / name).write_bytes(np.array(vector, np.float32).tobytes())

    class PathEncoder(type(encoder)):
        def image_features(self, images):
            images = [Path(i).read_bytes() if isinstance(i, str) else i for i in images]
            return super().image_features(images)

    path_encoder = PathEncoder({}, encoder.matrix)
    request = Request("d", queries=(queries,), image_root=root, num_resamples=2)
    result = evaluate(path_encoder, lambda split: studies, request)
    # Of six candidates all but the farthest are among the first five: the third edema is not.
    assert result.metrics["image_to_image_precision@5/Nodule"] == pytest.approx(3 / 5)
    assert result.metrics["image_to_image_precision@5/Edema"] == pytest.approx(2 / 5)
    assert read_queries(queries, root, LABELS).values == [str(root / "a"), str(root / "b")]


def test_exclusive_studies_have_exactly_one_of_the_classes():
    labels = np.array([[1, 0, 1], [1, 1, 0], [np.nan, 1, 0], [0, 0, 1], [1, np.nan, np.nan]])
    assert exclusive_studies(labels, LABELS, ["Edema", "Nodule"]).tolist() == [
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Variable,Text\nHernia,x\n", "no label 'Hernia'"),
        ("Class,Text\nEdema,x\n", "needs the columns"),
        ("Variable,Text\n", "needs the columns"),
        ("Variable,Path\nEdema,missing.png\n", "--image-root"),
    ],
)
def test_wrong_query_files(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_queries(write(tmp_path / "q.csv", content), None, LABELS)


def test_missing_query_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_queries(tmp_path / "none.csv", None, LABELS)
