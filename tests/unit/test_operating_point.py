"""The operating point against brute force; ties, one class, few patients and earlier rounds."""

from collections import Counter
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, binom

from harvester.errors import LabelError, SettingsError
from harvester.evaluation.operating_point import naive, precision_lower_bound, solve


def made_case(seed: int, size: int = 120, patients: int = 9) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    correct = rng.random(size) < 0.5
    scores = np.round(rng.normal(np.where(correct, 1.5, 0.0), 0.5), 1)  # rounded: many ties
    return scores, correct, np.array([f"p{i}" for i in rng.integers(0, patients, size)])


def slow_bound(correct_by: Counter[str], accepted_by: Counter[str], confidence: float) -> float:
    """The docstring's formula, term by term."""
    n, c = sum(accepted_by.values()), sum(correct_by.values())
    if c == 0:
        return 0.0
    p, m, deff = c / n, len(accepted_by), 1.0
    if m == 1:
        deff = n
    elif c < n:
        residuals = [(correct_by[who] - p * accepted_by[who]) ** 2 for who in accepted_by]
        deff = max(1.0, m / (m - 1) * sum(residuals) / n**2 / (p * (1 - p) / n))
    effective = n / deff
    return float(beta.ppf(1 - confidence, p * effective, effective - p * effective + 1))


def slow_counts(
    case: tuple[Any, Any, Any], threshold: float, prior: tuple[dict[str, int], dict[str, int]]
) -> tuple[Counter[str], Counter[str]]:
    correct_by, accepted_by = Counter(prior[0]), Counter(prior[1])
    for score, correct, patient in zip(*case, strict=True):
        if score >= threshold:
            accepted_by[str(patient)] += 1
            correct_by[str(patient)] += int(correct)
    return correct_by, accepted_by


NO_PRIOR: tuple[dict[str, int], dict[str, int]] = ({}, {})
SOME_PRIOR = (
    {"p1": 9, "p2": 7, "elsewhere-with-a-long-name": 8},
    {"p1": 10, "p2": 7, "elsewhere-with-a-long-name": 8},
)


@pytest.mark.parametrize("prior", [NO_PRIOR, SOME_PRIOR])
@pytest.mark.parametrize("seed", range(4))
def test_solve_equals_brute_force(seed: int, prior: tuple[dict[str, int], dict[str, int]]) -> None:
    case = made_case(seed)
    for target in (0.5, 0.7, 0.8, 0.9):
        qualified = []
        for threshold in sorted(set(case[0].tolist())):
            correct_by, accepted_by = slow_counts(case, threshold, prior)
            if slow_bound(correct_by, accepted_by, 0.9) >= target and len(accepted_by) >= 3:
                qualified.append(threshold)
        point = solve(*case, 80, target, 0.9, *prior)
        assert point.threshold == min(qualified, default=np.inf)
        assert (point.reason == "") == bool(qualified)
        if qualified:
            correct_by, accepted_by = slow_counts(case, min(qualified), prior)
            n, c = sum(accepted_by.values()), sum(correct_by.values())
            assert point.precision_bound == pytest.approx(slow_bound(correct_by, accepted_by, 0.9), abs=1e-9)
            assert (point.accepted, point.patients) == (n, len(accepted_by))
            assert (point.precision_estimate, point.recall_estimate) == pytest.approx((c / n, c / 80))


@pytest.mark.parametrize("seed", range(4))
def test_naive_equals_brute_force_and_is_never_stricter(seed: int) -> None:
    case = made_case(seed)
    for target in (0.7, 0.9):
        qualified = []
        for threshold in set(case[0].tolist()):
            correct_by, accepted_by = slow_counts(case, threshold, NO_PRIOR)
            if sum(correct_by.values()) / sum(accepted_by.values()) >= target:
                qualified.append(threshold)
        plain = naive(*case, 80, target)
        assert plain.threshold == min(qualified, default=np.inf)
        assert plain.threshold <= solve(*case, 80, target, 0.95).threshold
        assert plain.reason.startswith("not proven") == (plain.precision_bound < target)


def test_the_bound_is_clopper_pearsons_where_patients_do_not_differ() -> None:
    bound = precision_lower_bound(np.full(10, 9), np.full(10, 10), 0.95)
    assert bound == pytest.approx(beta.ppf(0.05, 90, 11))
    assert binom.sf(89, 100, bound) == pytest.approx(0.05)  # Clopper-Pearson's own definition
    assert precision_lower_bound(np.array([20, 10]), np.array([20, 10]), 0.95) == pytest.approx(
        0.05 ** (1 / 30)
    )


def test_errors_of_one_patient_weaken_the_bound() -> None:
    spread = precision_lower_bound(np.full(10, 9), np.full(10, 10), 0.95)
    together = precision_lower_bound(np.array([10] * 9 + [0]), np.full(10, 10), 0.95)
    assert together < spread - 0.15
    # A hundred tubelets of ten patients, all of one wrong, count as ten less one degree of freedom.
    assert together == pytest.approx(beta.ppf(0.05, 0.9 * 9, 0.1 * 9 + 1), abs=1e-9)


def test_bounds_of_nothing() -> None:
    assert precision_lower_bound(np.zeros(0), np.zeros(0), 0.95) == 0.0
    assert precision_lower_bound(np.zeros(3), np.zeros(3), 0.95) == 0.0
    assert precision_lower_bound(np.zeros(3), np.full(3, 5), 0.95) == 0.0


def test_patients_without_an_accepted_tubelet_do_not_count() -> None:
    with_others = precision_lower_bound(np.array([9, 3, 0, 0]), np.array([10, 5, 0, 0]), 0.95)
    assert with_others == precision_lower_bound(np.array([9, 3]), np.array([10, 5]), 0.95)


def test_tubelets_of_a_single_patient_are_one_draw() -> None:
    assert precision_lower_bound(np.array([500]), np.array([500]), 0.95) == pytest.approx(0.05)
    point = solve(np.arange(500.0), np.ones(500, bool), np.full(500, "p"), 500, 0.9, 0.95, min_patients=1)
    assert point.threshold == np.inf


def test_ties_are_accepted_together() -> None:
    # 40 right ones share a score with 40 wrong ones: neither half can be had alone.
    scores = np.array([2.0] * 60 + [1.0] * 80)
    correct = np.array([True] * 100 + [False] * 40)
    patients = np.arange(140) % 20
    point = solve(scores, correct, patients, 100, 0.9, 0.95)
    assert (point.threshold, point.accepted, point.precision_estimate) == (2.0, 60, 1.0)
    everything = solve(scores, correct, patients, 100, 0.5, 0.95)
    assert (everything.threshold, everything.accepted) == (1.0, 140)


def test_rows_in_any_order_give_the_same_point() -> None:
    case = made_case(5)
    shuffled = np.random.default_rng(0).permutation(len(case[0]))
    assert astuple(solve(*case, 80, 0.8, 0.95)) == astuple(
        solve(case[0][shuffled], case[1][shuffled], case[2][shuffled], 80, 0.8, 0.95)
    )


def test_empty_input_certifies_nothing() -> None:
    for prior in (NO_PRIOR, SOME_PRIOR):
        empty: tuple[Any, Any, Any] = (np.zeros(0), np.zeros(0, bool), np.zeros(0, str))
        point = solve(*empty, 10, 0.9, 0.95, *prior)
        assert astuple(point) == (np.inf, 0.0, 0.0, 0.0, 0, 0, "no tubelets to choose from")
        assert naive(*empty, 10, 0.9, *prior).threshold == np.inf


def test_all_correct_is_certified_once_there_are_enough() -> None:
    few = solve(np.arange(10.0), np.ones(10, bool), np.arange(10), 10, 0.9, 0.95)
    assert few.threshold == np.inf
    assert "only one class: all 10 tubelets are correct, too few" in few.reason
    assert "best bound 0.741 at 10 accepted" in few.reason
    assert few.precision_bound == pytest.approx(0.05**0.1)
    enough = solve(np.arange(30.0), np.ones(30, bool), np.arange(30), 60, 0.9, 0.95)
    assert (enough.threshold, enough.recall_estimate, enough.reason) == (0.0, 0.5, "")


def test_all_wrong_certifies_nothing() -> None:
    point = solve(np.arange(50.0), np.zeros(50, bool), np.arange(50), 10, 0.9, 0.95)
    assert astuple(point) == (np.inf, 0.0, 0.0, 0.0, 0, 0, "only one class: all 50 tubelets are wrong")


def test_too_few_patients_are_named() -> None:
    scores, correct, patients = np.arange(100.0), np.ones(100, bool), np.arange(100) % 2
    point = solve(scores, correct, patients, 100, 0.9, 0.95, min_patients=3)
    assert point.threshold == np.inf
    assert point.reason == "too few patients: the bound reaches 0.900 on 2, at least 3 are asked"
    assert solve(scores, correct, patients, 100, 0.9, 0.95, min_patients=2).threshold == 0.0


def test_a_refusal_tells_the_best_bound_and_the_point_estimate() -> None:
    correct = np.array([True] * 19 + [False] + [False, True] * 20)
    point = solve(np.arange(60.0)[::-1], correct, np.arange(60) % 12, 40, 0.9, 0.95)
    assert point.threshold == np.inf
    assert point.precision_bound == pytest.approx(0.05 ** (1 / 19))
    assert "best bound 0.854 at 19 accepted" in point.reason
    assert "the point estimate alone would accept 22 at 0.909" in point.reason


def test_earlier_rounds_count_in_both_directions() -> None:
    scores, correct, patients = (
        np.arange(20.0),
        np.ones(20, bool),
        np.array([f"p{i % 10}" for i in range(20)]),
    )
    good, bad = {f"p{i}": 2 for i in range(10)}, {f"p{i}": 1 for i in range(10)}
    assert solve(scores, correct, patients, 60, 0.9, 0.95).threshold == np.inf
    with_good = solve(scores, correct, patients, 60, 0.9, 0.95, good, good)
    assert (with_good.threshold, with_good.accepted, with_good.recall_estimate) == (
        0.0,
        40,
        pytest.approx(40 / 60),
    )
    assert solve(scores, correct, patients, 60, 0.9, 0.95, bad, good).threshold == np.inf


def test_minus_infinity_is_never_accepted() -> None:
    scores = np.append(np.arange(40.0), [-np.inf] * 3)
    correct, patients = np.ones(43, bool), np.arange(43)
    point = solve(scores, correct, patients, 43, 0.9, 0.95)
    assert (point.threshold, point.accepted) == (0.0, 40)


def test_more_confidence_never_lowers_the_threshold_nor_raises_the_bound() -> None:
    for seed in range(3):
        case = made_case(seed, size=300)
        points = [solve(*case, 200, 0.8, confidence) for confidence in (0.6, 0.8, 0.9, 0.95, 0.99)]
        thresholds = [point.threshold for point in points]
        assert thresholds == sorted(thresholds)
    bounds = [precision_lower_bound(np.array([9, 8, 10]), np.full(3, 10), c) for c in (0.6, 0.8, 0.95, 0.99)]
    assert bounds == sorted(bounds, reverse=True)


def test_the_promise_is_kept_on_archives_of_known_precision() -> None:
    """Each false structure shows twice in its patient: naive often breaks the promise, solve 1 time in 20."""
    rng = np.random.default_rng(0)
    broken, plainly_broken = 0, 0
    for _ in range(100):
        right, false = rng.normal(2, 1, 270), np.repeat(rng.normal(0, 1, 135), 2)
        scores, correct = np.concatenate([right, false]), np.arange(540) < 270
        patients = np.concatenate([rng.integers(0, 45, 270), np.repeat(rng.integers(0, 45, 135), 2)])
        thresholds = [rule(scores, correct, patients, 270, 0.9) for rule in (_threshold, _naive_threshold)]
        # A normal of mean 2 against one of mean 0, equally many: precision 0.9 is reached at 1.40105.
        broken += thresholds[0] < 1.40105
        plainly_broken += thresholds[1] < 1.40105
    assert broken <= 9
    assert plainly_broken > 30


def _threshold(*case: Any) -> float:
    return solve(*case, 0.95).threshold


def _naive_threshold(*case: Any) -> float:
    return naive(*case).threshold


def test_malformed_input_is_refused() -> None:
    with pytest.raises(LabelError, match="lengths 2, 3, 2"):
        solve(np.zeros(2), np.zeros(3, bool), np.zeros(2), 1, 0.9, 0.95)
    with pytest.raises(LabelError, match="scores"):
        solve(np.array([np.nan]), np.zeros(1, bool), np.zeros(1), 1, 0.9, 0.95)
    with pytest.raises(LabelError, match="earlier rounds"):
        solve(np.zeros(1), np.zeros(1, bool), np.array(["p"]), 1, 0.9, 0.95, {"p": 2}, {"p": 1})
    with pytest.raises(LabelError, match="correct <= accepted"):
        precision_lower_bound(np.array([3]), np.array([2]), 0.95)
    with pytest.raises(SettingsError, match="confidence"):
        precision_lower_bound(np.array([1]), np.array([2]), 1.0)
