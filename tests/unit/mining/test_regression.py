"""Logistic regression against a general optimiser, out of fold by patient, and what it must not do."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from harvester.geometry import Array
from harvester.mining.fusion import EVEN_WEIGHTS, FEATURES, ScoreFusion, features, fitted_weights, fuse
from harvester.mining.regression import RIDGE, cross_fitted, fitted, log_odds
from tests.builders import mixed, pooled, tubelet


def drawn(seed: int, size: int = 400) -> tuple[Array, Array]:
    """Three features: one that tells much, one a little, one nothing."""
    rng = np.random.default_rng(seed)
    x = rng.normal([1.0, -2.0, 0.5], [1.0, 3.0, 0.2], (size, 3))
    return x, rng.random(size) < 1 / (1 + np.exp(-(1.5 * x[:, 0] + 0.2 * x[:, 1] - 1)))


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_what_a_slow_reference_finds(seed: int) -> None:
    x, y = drawn(seed)
    x = (x - x.mean(axis=0)) / x.std(axis=0)  # the ridge is on features of a deviation of 1

    def slow(weights: Array) -> float:
        logit = weights[0] + x @ weights[1:]
        likelihood = np.where(y, 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(logit)))
        return float(-np.log(likelihood).sum() + RIDGE / 2 * (weights[1:] ** 2).sum())

    expected = minimize(slow, np.zeros(4), method="BFGS", options={"gtol": 1e-7}).x
    np.testing.assert_allclose(fitted(x, y), expected, atol=1e-4)


def test_it_converges_where_the_classes_are_apart() -> None:
    x = np.linspace(-1, 1, 40)[:, None]
    own = fitted(1000 * x, x[:, 0] > 0)
    assert np.isfinite(own).all()
    assert ((own[0] + 1000 * x[:, 0] * own[1] > 0) == (x[:, 0] > 0)).all()


def test_its_probabilities_are_calibrated_and_scale_does_not_matter() -> None:
    x, y = drawn(0, 20_000)
    own = fitted(x, y)
    p = 1 / (1 + np.exp(-(own[0] + x @ own[1:])))
    for low in np.arange(0, 1, 0.2):
        bin_ = (p >= low) & (p < low + 0.2)
        assert y[bin_].mean() == pytest.approx(p[bin_].mean(), abs=0.04)
    scale = np.array([1000.0, 0.01, 1.0])
    other = fitted(x * scale + 7, y)
    np.testing.assert_allclose(other[1:] * scale, own[1:], rtol=1e-5)
    np.testing.assert_allclose(own[1:3], [1.5, 0.2], atol=0.1)


def test_a_rising_feature_gets_no_negative_weight_and_the_rest_is_fitted_without_it() -> None:
    x, y = drawn(1)
    turned = x * [1, -1, 1]
    assert fitted(turned, y)[2] < 0
    own = fitted(turned, y, rising=(0, 1))
    assert own[2] == 0.0
    np.testing.assert_allclose(np.delete(own, 2), fitted(turned[:, [0, 2]], y), rtol=1e-5, atol=1e-6)


def test_a_constant_feature_gets_no_weight() -> None:
    x, y = drawn(2)
    own = fitted(np.column_stack([x, np.zeros(len(x))]), y)
    assert own[4] == 0.0
    np.testing.assert_allclose(own[:4], fitted(x, y), atol=1e-5)


def test_what_a_fold_holds_has_no_say_in_its_own_weights() -> None:
    x, y = drawn(3)
    fold = np.arange(len(y)) % 3
    rows = cross_fitted(x, y, fold, 3)
    assert rows is not None
    np.testing.assert_array_equal(rows[1], fitted(x[fold != 1], y[fold != 1]))
    turned = cross_fitted(x, np.where(fold == 1, ~y, y), fold, 3)
    assert turned is not None
    assert turned[1] == rows[1]
    assert turned[0] != rows[0]


def test_too_few_of_a_class_fit_nothing() -> None:
    x, _ = drawn(4)
    fold = np.arange(len(x)) % 2
    right = np.zeros(len(x), bool)
    right[:20] = True  # ten in either fold
    assert cross_fitted(x, right, fold, 2) is not None
    right[0] = False
    assert cross_fitted(x, right, fold, 2) is None
    assert cross_fitted(x, ~right, fold, 2) is None
    assert cross_fitted(x[:0], right[:0], fold[:0], 2) is None


def candidates(seed: int, size: int = 300, **columns: Any) -> tuple[Any, Array]:
    """Tubelets of as many patients, half of them right: the classifier knows, and right ones are wide."""
    rng = np.random.default_rng(seed)
    right = np.arange(size) % 2 == 0
    lpc = 1 / (1 + np.exp(-rng.normal(np.where(right, 1.0, -1.0), 1.0)))
    width = np.where(right, 24.0, 12.0) * np.exp(rng.normal(0, 0.5, size))
    rows = zip(lpc.tolist(), width.tolist(), strict=True)
    table = pooled(
        *(tubelet(f"v{i}", (10, 10, 29, 29), lpc_score=a, width_mm=b, **columns) for i, (a, b) in enumerate(rows))
    )
    fold = np.arange(size, dtype=np.int32) // 2 % 2
    return table.set_column(table.column_names.index("fold"), "fold", [fold]), right


def test_features_are_what_they_say() -> None:
    table = pooled(
        tubelet("v", {3: (10, 10, 29, 29), 4: (10, 10, 29, 29)}, width_mm=8.0, slice_score=[0.2, 0.6], lpg_score=0.6)
    )
    by_name = dict(zip(FEATURES, features(table)[0].tolist(), strict=True))
    assert by_name["lpg_logit"] == pytest.approx(np.log(0.6 / 0.4))
    assert (by_name["width"], by_name["slices"], by_name["spread"]) == (-1.0, 1.0, 0.0)
    assert by_name["elongation"] == 0.0  # two slices, 4 mm apart
    low, high = log_odds(np.array([0.2, 0.6]))
    assert by_name["fading"] == pytest.approx((low + high) / 2 - high, abs=1e-6)
    assert features(table.slice(0, 0)).shape == (0, len(FEATURES))


def test_fitted_weights_rank_better_than_the_even_mix_on_others() -> None:
    table, right = candidates(0)
    weights = fitted_weights(table, right, 2)
    assert len(weights) == 2 and all(len(row) == 1 + len(FEATURES) for row in weights)
    other, also = candidates(1)

    def ranked(choice: ScoreFusion) -> float:
        score = fuse(other, choice)
        return float(np.mean(score[also][:, None] > score[~also][None]))

    assert ranked(ScoreFusion(weights)) > ranked(mixed(0.5)) + 0.01
    assert ScoreFusion(weights).is_fitted and not mixed(0.5).is_fitted
    # It is a probability: as many are right as it says.
    assert fuse(other, ScoreFusion(weights)).sum() == pytest.approx(also.sum(), rel=0.1)


def test_each_fold_is_scored_by_its_own_weights_in_v_m_and_in_v_h() -> None:
    table, right = candidates(2)
    one, two = fitted_weights(table, right, 2)
    score = fuse(table, ScoreFusion((one, two)))
    fold = table["fold"].to_numpy()
    for own in (0, 1):
        alone = fuse(table, ScoreFusion(((one, two)[own],)))
        np.testing.assert_array_equal(score[fold == own], alone[fold == own])
    assert not np.array_equal(score, fuse(table, ScoreFusion((two, one))))
    # The same bits, however many are scored at a time: a threshold is one of them.
    np.testing.assert_array_equal(fuse(table.slice(7, 3), ScoreFusion((one, two))), score[7:10])


def test_few_lesions_fall_back_to_an_even_mix() -> None:
    table, right = candidates(3, size=40)
    assert len(fitted_weights(table, right, 2)) == 2
    assert fitted_weights(table, right & (np.arange(40) < 20), 2) == EVEN_WEIGHTS
    told = ScoreFusion(EVEN_WEIGHTS, 0.1, 2).told()
    assert (told["lpg_floor"], told["min_slices"], told["lpc_logit"], told["spread"]) == (0.1, 2, 0.5, 0.0)
