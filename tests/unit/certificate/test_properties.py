"""The operating point against brute force on small random cases, and what it must not hang on."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.certificate.evidence import Evidence, Target
from harvester.certificate.operating_point import OperatingPoint, solve
from tests.unit.certificate.test_operating_point import slow_counts, slow_solve

CONFIDENCE = 0.9
Case = tuple[Any, Any, Any]


def solved(case: Case, lesions: int, target: float) -> OperatingPoint:
    return solve(Evidence(*case, lesions), Target(target, CONFIDENCE))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Scores with ties, mostly right at the top, of few patients."""
    size, patients = draw(st.integers(1, 120)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    scores = np.round(rng.random(size), draw(st.integers(1, 3)))
    correct = rng.random(size) < scores * draw(st.sampled_from([1.0, 2.0, 4.0]))
    return scores, correct, np.array([f"p{number}" for number in rng.integers(0, patients, size)])


@given(cases(), st.integers(1, 80), st.sampled_from([0.5, 0.6, 0.8]))
def test_the_point_is_that_of_brute_force(case: Case, lesions: int, target: float) -> None:
    point = solved(case, lesions, target)
    threshold, bound = slow_solve(case, lesions, target, CONFIDENCE)
    assert point.threshold == threshold
    if np.isfinite(threshold):
        correct_by, accepted_by = slow_counts(case, threshold)
        assert point.precision_bound == pytest.approx(bound, abs=1e-9)
        assert (point.accepted, point.patients) == (sum(accepted_by.values()), len(accepted_by))
        assert point.precision_bound <= point.precision_estimate == sum(correct_by.values()) / point.accepted
    else:
        assert point.reason


@given(cases(), st.integers(1, 80), st.integers(0, 99))
def test_the_point_hangs_on_the_order_of_scores_alone(case: Case, lesions: int, seed: int) -> None:
    scores, correct, patients = case
    point = solved(case, lesions, 0.7)
    order = np.random.default_rng(seed).permutation(len(scores))
    other = solved((np.exp(2 * scores[order]), correct[order], patients[order]), lesions, 0.7)
    assert (other.accepted, other.patients, other.reason) == (point.accepted, point.patients, point.reason)
    assert other.precision_bound == pytest.approx(point.precision_bound, abs=1e-12)
    if np.isfinite(point.threshold):
        assert other.threshold == np.exp(2 * point.threshold)
        assert point.accepted == (scores >= point.threshold).sum()
