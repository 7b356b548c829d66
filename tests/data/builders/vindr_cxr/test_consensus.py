"""Labels and boxes out of several readers' ones."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from medclip_jax.data.builders.vindr_cxr.consensus import ReaderBox, consensus_labels, merge_boxes

corners = st.integers(0, 12)
sides = st.integers(1, 12)
boxes = st.builds(
    lambda reader, label, top, left, height, width: ReaderBox(
        reader, label, (float(top), float(left), float(top + height), float(left + width))
    ),
    st.sampled_from(["R1", "R2", "R3"]),
    st.integers(0, 1),
    corners,
    corners,
    sides,
    sides,
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("majority", [0, 1, 1, 0]), ("any", [1, 1, 1, 0]), ("all", [0, 0, 1, 0])],
)
def test_rules(rule: str, expected: list[float]) -> None:
    # Label 0 is given by one reader, 1 by two, 2 by all; "No finding" is 3.
    votes = [{0, 1, 2}, {1, 2}, {2}]
    assert consensus_labels(votes, 4, rule, no_finding=3) == tuple(expected)


@pytest.mark.parametrize(("rule", "expected"), [("majority", 1), ("any", 0), ("all", 0)])
def test_no_finding_by_two_of_three(rule: str, expected: float) -> None:
    labels = consensus_labels([{1}, {1}, {0}], 2, rule, no_finding=1)
    assert labels == (float(rule == "any"), expected)


@pytest.mark.parametrize("rule", ["majority", "any", "all"])
def test_one_reader_is_right(rule: str) -> None:
    assert consensus_labels([{0}], 2, rule, no_finding=1) == (1, 0)
    assert consensus_labels([{1}], 2, rule, no_finding=1) == (0, 1)


def test_overlapping_boxes_of_different_readers_are_one_with_the_mean_of_the_corners() -> None:
    drawn = [
        ReaderBox("R1", 0, (10, 10, 30, 30)),
        ReaderBox("R2", 0, (12, 11, 31, 33)),
        ReaderBox("R3", 0, (11, 12, 32, 30)),
    ]
    assert merge_boxes(drawn) == [(0, (11, 11, 31, 31))]


def test_half_is_overlap_enough_and_less_is_not() -> None:
    # 10 x 10 against 10 x 20 pixels: intersection over union of exactly one half.
    half = [ReaderBox("R1", 0, (0, 0, 10, 10)), ReaderBox("R2", 0, (0, 0, 10, 20))]
    assert merge_boxes(half) == [(0, (0, 0, 10, 15))]
    less = [half[0], ReaderBox("R2", 0, (0, 0, 10, 20.1))]
    assert len(merge_boxes(less)) == 2


def test_other_labels_and_the_same_reader_stay_apart() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    near = (0.0, 0.0, 10.0, 11.0)
    assert len(merge_boxes([ReaderBox("R1", 0, box), ReaderBox("R2", 1, box)])) == 2
    assert len(merge_boxes([ReaderBox("R1", 0, box), ReaderBox("R1", 0, near)])) == 2
    assert merge_boxes([ReaderBox("R1", 0, box)] * 2) == [(0, box)]


@hypothesis.given(st.lists(boxes, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_boxes_does_not_matter(drawn, random) -> None:
    shuffled = list(drawn)
    random.shuffle(shuffled)
    assert merge_boxes(shuffled) == merge_boxes(drawn)


@hypothesis.given(st.lists(boxes, max_size=8))
def test_findings_lie_within_what_was_drawn(drawn) -> None:
    merged = merge_boxes(drawn)
    assert merged == sorted(merged)
    assert {label for label, _ in merged} == {box.label for box in drawn}
    for label in {box.label for box in drawn}:
        own = [box for box in drawn if box.label == label]
        found = np.array([box for other, box in merged if other == label])
        # No reader's box vanishes into another one's of the same reader.
        most = max(len({b for b in own if b.reader == reader}) for reader in ("R1", "R2", "R3"))
        assert most <= len(found) <= len(set(own))
        given = np.array([box.box for box in own])
        assert (found >= given.min(0) - 1e-9).all() and (found <= given.max(0) + 1e-9).all()
