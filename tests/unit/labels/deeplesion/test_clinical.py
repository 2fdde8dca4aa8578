"""Matching a full annotation with the archive's marks: one to one, on one slice, the best pairs."""

from itertools import permutations

import numpy as np

from harvester.geometry import iou_matrix
from harvester.labels.deeplesion.clinical import match_marks
from harvester.records import Placed


def test_nothing_matches_nothing() -> None:
    one: list[Placed] = [(0, (0, 0, 9, 9))]
    assert match_marks([], one, 0.5) == match_marks(one, [], 0.5) == {}


def test_only_on_the_same_slice_and_from_the_given_overlap_on() -> None:
    marks: list[Placed] = [(1, (0, 0, 9, 9)), (2, (0, 0, 9, 9)), (3, (0, 0, 9, 9))]
    others: list[Placed] = [(3, (0, 0, 9, 4)), (1, (0, 0, 9, 3)), (5, (0, 0, 9, 9))]
    assert match_marks(marks, others, 0.5) == {2: 0}
    assert match_marks(marks, others, 0.4) == {2: 0, 0: 1}


def test_a_mark_is_taken_once() -> None:
    one: Placed = (0, (0, 0, 9, 9))
    assert match_marks([one, one], [one], 0.5) in ({0: 0}, {1: 0})


def test_the_best_pairs_of_all_against_a_slow_version() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        low = rng.uniform(0, 6, (4, 2))
        boxes = np.hstack([low, low + rng.uniform(4, 12, (4, 2))])
        moved = boxes[rng.permutation(4)] + rng.uniform(-2, 2, (4, 4))
        iou = iou_matrix(boxes, moved)
        iou[iou < 0.5] = 0
        found = match_marks([(0, tuple(b)) for b in boxes], [(0, tuple(b)) for b in moved], 0.5)
        best = max(sum(iou[i, j] for i, j in enumerate(order)) for order in permutations(range(4)))
        assert np.isclose(sum(iou[i, j] for i, j in found.items()), best)
        assert all(iou[i, j] >= 0.5 for i, j in found.items())
