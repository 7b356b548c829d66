"""Which examples are shown."""

import numpy as np
import pytest

from medclip_jax.report.pictures import (
    StudyPictures,
    evenly_spaced,
    hits_and_misses,
    image_queries,
    text_queries,
)
from medclip_jax.report.run_files import read_run


@pytest.fixture
def evaluations(finished_run):
    return {evaluation.task: evaluation for evaluation in read_run(finished_run).evaluations}


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(10, 4, [0, 3, 6, 9]), (2, 6, [0, 1]), (1, 6, [0]), (101, 3, [0, 50, 100])],
)
def test_evenly_spaced(count, wanted, expected):
    assert evenly_spaced(count, wanted) == expected


def test_hits_misses_and_false_alarms(evaluations):
    evaluation = evaluations["linear-probe"]
    scores, labels = evaluation.arrays["scores"][:, 0], evaluation.arrays["labels"][:, 0]
    shown = hits_and_misses(evaluation, StudyPictures(evaluation))
    assert [part.label for part in shown] == ["Edema", "Mass"]
    hits, misses, alarms = shown[0].groups.values()
    present, absent = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    assert [p.caption for p in hits] == [f"score {s:.2f}" for s in present[::-1][:3]]
    assert [p.caption for p in misses] == [f"score {s:.2f}" for s in present[:3]]
    assert [p.caption for p in alarms] == [f"score {s:.2f}" for s in absent[::-1][:3]]
    assert all(p.correct for p in hits) and not any(p.correct for p in misses + alarms)


def test_unknown_labels_are_never_shown(evaluations):
    evaluation = evaluations["zero-shot"]
    labels, scores = evaluation.arrays["labels"][:, 1], evaluation.arrays["scores"][:, 1]
    assert np.isnan(labels).any()
    evaluation.arrays["scores"][:, 1] = np.where(np.isnan(labels), 9.0, scores)
    mass = hits_and_misses(evaluation, StudyPictures(evaluation))[1]
    assert "score 9.00" not in {p.caption for group in mass.groups.values() for p in group}


def test_queries_show_what_was_found(evaluations):
    evaluation = evaluations["retrieval"]
    pictures = StudyPictures(evaluation)
    arrays = evaluation.arrays
    for number, query in enumerate(text_queries(evaluation, pictures)):
        assert query.rank == arrays["text_to_image_ranks"][number]
        # The first correct image among those shown is at the rank, if the rank is shown at all.
        marks = [match.correct for match in query.matches]
        assert (marks.index(True) + 1 if True in marks else None) == (
            query.rank if query.rank <= 5 else None
        )
    for query in image_queries(evaluation, pictures):
        texts = [match.text for match in query.matches if match.correct]
        # Merged texts are written as their first study wrote them.
        assert texts in ([], [query.text])
        assert bool(texts) == (query.rank <= 5)


def test_long_texts_are_shortened(evaluations, monkeypatch):
    monkeypatch.setattr("medclip_jax.report.pictures._MAX_TEXT", 9)
    evaluation = evaluations["retrieval"]
    assert StudyPictures(evaluation).text(0) == "Bright …"
