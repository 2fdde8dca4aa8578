"""The lowest score threshold whose precision can be proven, although many thresholds are looked at.

Thresholds are tested from the highest down and the first failure ends the sequence (fixed-sequence testing, the
form of Learn then Test for nested sets; Angelopoulos et al. 2021): a wrong certificate needs its first false
threshold to pass, so all of them together err no more often than one test does. Where the sequence begins and
its steps come from the counts of accepted tubelets alone, never from what is right or wrong among them.

A sequence that fails at its first step would throw away what later steps could prove. So it begins twice, the
level being shared out (fallback procedure; Wiens 2003): FIRST_SHARE of it where an errorless set becomes
provable, the rest where as many tubelets are accepted as a third of the lesions; a passed step hands its level on.

What the bound itself takes for granted: patients are independent draws from those who will be harvested, and V_H
is not harder than V_M. Simulated and measured by benchmarks/certificate.py; docs/decisions/0006.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from harvester.certificate.evidence import Array, Evidence, Steps, Target, steps_of
from harvester.certificate.precision_bound import (
    correlation_within_patients,
    effective_counts,
    fewest_patients,
    lower_bounds,
)

FIRST_SHARE: Final = 0.25
"""Share of the level that the sequence begins with."""
SECOND_START: Final = 1 / 3
"""It begins again at this share of the lesions: an engine worth its name is still right there."""
STEP: Final = 1.05
"""Each threshold tested accepts this many times the tubelets of the one before."""


@dataclass(frozen=True)
class OperatingPoint:
    """Where to cut. What is certified is the target, no more.

    threshold           accept score >= threshold; inf if nothing qualifies
    precision_bound     lower bound at this threshold, not corrected for the search that ended there: it exceeds the
                        truth more often than it says. Without a threshold, the best that any reached
    precision_estimate  share of the accepted that are correct, 0 without a threshold
    recall_estimate     correct ones / lesions, 0 without a threshold or without lesions
    accepted, patients  tubelets accepted and patients they come from, 0 without a threshold
    reason              why nothing is certified; '' when certified
    """

    threshold: float
    precision_bound: float
    precision_estimate: float
    recall_estimate: float
    accepted: int
    patients: int
    reason: str


def solve(evidence: Evidence, target: Target) -> OperatingPoint:
    """The last threshold of the sequence whose precision bound reaches the target; ties go together.

    No tubelets: nothing is certified.
    """
    every = steps_of(evidence)
    correlation = correlation_within_patients(every, target.precision)
    steps = every.at(_tested(every, target.min_patients))
    shares = (FIRST_SHARE, 1 - FIRST_SHARE, 1.0)
    bounds = {share: lower_bounds(steps, correlation, 1 - (1 - target.confidence) * share) for share in shares}
    begins = _begins(steps, correlation, evidence.num_lesions, target)
    share, proven = 0.0, None
    for row in range(len(steps.scores)):
        share += begins.get(row, 0.0)
        if share and bounds[share][row] >= target.precision:
            proven = row, float(bounds[share][row])
        else:
            share = 0.0
    if proven:
        return _point(steps, proven[1], proven[0], evidence.num_lesions, "")
    return refused(float(bounds[1.0].max(initial=0.0)), _why_not(every, steps, bounds[1.0], target))


def naive(evidence: Evidence, target: Target) -> OperatingPoint:
    """What the point estimate alone would choose: the lowest one whose plain precision reaches the target.

    For comparison; its `precision_bound` is the bound at that threshold and `reason` says if it falls short.
    """
    steps, wanted = steps_of(evidence), target.precision
    bounds = lower_bounds(steps, correlation_within_patients(steps, wanted), target.confidence)
    reached = np.flatnonzero(steps.precision >= wanted)
    if not len(reached):
        best = float(steps.precision.max(initial=0.0))
        return refused(float(bounds.max(initial=0.0)), f"best precision {best:.3f}, target {wanted:.3f}: no threshold")
    last = int(reached[-1])
    short = f"not proven: bound {bounds[last]:.3f} below target {wanted:.3f}"
    reason = "" if bounds[last] >= wanted else short
    return _point(steps, float(bounds[last]), last, evidence.num_lesions, reason)


def _tested(steps: Steps, min_patients: int) -> list[int]:
    """The steps in the sequence, of enough patients: one for each STEP-fold of the accepted count, and the last."""
    fold = np.floor(np.log(np.maximum(steps.accepted, 1)) / np.log(STEP) + 1e-9)
    _, rows = np.unique(fold, return_index=True)
    every = {*rows.tolist(), *([len(fold) - 1] if len(fold) else [])}
    return sorted(row for row in every if steps.patients[row] >= min_patients)


def _begins(steps: Steps, correlation: float, num_lesions: int, target: Target) -> dict[int, float]:
    """Where in the tested steps the sequence begins, with which shares of the level; {} if nothing can be proven."""

    def provable(share: float, accepted: float = 0.0) -> int | None:
        level = (1 - target.confidence) * share
        worth = effective_counts(steps, correlation, 1 - level)
        enough = (worth >= np.log(level) / np.log(target.precision)) & (steps.accepted >= accepted)
        return int(enough.argmax()) if enough.any() else None

    early, late = provable(FIRST_SHARE), provable(1.0)
    if late is None:
        return {}
    late = provable(1.0, SECOND_START * num_lesions) or late
    return {late: 1.0} if early is None or early >= late else {early: FIRST_SHARE, late: 1 - FIRST_SHARE}


def _point(steps: Steps, bound: float, last: int, num_lesions: int, reason: str) -> OperatingPoint:
    return OperatingPoint(
        threshold=float(steps.scores[last]),
        precision_bound=bound,
        precision_estimate=float(steps.precision[last]),
        recall_estimate=float(steps.correct[last] / num_lesions) if num_lesions else 0.0,
        accepted=int(steps.accepted[last]),
        patients=int(steps.patients[last]),
        reason=reason,
    )


def refused(best_bound: float, reason: str) -> OperatingPoint:
    """No threshold, and the reason."""
    return OperatingPoint(np.inf, best_bound, 0.0, 0.0, 0, 0, reason)


def _why_not(every: Steps, steps: Steps, bounds: Array, target: Target) -> str:
    """In words; `steps` are those tested, `bounds` theirs at the full confidence."""
    wanted = target.precision
    if not len(every.scores):
        return "the models propose nothing in V_M"
    tried, right, patients = (int(count[-1]) for count in (every.accepted, every.correct, every.patients))
    if right == 0:
        return f"all {tried} proposals in V_M are wrong"
    if not len(steps.scores):
        return f"too few patients: all {tried} proposals are of {patients}, min_patients asks for {target.min_patients}"
    best = int(bounds.argmax())
    worth = effective_counts(steps, correlation_within_patients(every, wanted), target.confidence)[best]
    told = [
        f"V_M does not prove a precision of {wanted:.3f}, at best {bounds.max():.3f} ({target.confidence:.1%} "
        f"confidence): by {int(steps.accepted[best])} finds of {int(steps.patients[best])} patients, worth {worth:.0f} "
        "independent ones"
    ]
    fewest = fewest_patients(wanted, target.confidence)
    if patients < fewest:
        told.append(f"fewer than {fewest} patients prove nothing")
    if (bounds >= wanted).any():
        told.append("not at the top of the ranking, where the search begins, and further down does not count")
    return "; ".join([*told, _point_estimate(every, wanted)])


def _point_estimate(steps: Steps, target: float) -> str:
    reached = np.flatnonzero(steps.precision >= target)
    if not len(reached):
        return f"as counted no list is that precise, at best {steps.precision.max():.3f}"
    last = int(reached[-1])
    return f"as counted, without a proof, {int(steps.accepted[last])} finds are {steps.precision[last]:.3f} right"
