"""One opinion out of several: the labels and boxes on which the readers of an image agree."""

import collections
import itertools
from collections.abc import Sequence, Set
from typing import NamedTuple

Corners = tuple[float, float, float, float]

# Two readers mean the same finding where their boxes overlap by at least this much; it is the
# overlap that counts as a hit in the usual mean average precision.
MIN_IOU = 0.5


class ReaderBox(NamedTuple):
    """A box that a reader drew.

    Attributes:
        reader: who drew it.
        label: the position of the finding's name in the set's label names.
        box: (ymin, xmin, ymax, xmax).
    """

    reader: str
    label: int
    box: Corners


def consensus_labels(
    votes: Sequence[Set[int]], num_labels: int, rule: str, no_finding: int
) -> tuple[float, ...]:
    """1 for each label that the readers agree on, else 0.

    Args:
        votes: the labels that each reader gave, by their positions.
        num_labels: how many labels there are.
        rule: "majority" (more than half of the readers), "any" or "all" of them.
        no_finding: the position of "No finding", which under "any" needs all readers: one who
            found something is enough against it.
    """
    needed = {"majority": len(votes) // 2 + 1, "any": 1, "all": len(votes)}[rule]
    counts = collections.Counter(label for given in votes for label in given)
    labels = [float(counts[label] >= needed) for label in range(num_labels)]
    if rule == "any":
        labels[no_finding] = float(counts[no_finding] == len(votes))
    return tuple(labels)


def merge_boxes(boxes: Sequence[ReaderBox]) -> list[tuple[int, Corners]]:
    """The boxes as (label, box), one for each finding, in the order of labels and corners.

    Boxes of one label by different readers are the same finding where they overlap by `MIN_IOU`;
    it has the mean of their corners. Those that overlap most are joined first, so that the order
    of the boxes does not matter; no two boxes of one reader are joined.
    """
    merged = []
    for label in {box.label for box in boxes}:
        findings = [[box] for box in sorted({box for box in boxes if box.label == label})]
        while pair := _closest(findings):
            first, second = pair
            findings[first] += findings.pop(second)
        merged += [(label, _mean(finding)) for finding in findings]
    return sorted(merged)


def _closest(findings: Sequence[Sequence[ReaderBox]]) -> tuple[int, int] | None:
    """The two findings to join next, the first of them first; None if there are none."""
    means = [_mean(finding) for finding in findings]
    readers = [{box.reader for box in finding} for finding in findings]
    overlaps = {
        (i, j): _iou(means[i], means[j])
        for i, j in itertools.combinations(range(len(findings)), 2)
        if readers[i].isdisjoint(readers[j])
    }
    pair = max(overlaps, key=lambda pair: overlaps[pair], default=None)
    return pair if pair and overlaps[pair] >= MIN_IOU else None


def _mean(finding: Sequence[ReaderBox]) -> Corners:
    ymin, xmin, ymax, xmax = (
        sum(corner) / len(finding) for corner in zip(*(box.box for box in finding), strict=True)
    )
    return ymin, xmin, ymax, xmax


def _iou(a: Corners, b: Corners) -> float:
    """Intersection over union."""
    height = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    width = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return height * width / (_area(a) + _area(b) - height * width)


def _area(box: Corners) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
