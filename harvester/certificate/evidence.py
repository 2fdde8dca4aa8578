"""What a certificate rests on (Evidence), what it is asked for (Target), and what is accepted at each score (Steps)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harvester.errors import LabelError, SettingsError
from harvester.evaluation.matching import ranking

Array = NDArray[Any]


@dataclass(frozen=True)
class Earlier:
    """What earlier rounds accepted, by patient: all tubelets, and the correct ones among them."""

    correct: Mapping[Any, int] = field(default_factory=dict)
    accepted: Mapping[Any, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(self.accepted.get(patient, 0) < count for patient, count in self.correct.items()):
            raise LabelError(
                "earlier rounds: a patient has more correct than accepted tubelets; want correct <= accepted"
            )


@dataclass(frozen=True, eq=False)
class Evidence:
    """Tubelets of the calibration set that a threshold may accept. Raises LabelError for what cannot be ranked.

    scores, correct, patients  (n,) one per tubelet, n may be 0; a score of -inf is never accepted
    num_lesions                lesions that could be found
    earlier                    the promise is on the union with what earlier rounds accepted
    """

    scores: Array
    correct: Array
    patients: Array
    num_lesions: int
    earlier: Earlier = field(default_factory=Earlier)

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
    """The steps of n tubelets; a score of -inf is never accepted. Earlier counts are added to every step."""
    order, _ = ranking(evidence.scores)
    order = order[np.asarray(evidence.scores)[order] > -np.inf]
    ranked = np.asarray(evidence.scores, dtype=np.float64)[order]
    patient, before_c, before_n = _patients(np.asarray(evidence.patients)[order], evidence.earlier)
    right = np.asarray(evidence.correct, dtype=bool)[order].astype(np.float64)
    c, n = _running(patient, right, before_c), _running(patient, np.ones(len(order)), before_n)
    # What the sums over patients gain when one patient's (c, n) becomes (c + right, n + 1).
    gains = (np.ones(len(order)), right, n == 0, right * (2 * c + 1), c + right * (n + 1), 2 * n + 1)
    starts = (before_n, before_c, before_n > 0, before_c**2, before_c * before_n, before_n**2)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])
    sums = [start.sum() + np.cumsum(gain)[last] for start, gain in zip(starts, gains, strict=True)]
    return Steps(ranked[last], *sums)


def _patients(patients: Array, earlier: Earlier) -> tuple[Array, Array, Array]:
    """(n,) code of each tubelet's patient; (p,) correct and accepted counts of earlier rounds."""
    everyone = np.concatenate([patients, np.array(list(earlier.accepted))]) if earlier.accepted else patients
    known, codes = np.unique(everyone, return_inverse=True)
    counts = [
        np.array([prior.get(patient, 0) for patient in known.tolist()], dtype=np.float64)
        for prior in (earlier.correct, earlier.accepted)
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
