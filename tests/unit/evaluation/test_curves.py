"""FROC, AP and precision-recall on cases worked out by hand. The published figures: tests/golden."""

import numpy as np
import pytest

from harvester.errors import LabelError
from harvester.evaluation.curves import average_precision, froc, precision_recall, sensitivity_at
from harvester.evaluation.matching import Hits, hits
from tests.builders import overlapping


def visit(scores: list[float], pairs: list[tuple[int, int]], num_marks: int) -> Hits:
    return hits(overlapping(*((row, mark, 1.0) for row, mark in pairs)), np.array(scores), num_marks)


def test_froc_leaves_out_repeats_and_ap_counts_them() -> None:
    # In order: hits mark 0; hits it again; hits nothing; hits marks 1 and, again, 0. Mark 2 stays unhit.
    seen = visit([0.9, 0.8, 0.7, 0.6], [(0, 0), (1, 0), (3, 0), (3, 1)], 3)
    curve = froc(seen, num_volumes=2)
    assert curve.fp_per_volume.tolist() == [0, 0, 0.5, 0.5]
    np.testing.assert_allclose(curve.sensitivity, [1 / 3, 1 / 3, 1 / 3, 2 / 3])
    pr = precision_recall(seen)
    np.testing.assert_allclose(pr.precision, [1, 1 / 2, 1 / 3, 2 / 5])
    np.testing.assert_allclose(pr.recall, [1 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert average_precision(seen) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 5)


def test_the_envelope_lifts_precision_to_the_best_further_right() -> None:
    seen = visit([0.9, 0.8, 0.7], [(1, 0), (2, 1)], 2)
    assert precision_recall(seen).precision.tolist() == pytest.approx([0, 1 / 2, 2 / 3])
    assert average_precision(seen) == pytest.approx(2 / 3)


def test_sensitivity_at_a_rate_reads_the_curve_before_the_next_false_positive() -> None:
    # FP, TP, FP, TP, FP over 4 volumes with 4 marks: the curve steps at 1/4, 2/4, 3/4.
    seen = visit([0.9, 0.8, 0.7, 0.6, 0.5], [(1, 0), (3, 1)], 4)
    rates = [0.125, 0.25, 0.4, 0.5, 0.6, 0.75, 16.0]
    np.testing.assert_allclose(sensitivity_at(seen, rates, 4), [0, 0, 0.25, 0.25, 0.5, 0.5, 0.5])


def test_both_ends_of_the_curve_are_carried_on() -> None:
    only_hits = visit([0.9, 0.8], [(0, 0), (1, 1)], 4)
    assert sensitivity_at(only_hits, [0.125, 16], 1).tolist() == [0.5, 0.5]
    miss_then_hit = visit([0.9, 0.8], [(1, 0)], 1)
    assert sensitivity_at(miss_then_hit, [0.125, 1.0, 16], 1).tolist() == [0, 0, 1]
    one = visit([0.9], [(0, 0)], 2)
    assert sensitivity_at(one, [1.0], 1).tolist() == [0.5]
    assert sensitivity_at(visit([0.9, 0.8, 0.7], [(0, 0)], 2), [0.1, 9.0], 1).tolist() == [0.5, 0.5]


def test_tubelets_of_one_score_are_one_point_of_precision_recall() -> None:
    pr = precision_recall(visit([0.5, 0.9, 0.5, -np.inf], [(0, 0), (1, 1)], 2))
    assert pr.scores.tolist() == [0.9, 0.5, -np.inf]
    assert pr.recall.tolist() == [0.5, 1, 1]
    assert pr.precision.tolist() == pytest.approx([1, 2 / 3, 1 / 2])


def test_no_tubelets_find_nothing() -> None:
    seen = visit([], [], 3)
    assert average_precision(seen) == 0
    assert sensitivity_at(seen, [1.0, 4.0], 2).tolist() == [0, 0]
    assert len(froc(seen, 2).sensitivity) == len(precision_recall(seen).scores) == 0


def test_without_marks_nothing_is_defined() -> None:
    seen = visit([0.5], [], 0)
    assert np.isnan(average_precision(seen))
    assert np.isnan(sensitivity_at(seen, [1.0], 2)).all()
    assert np.isnan(sensitivity_at(visit([], [], 0), [1.0], 2)).all()
    assert precision_recall(seen).precision.tolist() == [0]


def test_froc_needs_a_volume() -> None:
    with pytest.raises(LabelError, match="0 volumes"):
        froc(visit([0.5], [(0, 0)], 1), 0)
