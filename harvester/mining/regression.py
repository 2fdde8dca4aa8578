"""Logistic regression with a ridge, fitted out of fold."""

from collections.abc import Collection
from typing import Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from harvester.geometry import Array

Weights = tuple[tuple[float, ...], ...]
"""Rows of an intercept and a weight per feature."""
RIDGE: Final = 1.0
"""Penalty of half a squared weight (features scaled to a deviation of 1), against a loss summed over tubelets."""
FEWEST: Final = 10
"""Of right and of wrong ones each: fewer say too little of seven weights."""
CONSTANT: Final = 1e-6
"""A deviation below it is rounding."""
PRECISELY: Final = {"ftol": 1e-14, "gtol": 1e-7, "maxiter": 1000}
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
    """(1 + f,) intercept and weights, those of rising features not negative."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > CONSTANT, scale, 1.0)
    design = np.column_stack([np.ones(len(features)), (features - mean) / scale])
    bounds = [(None, None), *((0.0 if each in rising else None, None) for each in range(features.shape[1]))]
    found = minimize(
        loss, np.zeros(len(bounds)), (design, correct), "L-BFGS-B", jac=True, bounds=bounds, options=PRECISELY
    )
    weights = found.x[1:] / scale
    return np.append(found.x[0] - weights @ mean, weights)


def loss(weights: Array, design: Array, correct: Array) -> tuple[float, Array]:
    """Summed negative log likelihood and the ridge, on all weights but the intercept; and its slope."""
    logit, ridge = design @ weights, np.append(0.0, np.full(len(weights) - 1, RIDGE))
    value = (np.logaddexp(0, logit) - correct * logit).sum() + (ridge * weights**2).sum() / 2
    return float(value), design.T @ (expit(logit) - correct) + ridge * weights


def log_odds(p: Array) -> Array:
    """Those of 0 and 1 finite."""
    p = np.clip(p, LOGIT_CLIP, 1 - LOGIT_CLIP)
    return np.asarray(np.log(p / (1 - p)))
