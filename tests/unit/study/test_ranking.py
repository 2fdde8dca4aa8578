"""Recall at equal precision, its paired intervals, and the score interval of a share."""

import numpy as np
import pytest

from harvester.study.compare import wilson
from harvester.study.ranking import Ranking, paired


def ranking(rng: np.random.Generator, patients: int = 6, better: float = 0.0) -> Ranking:
    n = 80
    correct = (rng.random(n) < np.linspace(0.95 + better, 0.2, n)).astype(np.int64)
    patient = rng.integers(patients, size=n)
    lesions = np.bincount(patient[correct == 1], minlength=patients) + rng.integers(3, size=patients)
    return Ranking(patient, np.linspace(1, 0, n), correct, (np.arange(n) < 20).astype(np.int64), lesions)


def slow(one: Ranking, times: np.ndarray) -> float:
    """The highest recall of a prefix of the list with at least nine in ten right; patients drawn so often."""
    best, right, seen = 0.0, 0.0, 0.0
    for patient, correct in zip(one.patient, one.correct, strict=True):
        right, seen = right + times[patient] * correct, seen + times[patient]
        if seen and right / seen >= 0.9 - 1e-12:
            best = max(best, right / float(times @ one.lesions))
    return best


def test_recall_at_equal_precision_is_that_of_every_prefix_tried() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        one = ranking(rng)
        weights = rng.multinomial(6, np.full(6, 1 / 6), size=5).astype(np.float64)
        assert one.recall_at_precision()[0] == pytest.approx(slow(one, np.ones(6)))
        assert one.recall_at_precision(weights) == pytest.approx([slow(one, each) for each in weights])
    assert one.recall()[0] == pytest.approx((one.correct[:20].sum()) / one.lesions.sum())


def test_an_empty_ranking_finds_nothing() -> None:
    none = np.zeros(0, np.int64)
    empty = Ranking(none, none.astype(float), none, none, np.array([2, 3]))
    assert empty.recall_at_precision()[0] == empty.recall()[0] == 0
    assert Ranking.from_table(empty.table(), (2, 3)).recall()[0] == 0


def test_a_ranking_survives_its_table_and_holds_no_id() -> None:
    one = ranking(np.random.default_rng(3))
    again = Ranking.from_table(one.table(), one.lesions.tolist())
    for name in ("patient", "score", "correct", "taken", "lesions"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
    assert one.table().column_names == ["patient", "score", "correct", "taken"]


def test_a_paired_difference_of_the_same_is_nothing_and_of_better_ones_is_above() -> None:
    rng = np.random.default_rng(5)
    ones = [ranking(rng) for _ in range(3)]
    assert paired(ones, ones, 200) == (0.0, (0.0, 0.0))
    worse = [
        Ranking(one.patient, one.score, one.correct * (np.arange(80) % 3 > 0), one.taken, one.lesions) for one in ones
    ]
    value, ends = paired(ones, worse, 500)
    assert ends is not None and 0 < ends[0] <= value <= ends[1]
    assert paired(ones, worse, 0) == (value, None)


def test_wilsons_interval_is_the_textbooks() -> None:
    assert wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1.0) and wilson(10, 10)[0] == pytest.approx(0.7225, abs=1e-4)
    assert wilson(0, 5)[0] == 0.0
