"""The operating point against brute force; ties, one class, few patients."""

from collections import Counter
from dataclasses import astuple
from math import floor, log
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, t

from harvester.certificate.evidence import Evidence, Steps, Target
from harvester.certificate.operating_point import naive, solve
from harvester.certificate.precision_bound import MIN_CORRELATION, fewest_patients, lower_bounds
from harvester.errors import LabelError, SettingsError


def made_case(seed: int, size: int = 400, patients: int = 60) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    correct = rng.random(size) < 0.5
    scores = np.round(rng.normal(np.where(correct, 1.5, 0.0), 0.5), 2)  # rounded: many ties
    return scores, correct, np.array([f"p{i}" for i in rng.integers(0, patients, size)])


def precision_lower_bound(correct_by_patient: Any, accepted_by_patient: Any, confidence: float) -> float:
    """The bound from (patients,) counts alone."""
    c, n = (np.asarray(counts, dtype=np.float64) for counts in (correct_by_patient, accepted_by_patient))
    sums = (n.sum(), c.sum(), (n > 0).sum(), (c * c).sum(), (c * n).sum(), (n * n).sum())
    steps = Steps(np.zeros(1), *(np.array([value], dtype=np.float64) for value in sums))
    return float(lower_bounds(steps, MIN_CORRELATION, confidence)[0])


def slow_effect(correct_by: Counter[str], accepted_by: Counter[str]) -> float:
    """Variance of correct / accepted over patients / binomial variance."""
    n, c = sum(accepted_by.values()), sum(correct_by.values())
    p, m = c / n, len(accepted_by)
    if m == 1:
        return n
    if c in (0, n):
        return 1.0
    residuals = [(correct_by[who] - p * accepted_by[who]) ** 2 for who in accepted_by]
    return m / (m - 1) * sum(residuals) / n**2 / (p * (1 - p) / n)


def slow_worth(
    correct_by: Counter[str], accepted_by: Counter[str], correlation: float, level: float, own: bool
) -> float:
    """How many independent tubelets the accepted ones are worth."""
    n, m = sum(accepted_by.values()), len(accepted_by)
    alike = max(correlation, min(5 / m, 1))
    effect = 1 + (sum(k * k for k in accepted_by.values()) / n - 1) * alike
    if own:
        effect = max(effect, slow_effect(correct_by, accepted_by))
    few = (t.ppf(1 - level, max(n - 1, 1)) / t.ppf(1 - level, max(m - 1, 1))) ** 2
    return float(n / max(effect, 1) * min(few, 1))


def slow_bound(correct_by: Counter[str], accepted_by: Counter[str], correlation: float, level: float) -> float:
    n, c = sum(accepted_by.values()), sum(correct_by.values())
    worth = slow_worth(correct_by, accepted_by, correlation, level, own=True)
    return float(beta.ppf(level, c / n * worth, (1 - c / n) * worth + 1)) if c else 0.0


def slow_counts(case: tuple[Any, Any, Any], threshold: float) -> tuple[Counter[str], Counter[str]]:
    correct_by, accepted_by = Counter[str](), Counter[str]()
    for score, correct, patient in zip(*case, strict=True):
        if score >= threshold:
            accepted_by[str(patient)] += 1
            correct_by[str(patient)] += int(correct)
    return correct_by, accepted_by


def slow_correlation(counts: list[tuple[Counter[str], Counter[str]]], target: float) -> float:
    excess = []
    for correct_by, accepted_by in counts:
        n = sum(accepted_by.values())
        cluster = sum(k * k for k in accepted_by.values()) / n
        if 1 - 4 * (1 - target) <= sum(correct_by.values()) / n <= target and cluster > 1:
            excess.append((slow_effect(correct_by, accepted_by) - 1) / (cluster - 1))
    return min(max(sum(excess) / len(excess), 0.05), 1.0) if excess else 0.05


def slow_tested(case: tuple[Any, Any, Any]) -> list[tuple[float, Counter[str], Counter[str]]]:
    """Threshold, correct and accepted by patient: wherever 5 % more are accepted, and at the last; of 3 patients."""
    tested, folds = [], set()
    thresholds = sorted(set(case[0].tolist()), reverse=True)
    for threshold in thresholds:
        correct_by, accepted_by = slow_counts(case, threshold)
        fold = floor(log(sum(accepted_by.values())) / log(1.05) + 1e-9)
        if fold not in folds or threshold == thresholds[-1]:
            folds.add(fold)
            tested.append((threshold, correct_by, accepted_by))
    return [each for each in tested if len(each[2]) >= 3]


def slow_begins(tested: list[Any], lesions: int, target: float, level: float, correlation: float) -> Any:
    """Place in the sequence -> share of the level."""
    provable = {
        share: [
            place
            for place, (_, correct_by, accepted_by) in enumerate(tested)
            if target ** slow_worth(correct_by, accepted_by, correlation, level * share, own=False) <= level * share
        ]
        for share in (0.25, 1.0)
    }
    if not provable[1.0]:
        return {}
    third = [place for place in provable[1.0] if sum(tested[place][2].values()) >= lesions / 3]
    late = (third or provable[1.0])[0]
    early = provable[0.25][0] if provable[0.25] else late
    return {early: 0.25, late: 0.75} if early < late else {late: 1.0}


def slow_solve(case: tuple[Any, Any, Any], lesions: int, target: float, confidence: float) -> tuple[float, float]:
    """Threshold and bound, step by step as the docstring tells it; (inf, 0) if nothing is proven."""
    everywhere = [slow_counts(case, threshold) for threshold in set(case[0].tolist())]
    correlation = slow_correlation(everywhere, target)
    tested = slow_tested(case)
    begins = slow_begins(tested, lesions, target, 1 - confidence, correlation)
    share, best = 0.0, (np.inf, 0.0)
    for place, (threshold, correct_by, accepted_by) in enumerate(tested):
        share += begins.get(place, 0.0)
        bound = slow_bound(correct_by, accepted_by, correlation, share * (1 - confidence)) if share else 0.0
        if bound >= target:
            best = threshold, bound
        else:
            share = 0.0
    return best


@pytest.mark.parametrize("seed", range(4))
def test_solve_equals_brute_force(seed: int) -> None:
    case = made_case(seed)
    certified = 0
    for target in (0.5, 0.7, 0.8, 0.9):
        threshold, bound = slow_solve(case, 240, target, 0.9)
        point = solve(Evidence(*case, 240), Target(target, 0.9))
        assert point.threshold == threshold
        assert (point.reason == "") == np.isfinite(threshold)
        if np.isfinite(threshold):
            certified += 1
            correct_by, accepted_by = slow_counts(case, threshold)
            n, c = sum(accepted_by.values()), sum(correct_by.values())
            assert point.precision_bound == pytest.approx(bound, abs=1e-9)
            assert (point.accepted, point.patients) == (n, len(accepted_by))
            assert (point.precision_estimate, point.recall_estimate) == pytest.approx((c / n, c / 240))
    assert certified >= 2


def test_a_failure_ends_the_sequence() -> None:
    """Errors in the middle: what lies below them would be proven again, but is never reached."""
    correct = np.ones(1200, bool)
    correct[200:260] = False
    patients = np.arange(1200)
    assert precision_lower_bound(correct.astype(int), np.ones(1200, int), 0.95) > 0.9
    point = solve(Evidence(-np.arange(1200.0), correct, patients, 360), Target(0.9, 0.95))
    assert 190 <= point.accepted <= 215


def test_early_errors_are_survived_by_the_second_start() -> None:
    correct = np.ones(300, bool)
    correct[[5, 12, 20]] = False  # where 44 errorless ones would be proven, three are wrong
    point = solve(Evidence(-np.arange(300.0), correct, np.arange(300), 400), Target(0.9, 0.95))
    assert point.accepted == 300
    assert point.precision_bound >= 0.9


def test_what_is_right_has_no_say_in_where_the_sequence_begins() -> None:
    """Errors beyond the last tested step leave the point as it is, up to the correlation measured there."""
    correct = np.ones(400, bool)
    correct[300:] = np.arange(100) % 2 == 0
    one = solve(Evidence(-np.arange(400.0), correct, np.arange(400), 300), Target(0.9, 0.95))
    correct[350:] = False
    other = solve(Evidence(-np.arange(400.0), correct, np.arange(400), 300), Target(0.9, 0.95))
    assert one.threshold == other.threshold
    assert one.accepted > 250


@pytest.mark.parametrize("seed", range(4))
def test_naive_equals_brute_force_and_is_never_stricter(seed: int) -> None:
    case = made_case(seed)
    for target in (0.7, 0.9):
        qualified = []
        for threshold in set(case[0].tolist()):
            correct_by, accepted_by = slow_counts(case, threshold)
            if sum(correct_by.values()) / sum(accepted_by.values()) >= target:
                qualified.append(threshold)
        plain = naive(Evidence(*case, 240), Target(target))
        assert plain.threshold == min(qualified, default=np.inf)
        assert plain.threshold <= solve(Evidence(*case, 240), Target(target, 0.95)).threshold
        assert plain.reason.startswith("not proven") == (plain.precision_bound < target)


def test_one_tubelet_per_patient_gives_clopper_pearsons_bound() -> None:
    correct = np.arange(100) >= 10
    bound = precision_lower_bound(correct.astype(int), np.ones(100, int), 0.95)
    # The variance over patients divides by m - 1: 100 count as 99.
    assert bound == pytest.approx(beta.ppf(0.05, 0.9 * 99, 0.1 * 99 + 1), abs=1e-9)
    assert bound < beta.ppf(0.05, 90, 11)
    errorless = precision_lower_bound(np.ones(30, int), np.ones(30, int), 0.95)
    assert errorless == pytest.approx(0.05 ** (1 / 30))


def test_errors_of_one_patient_weaken_the_bound() -> None:
    spread = precision_lower_bound(np.full(10, 9), np.full(10, 10), 0.95)
    together = precision_lower_bound(np.array([10] * 9 + [0]), np.full(10, 10), 0.95)
    assert together < spread - 0.1


def test_errorless_tubelets_of_few_patients_are_not_taken_as_independent() -> None:
    many = precision_lower_bound(np.ones(60, int), np.ones(60, int), 0.95)
    few = precision_lower_bound(np.full(6, 10), np.full(6, 10), 0.95)
    # Ten a patient: 1 + 9 * 5 / 6 each, and Student's t on 5 degrees of freedom.
    worth = 60 / 8.5 * (t.ppf(0.95, 59) / t.ppf(0.95, 5)) ** 2
    assert few == pytest.approx(0.05 ** (1 / worth))
    assert few < many - 0.04


def test_bounds_of_nothing() -> None:
    assert precision_lower_bound(np.zeros(0), np.zeros(0), 0.95) == 0.0
    assert precision_lower_bound(np.zeros(3), np.zeros(3), 0.95) == 0.0
    assert precision_lower_bound(np.zeros(3), np.full(3, 5), 0.95) == 0.0


def test_patients_without_an_accepted_tubelet_do_not_count() -> None:
    with_others = precision_lower_bound(np.array([9, 3, 0, 0]), np.array([10, 5, 0, 0]), 0.95)
    assert with_others == precision_lower_bound(np.array([9, 3]), np.array([10, 5]), 0.95)


def test_tubelets_of_a_single_patient_are_one_draw() -> None:
    assert precision_lower_bound(np.array([500]), np.array([500]), 0.95) < 0.05
    point = solve(
        Evidence(np.arange(500.0), np.ones(500, bool), np.full(500, "p"), 500), Target(0.9, 0.95, min_patients=1)
    )
    assert point.threshold == np.inf


def test_ties_are_accepted_together() -> None:
    # 40 right ones share a score with 40 wrong ones: neither half can be had alone.
    scores = np.array([2.0] * 60 + [1.0] * 80)
    correct = np.array([True] * 100 + [False] * 40)
    patients = np.arange(140) % 70
    point = solve(Evidence(scores, correct, patients, 100), Target(0.9, 0.95))
    assert (point.threshold, point.accepted, point.precision_estimate) == (2.0, 60, 1.0)
    everything = solve(Evidence(scores, correct, patients, 100), Target(0.5, 0.95))
    assert (everything.threshold, everything.accepted) == (1.0, 140)


def test_rows_in_any_order_give_the_same_point() -> None:
    case = made_case(5)
    shuffled = np.random.default_rng(0).permutation(len(case[0]))
    point = solve(Evidence(*case, 240), Target(0.8, 0.95))
    assert np.isfinite(point.threshold)
    assert astuple(point) == astuple(
        solve(Evidence(case[0][shuffled], case[1][shuffled], case[2][shuffled], 240), Target(0.8, 0.95))
    )


def test_empty_input_certifies_nothing() -> None:
    empty: tuple[Any, Any, Any] = (np.zeros(0), np.zeros(0, bool), np.zeros(0, str))
    point = solve(Evidence(*empty, 10), Target(0.9, 0.95))
    assert astuple(point) == (np.inf, 0.0, 0.0, 0.0, 0, 0, "the models propose nothing in V_M")
    assert naive(Evidence(*empty, 10), Target(0.9)).threshold == np.inf


def test_all_correct_is_certified_once_there_are_enough() -> None:
    few = solve(Evidence(np.arange(10.0), np.ones(10, bool), np.arange(10), 10), Target(0.9, 0.95))
    assert few.threshold == np.inf
    assert "at best 0.741 (95.0% confidence): by 10 finds of 10 patients, worth 10 independent ones" in few.reason
    assert "as counted, without a proof, 10 finds are 1.000 right" in few.reason
    assert few.precision_bound == pytest.approx(0.05**0.1)
    enough = solve(Evidence(np.arange(30.0), np.ones(30, bool), np.arange(30), 60), Target(0.9, 0.95))
    assert (enough.threshold, enough.recall_estimate, enough.reason) == (0.0, 0.5, "")


def test_all_wrong_certifies_nothing() -> None:
    point = solve(Evidence(np.arange(50.0), np.zeros(50, bool), np.arange(50), 10), Target(0.9, 0.95))
    assert astuple(point) == (np.inf, 0.0, 0.0, 0.0, 0, 0, "all 50 proposals in V_M are wrong")


def test_too_few_patients_are_named() -> None:
    scores, correct, patients = np.arange(400.0), np.ones(400, bool), np.arange(400) % 4
    point = solve(Evidence(scores, correct, patients, 400), Target(0.5, 0.8, min_patients=5))
    assert point.threshold == np.inf
    assert point.reason == "too few patients: all 400 proposals are of 4, min_patients asks for 5"
    assert solve(Evidence(scores, correct, patients, 400), Target(0.5, 0.8, min_patients=4)).threshold == 0.0


def test_the_sequence_begins_where_enough_patients_are() -> None:
    """Forty of four patients, then of others: too few where they alone are provable is no reason against the rest."""
    patients = np.where(np.arange(60) < 40, np.arange(60) % 4, np.arange(60))
    target = Target(0.2, 0.95, min_patients=5)
    assert solve(Evidence(-np.arange(40.0), np.ones(40, bool), patients[:40], 60), Target(0.2, 0.95)).accepted >= 4
    point = solve(Evidence(-np.arange(60.0), np.ones(60, bool), patients, 60), target)
    assert (point.accepted, point.reason) == (60, "")
    # The others are wrong and come all at once: what is told is of steps of enough patients alone.
    scores, right = -np.minimum(np.arange(400.0), 40.0), np.arange(400) < 40
    point = solve(Evidence(scores, right, np.minimum(np.arange(400) % 4 + np.arange(400) // 40 * 4, 9), 60), target)
    assert point.threshold == np.inf
    assert "V_M does not prove a precision of 0.200, at best 0.0" in point.reason


def test_a_refusal_tells_the_best_bound_and_the_point_estimate() -> None:
    correct = np.array([True] * 19 + [False] + [False, True] * 20)
    point = solve(Evidence(np.arange(60.0)[::-1], correct, np.arange(60) % 12, 40), Target(0.9, 0.95))
    assert point.threshold == np.inf
    assert "by 19 finds of 12 patients, worth 14 independent ones" in point.reason
    assert "as counted, without a proof, 22 finds are 0.909 right" in point.reason


def test_minus_infinity_is_never_accepted() -> None:
    scores = np.append(np.arange(40.0), [-np.inf] * 3)
    correct, patients = np.ones(43, bool), np.arange(43)
    point = solve(Evidence(scores, correct, patients, 43), Target(0.9, 0.95))
    assert (point.threshold, point.accepted) == (0.0, 40)


def test_more_confidence_never_lowers_the_threshold_nor_raises_the_bound() -> None:
    for seed in range(3):
        case = made_case(seed, size=300)
        points = [solve(Evidence(*case, 200), Target(0.8, confidence)) for confidence in (0.6, 0.8, 0.9, 0.95, 0.99)]
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
        evidence = Evidence(scores, correct, patients, 270)
        thresholds = [rule(evidence, Target(0.9)).threshold for rule in (solve, naive)]
        # A normal of mean 2 against one of mean 0, equally many: precision 0.9 is reached at 1.40105.
        broken += thresholds[0] < 1.40105
        plainly_broken += thresholds[1] < 1.40105
    assert broken <= 9
    assert plainly_broken > 30


def test_a_target_is_a_share_that_can_be_proven() -> None:
    for wrong in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(SettingsError, match="precision"):
            Target(wrong)
        with pytest.raises(SettingsError, match="confidence"):
            Target(0.9, wrong)
    with pytest.raises(SettingsError, match="min_patients"):
        Target(0.9, min_patients=0)


def test_malformed_input_is_refused() -> None:
    with pytest.raises(LabelError, match="lengths 2, 3, 2"):
        Evidence(np.zeros(2), np.zeros(3, bool), np.zeros(2), 1)
    with pytest.raises(LabelError, match="scores"):
        Evidence(np.array([np.nan]), np.zeros(1, bool), np.zeros(1), 1)
    with pytest.raises(SettingsError, match="confidence"):
        Target(0.9, 1.0)


def test_few_patients_whose_errors_are_strongly_alike_prove_nothing_false() -> None:
    """12 % are wrong at every threshold, mostly of patients in whom nearly all is wrong: no certificate is true."""
    rng = np.random.default_rng(2)
    for patients in (6, 8, 10):
        false = 0
        for _ in range(60):
            right = rng.beta(0.88 * 2 / 3, 0.12 * 2 / 3, patients)  # a correlation of 0.6
            of = np.repeat(np.arange(patients), 1 + rng.poisson(19, patients))
            correct = rng.random(len(of)) < right[of]
            evidence = Evidence(rng.random(len(of)), correct, of, len(of))
            false += np.isfinite(solve(evidence, Target(0.9)).threshold)
        assert false <= 3, f"{false} of 60 on {patients} patients"


@pytest.mark.parametrize(("precision", "confidence", "fewest"), [(0.9, 0.95, 13), (0.5, 0.8, 3), (0.03, 0.6, 1)])
def test_of_fewer_patients_nothing_is_proven_and_a_refusal_says_so(
    precision: float, confidence: float, fewest: int
) -> None:
    assert fewest_patients(precision, confidence) == fewest

    def told(patients: int, of_each: int) -> str:
        n = patients * of_each
        evidence = Evidence(np.arange(float(n)), np.ones(n, bool), np.arange(n) % patients, n)
        return solve(evidence, Target(precision, confidence, min_patients=1)).reason

    assert "" in [told(fewest, of_each) for of_each in (1, 400)]
    for reason in [told(fewest - 1, of_each) for of_each in (1, 10, 400) if fewest > 1]:
        assert f"of {fewest - 1} patients, worth" in reason
        assert f"; fewer than {fewest} patients prove nothing" in reason
