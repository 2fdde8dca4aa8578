"""A lower bound of the precision that lesions of one patient do not flatter.

Errors of one patient repeat: one vessel that looks like a node shows in every volume of its patient. The bound
therefore goes by patient: n accepted tubelets count as n / deff, deff being the design effect (Kish), and the
one-sided Clopper-Pearson bound is taken on that count (Korn and Graubard 1998, with their factor for few
patients). Two estimates of deff are made and the larger one holds:

- from the accepted tubelets themselves: variance of the ratio correct / accepted over patients;
- from the correlation within patients, deff = 1 + (m - 1) * correlation, m the mean number of accepted tubelets
  in a tubelet's own patient. Where next to nothing is wrong, no cluster of errors has been met yet and the
  first estimate sees none; so the correlation is measured further down, where up to four times the allowed share
  is wrong, and is at least MIN_CORRELATION, and FEW_PATIENTS / patients: what few patients show of how alike their
  errors are is little.
"""

from itertools import count
from typing import Final

import numpy as np
from scipy.stats import beta, t

from harvester.certificate.evidence import Array, Steps

MIN_CORRELATION: Final = 0.05
"""Taken where less is measured: half of what the project's own archives showed (0.09 to 0.14)."""
FEW_PATIENTS: Final = 5.0
"""Over the patients: the correlation that is taken at least, 1 at most. Without it 11 to 14 % of the certificates on
six to ten patients were false where errors of one patient are strongly alike (0.6), with it 0. Fewer than 13 patients
prove nothing at 0.90 then."""


def lower_bounds(steps: Steps, correlation: float, confidence: float) -> Array:
    """(t,) one-sided lower bounds of the precision; 0 where nothing is correct."""
    p = steps.precision
    effect = np.maximum(_design_effect(steps), _assumed_effect(steps, correlation))
    effective = steps.accepted / effect * _few_patients(steps, confidence)
    found = p > 0
    right = np.where(found, p * effective, 1.0)
    # Errors cannot be fewer than none: 1 - p must not turn negative by rounding.
    wrong = np.where(found, np.maximum(1 - p, 0.0) * effective, 0.0)
    return np.where(found, beta.ppf(1 - confidence, right, wrong + 1), 0.0)


def effective_counts(steps: Steps, correlation: float, confidence: float) -> Array:
    """(t,) how many independent tubelets the accepted ones are worth at most, whatever is right or wrong."""
    return steps.accepted / _assumed_effect(steps, correlation) * _few_patients(steps, confidence)


def fewest_patients(precision: float, confidence: float) -> int:
    """Of fewer patients such a precision is never proven, however many tubelets they give and all of them right."""

    def worth(patients: int) -> float:
        n = patients * 2.0 ** np.arange(30)
        steps = Steps(n, n, n, np.full(len(n), float(patients)), *[n * n / patients] * 3)
        return float(effective_counts(steps, MIN_CORRELATION, confidence).max())

    wanted = np.log(1 - confidence) / np.log(precision)
    return next(patients for patients in count(1) if worth(patients) >= wanted)


def correlation_within_patients(steps: Steps, target: float) -> float:
    """How alike the tubelets of one patient are in being right or wrong, 0 (not at all) to 1.

    The mean over the steps at which between one and four times the allowed share is wrong: enough errors to see
    how they cluster, and still the neighbourhood of the threshold.
    """
    p = steps.precision
    near = (p <= target) & (p >= 1 - 4 * (1 - target)) & (steps.own_cluster > 1)
    if not near.any():
        return MIN_CORRELATION
    excess = (_design_effect(steps)[near] - 1) / (steps.own_cluster[near] - 1)
    return float(np.clip(excess.mean(), MIN_CORRELATION, 1.0))


def _design_effect(steps: Steps) -> Array:
    """(t,) variance of correct / accepted over patients / binomial variance; 1 without errors, n for one patient."""
    p, m, n = steps.precision, steps.patients, np.maximum(steps.accepted, 1)
    spread = np.maximum(steps.cc - 2 * p * steps.cn + p**2 * steps.nn, 0.0)
    between = m / np.maximum(m - 1, 1) * spread / n**2
    binomial = p * (1 - p) / n
    effect = np.divide(between, binomial, out=np.ones_like(p), where=binomial > 0)
    return np.where(m == 1, n, effect)


def _assumed_effect(steps: Steps, correlation: float) -> Array:
    least = np.minimum(FEW_PATIENTS / np.maximum(steps.patients, 1), 1.0)
    effect: Array = np.maximum(1 + (steps.own_cluster - 1) * np.maximum(correlation, least), 1.0)
    return effect


def _few_patients(steps: Steps, confidence: float) -> Array:
    """(t,) factor <= 1: the spread over few patients is itself poorly known (Student's t instead of a normal)."""
    by_tubelet = t.ppf(confidence, np.maximum(steps.accepted - 1, 1))
    by_patient = t.ppf(confidence, np.maximum(steps.patients - 1, 1))
    factor: Array = np.minimum((by_tubelet / by_patient) ** 2, 1.0)
    return factor
