"""Recall at equal precision, its paired intervals, and the score interval of a share."""

import numpy as np
import pytest

from harvester.study.compare import wilson
from harvester.study.ranking import Ranking, paired


def ranking(rng: np.random.Generator, patients: int = 6, better: float = 0.0) -> Ranking:
    n = 80
    found = (rng.random(n) < np.linspace(0.95 + better, 0.2, n)) * rng.choice([1, 1, 1, 2], n)
    patient = rng.integers(patients, size=n)
    lesions = np.bincount(patient, found, minlength=patients).astype(np.int64) + rng.integers(3, size=patients)
    return Ranking(patient, np.linspace(1, 0, n), found, (np.arange(n) < 20).astype(np.int64), lesions)


def slow(one: Ranking, times: np.ndarray) -> float:
    """The highest recall of a prefix of the list with at least nine in ten right; patients drawn so often."""
    best, right, lesions, seen = 0.0, 0.0, 0.0, 0.0
    for patient, found in zip(one.patient, one.found, strict=True):
        right, seen = right + times[patient] * (found > 0), seen + times[patient]
        lesions += times[patient] * found
        if seen and right / seen >= 0.9 - 1e-12:
            best = max(best, lesions / float(times @ one.lesions))
    return best


def test_recall_at_equal_precision_is_that_of_every_prefix_tried() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        one = ranking(rng)
        weights = rng.multinomial(6, np.full(6, 1 / 6), size=5).astype(np.float64)
        assert one.recall_at_precision()[0] == pytest.approx(slow(one, np.ones(6)))
        assert one.recall_at_precision(weights) == pytest.approx([slow(one, each) for each in weights])
    assert one.recall()[0] == pytest.approx((one.found[:20].sum()) / one.lesions.sum())


def test_an_empty_ranking_finds_nothing() -> None:
    none = np.zeros(0, np.int64)
    empty = Ranking(none, none.astype(float), none, none, np.array([2, 3]))
    assert empty.recall_at_precision()[0] == empty.recall()[0] == 0
    assert Ranking.from_table(empty.table(), (2, 3)).recall()[0] == 0


def test_a_ranking_survives_its_table_and_holds_no_id() -> None:
    one = ranking(np.random.default_rng(3))
    again = Ranking.from_table(one.table(), one.lesions.tolist())
    for name in ("patient", "score", "found", "taken", "lesions"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
    assert one.table().column_names == ["patient", "score", "found", "taken"]


def test_a_paired_difference_of_the_same_is_nothing_and_of_better_ones_is_above() -> None:
    rng = np.random.default_rng(5)
    ones = [ranking(rng) for _ in range(3)]
    assert paired(ones, ones, 200) == (0.0, (0.0, 0.0))
    worse = [
        Ranking(one.patient, one.score, one.found * (np.arange(80) % 3 > 0), one.taken, one.lesions) for one in ones
    ]
    value, ends = paired(ones, worse, 500)
    assert ends is not None and 0 < ends[0] <= value <= ends[1]
    assert paired(ones, worse, 0) == (value, None)


def test_wilsons_interval_is_the_textbooks() -> None:
    assert wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1.0) and wilson(10, 10)[0] == pytest.approx(0.7225, abs=1e-4)
    assert wilson(0, 5)[0] == 0.0
