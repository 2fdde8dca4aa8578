"""What a certificate rests on (Evidence), what it is asked for (Target), and what is accepted at each score (Steps)."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harvester.errors import LabelError, SettingsError
from harvester.evaluation.matching import ranking

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Tubelets of the calibration set that a threshold may accept. Raises LabelError for what cannot be ranked.

    scores, correct, patients  (n,) one per tubelet, n may be 0; a score of -inf is never accepted
    num_lesions                lesions that could be found
    """

    scores: Array
    correct: Array
    patients: Array
    num_lesions: int

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.correct) == len(self.patients):
            sizes = f"{len(self.scores)}, {len(self.correct)}, {len(self.patients)}"
            raise LabelError(f"scores, correct and patients have lengths {sizes}; want one of each per tubelet")
        ranking(self.scores)


@dataclass(frozen=True)
class Target:
    """A precision to be proven: with which confidence, on tubelets of at least how many patients."""

    precision: float
    confidence: float = 0.95
    min_patients: int = 3

    def __post_init__(self) -> None:
        for name in ("precision", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise SettingsError(f"{name} = {getattr(self, name)}: want a number between 0 and 1")
        if self.min_patients < 1:
            raise SettingsError(f"min_patients = {self.min_patients}: want at least 1")


@dataclass(frozen=True, eq=False)
class Steps:
    """What is accepted at each of t distinct scores, descending; (t,) each.

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

    def at(self, rows: Sequence[int]) -> "Steps":
        """Some of the steps."""
        return Steps(*(getattr(self, each.name)[list(rows)] for each in fields(self)))

    @property
    def precision(self) -> Array:
        """(t,) share of the accepted that is correct."""
        return self.correct / np.maximum(self.accepted, 1)

    @property
    def own_cluster(self) -> Array:
        """(t,) mean, over accepted tubelets, of the accepted tubelets of the same patient."""
        return self.nn / np.maximum(self.accepted, 1)


def steps_of(evidence: Evidence) -> Steps:
    """The steps of n tubelets; a score of -inf is never accepted."""
    order, _ = ranking(evidence.scores)
    order = order[np.asarray(evidence.scores)[order] > -np.inf]
    ranked = np.asarray(evidence.scores, dtype=np.float64)[order]
    _, patient = np.unique(np.asarray(evidence.patients)[order], return_inverse=True)
    right = np.asarray(evidence.correct, dtype=bool)[order].astype(np.float64)
    c, n = _running(patient, right), _running(patient, np.ones(len(order)))
    # What the sums over patients gain when one patient's (c, n) becomes (c + right, n + 1).
    gains = (np.ones(len(order)), right, n == 0, right * (2 * c + 1), c + right * (n + 1), 2 * n + 1)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])
    return Steps(ranked[last], *(np.cumsum(gain)[last] for gain in gains))


def _running(group: Array, values: Array) -> Array:
    """(n,) sum of the values before each one in its own group."""
    by_group = np.argsort(group, kind="stable")
    before = np.cumsum(values[by_group]) - values[by_group]
    size = np.bincount(group)
    running = np.empty(len(group))
    running[by_group] = before - np.repeat(before[np.cumsum(size) - size], size)
    return running
