"""A lower bound of the precision that lesions of one patient do not flatter.

Errors of one patient repeat: one vessel that looks like a node shows in every volume of its patient. The bound
therefore goes by patient: n accepted tubelets count as n / deff, deff being the design effect (Kish), and the
one-sided Clopper-Pearson bound is taken on that count (Korn and Graubard 1998, with their factor for few
patients). Two estimates of deff are made and the larger one holds:

- from the accepted tubelets themselves: variance of the ratio correct / accepted over patients;
- from the correlation within patients, deff = 1 + (m - 1) * correlation, m the mean number of accepted tubelets
  in a tubelet's own patient. Where next to nothing is wrong, no cluster of errors has been met yet and the
  first estimate sees none; so the correlation is measured further down, where up to four times the allowed share
  is wrong, and is at least MIN_CORRELATION.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, t

from harvester.errors import LabelError, SettingsError
from harvester.evaluation.matching import ranking

Array = NDArray[Any]
Prior = Mapping[Any, int]

MIN_CORRELATION: Final = 0.05
"""Taken where less is measured: half of what the project's own archives showed (0.09 to 0.14)."""


@dataclass(frozen=True, eq=False)
class Steps:
    """What is accepted at each of t distinct scores, descending, earlier rounds included; (t,) each.

    patients counts those with an accepted tubelet; the last three are sums over patients of products of their
    correct (c) and accepted (n) counts.
    """

    scores: Array
    accepted: Array
    correct: Array
    patients: Array
    cc: Array
    cn: Array
    nn: Array

    @property
    def precision(self) -> Array:
        """(t,) share of the accepted that is correct."""
        return self.correct / np.maximum(self.accepted, 1)

    @property
    def own_cluster(self) -> Array:
        """(t,) mean, over accepted tubelets, of the accepted tubelets of the same patient."""
        return self.nn / np.maximum(self.accepted, 1)


def precision_lower_bound(correct_by_patient: Array, accepted_by_patient: Array, confidence: float) -> float:
    """One-sided lower bound of the precision from (patients,) counts; 0.0 if none is accepted or correct."""
    c, n = (np.asarray(counts, dtype=np.float64) for counts in (correct_by_patient, accepted_by_patient))
    if c.shape != n.shape or np.any(c < 0) or np.any(c > n):
        raise LabelError(
            f"counts by patient: correct {c.shape} and accepted {n.shape}; want 0 <= correct <= accepted"
        )
    sums = (n.sum(), c.sum(), (n > 0).sum(), (c * c).sum(), (c * n).sum(), (n * n).sum())
    steps = Steps(np.zeros(1), *(np.array([value], dtype=np.float64) for value in sums))
    return float(lower_bounds(steps, MIN_CORRELATION, confidence)[0])


def lower_bounds(steps: Steps, correlation: float, confidence: float) -> Array:
    """(t,) one-sided lower bounds of the precision; 0 where nothing is correct."""
    if not 0 < confidence < 1:
        raise SettingsError(f"confidence = {confidence}: want a number between 0 and 1")
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


def steps_of(
    scores: Array, correct: Array, patients: Array, prior_correct: Prior | None, prior_accepted: Prior | None
) -> Steps:
    """The steps of n tubelets; a score of -inf is never accepted. Prior counts are added to every step."""
    if not len(scores) == len(correct) == len(patients):
        sizes = f"{len(scores)}, {len(correct)}, {len(patients)}"
        raise LabelError(f"scores, correct and patients have lengths {sizes}; want one of each a tubelet")
    order, _ = ranking(scores)
    order = order[np.asarray(scores)[order] > -np.inf]
    ranked = np.asarray(scores, dtype=np.float64)[order]
    patient, before_c, before_n = _patients(
        np.asarray(patients)[order], prior_correct or {}, prior_accepted or {}
    )
    right = np.asarray(correct, dtype=bool)[order].astype(np.float64)
    c, n = _running(patient, right, before_c), _running(patient, np.ones(len(order)), before_n)
    # What the sums over patients gain when one patient's (c, n) becomes (c + right, n + 1).
    gains = (np.ones(len(order)), right, n == 0, right * (2 * c + 1), c + right * (n + 1), 2 * n + 1)
    starts = (before_n, before_c, before_n > 0, before_c**2, before_c * before_n, before_n**2)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])
    sums = [start.sum() + np.cumsum(gain)[last] for start, gain in zip(starts, gains, strict=True)]
    return Steps(ranked[last], *sums)


def _patients(patients: Array, prior_correct: Prior, prior_accepted: Prior) -> tuple[Array, Array, Array]:
    """(n,) code of each tubelet's patient; (p,) correct and accepted counts of earlier rounds."""
    if any(prior_accepted.get(patient, 0) < count for patient, count in prior_correct.items()):
        raise LabelError(
            "earlier rounds: a patient has more correct than accepted tubelets; want correct <= accepted"
        )
    everyone = np.concatenate([patients, np.array(list(prior_accepted))]) if prior_accepted else patients
    known, codes = np.unique(everyone, return_inverse=True)
    counts = [
        np.array([prior.get(patient, 0) for patient in known.tolist()], dtype=np.float64)
        for prior in (prior_correct, prior_accepted)
    ]
    return codes[: len(patients)], counts[0], counts[1]


def _running(group: Array, values: Array, start: Array) -> Array:
    """(n,) sum of the values before each one in its own group, from `start` (groups,)."""
    by_group = np.argsort(group, kind="stable")
    before = np.cumsum(values[by_group]) - values[by_group]
    size = np.bincount(group, minlength=len(start))
    first = np.cumsum(size) - size
    running = np.empty(len(group))
    filled = size > 0
    running[by_group] = before - np.repeat(before[first[filled]], size[filled])
    return running + start[group]


def _design_effect(steps: Steps) -> Array:
    """(t,) variance of correct / accepted over patients / binomial variance; 1 without errors, n for one patient."""
    p, m, n = steps.precision, steps.patients, np.maximum(steps.accepted, 1)
    spread = np.maximum(steps.cc - 2 * p * steps.cn + p**2 * steps.nn, 0.0)
    between = m / np.maximum(m - 1, 1) * spread / n**2
    binomial = p * (1 - p) / n
    effect = np.divide(between, binomial, out=np.ones_like(p), where=binomial > 0)
    return np.where(m == 1, n, effect)


def _assumed_effect(steps: Steps, correlation: float) -> Array:
    return np.maximum(1 + (steps.own_cluster - 1) * correlation, 1.0)


def _few_patients(steps: Steps, confidence: float) -> Array:
    """(t,) factor <= 1: the spread over few patients is itself poorly known (Student's t instead of a normal)."""
    by_tubelet = t.ppf(confidence, np.maximum(steps.accepted - 1, 1))
    by_patient = t.ppf(confidence, np.maximum(steps.patients - 1, 1))
    factor: Array = np.minimum((by_tubelet / by_patient) ** 2, 1.0)
    return factor
