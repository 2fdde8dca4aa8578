"""Logistic regression with a ridge, by Newton's method, fitted out of fold."""

from collections.abc import Collection
from typing import Final

import numpy as np

from harvester.geometry import Array

Weights = tuple[tuple[float, ...], ...]
"""Rows of an intercept and a weight per feature."""
RIDGE: Final = 1.0
"""Penalty of half a squared weight (features scaled to a deviation of 1), against a loss summed over tubelets."""
FEWEST: Final = 10
"""Of right and of wrong ones each: fewer say too little of seven weights."""
CONSTANT: Final = 1e-6
"""A deviation below it is rounding."""
MOST_STEPS: Final = 50
LOGIT_CLIP: Final = 1e-6


def cross_fitted(
    features: Array, correct: Array, fold: Array, folds: int, rising: Collection[int] = ()
) -> Weights | None:
    """A row per fold, fitted on all others' rows of features (n, f); None where one would have too few of a class.

    rising: features whose weight must not be negative.
    """
    rest = [fold != each for each in range(folds)]
    if any(min(correct[rows].sum(), (~correct[rows]).sum()) < FEWEST for rows in rest):
        return None
    return tuple(tuple(fitted(features[rows], correct[rows], rising).tolist()) for rows in rest)


def fitted(features: Array, correct: Array, rising: Collection[int] = ()) -> Array:
    """(1 + f,) intercept and weights. A rising feature that would get a negative weight gets none."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > CONSTANT, scale, 1.0)
    scaled = (features - mean) / scale
    kept = list(range(features.shape[1]))
    while True:
        own = newton(scaled[:, kept], correct)
        against = [each for at, each in enumerate(kept) if each in rising and own[1 + at] < 0]
        if not against:
            break
        kept = [each for each in kept if each not in against]
    weights = np.zeros(features.shape[1])
    weights[kept] = own[1:] / scale[kept]
    return np.append(own[0] - weights @ mean, weights)


def newton(features: Array, correct: Array) -> Array:
    """(1 + f,) where loss(...) is smallest: it is convex, and steps are halved until each makes it smaller."""
    design = np.column_stack([np.ones(len(features)), features])
    ridge = np.append(0.0, np.full(features.shape[1], RIDGE))
    weights = np.zeros(design.shape[1])
    for _ in range(MOST_STEPS):
        p = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (p - correct) + ridge * weights
        bend = (design * (p * (1 - p))[:, None]).T @ design + np.diag(ridge + 1e-9)
        step = np.linalg.solve(bend, slope)
        while loss(weights - step, design, correct, ridge) > loss(weights, design, correct, ridge) + 1e-9:
            step /= 2
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def loss(weights: Array, design: Array, correct: Array, ridge: Array) -> float:
    """Summed negative log likelihood and the ridge."""
    logit = design @ weights
    return float((np.logaddexp(0, logit) - correct * logit).sum() + (ridge * weights**2).sum() / 2)


def log_odds(p: Array) -> Array:
    """Those of 0 and 1 finite."""
    p = np.clip(p, LOGIT_CLIP, 1 - LOGIT_CLIP)
    return np.asarray(np.log(p / (1 - p)))
