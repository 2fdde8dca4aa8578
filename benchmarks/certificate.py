"""Does the certificate keep its promise? Archives of known truth are drawn and harvested at 0.90 and 95 % confidence.

    python benchmarks/certificate.py [--quick] [--archives 400] [--only WORD] [--json FILE]

The kinds of archives are in certificate_archives.py. The operating point is chosen on the V_M of one archive and judged
on a V_H of 20,000 volumes of the same kind, so that "realised precision" is next to free of chance. Printed for each
rule: how often the realised precision is below 0.90 (with its 95 % interval), the recall it harvests, how often it
harvests nothing; and how often V_M and a V_H of four times its patients are told apart without labels, of archives that
are harvested (5 %, where they are alike).

Rules: `naive`, the lowest threshold whose plain precision on V_M is 0.90 (what the paper's choice amounts to);
`binomial`, the lowest whose Clopper-Pearson bound holds, tubelets taken as independent and the search as free;
`no cap`, the engine's last round if it harvested all that reaches its threshold; `certified`, the engine's last round:
of no patient more than V_M's fullest gave. `two rounds` adds a second round with better scores, certified on the union,
the first one being asked for 0.95 or 0.93 where that can be met; `greedy` asks both for 0.90.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from certificate_archives import KINDS, Array, Drawn, Kind
from scipy.stats import beta, rankdata

from harvester.certificate.evidence import Earlier, Evidence, Steps, Target, steps_of
from harvester.certificate.operating_point import solve
from harvester.certificate.permutation import permuted

TARGET, EARLY_TARGETS, CONFIDENCE = 0.90, (0.95, 0.93), 0.95
LOW = -1.0
"""No threshold lies near it, nor what a threshold is chosen by."""
TESTED = 25
"""Archives of a kind, at most, whose V_H is compared with V_M: the tests permute."""
UNLIKE = 0.05
"""A p below it is told."""
Cut = tuple[float, float]
"""A round's threshold, and how many of one patient are harvested at most after it."""


def chosen(drawn: Drawn) -> dict[str, list[Cut]]:
    """Each rule's rounds."""
    evidence = Evidence(drawn.scores[0], drawn.correct, drawn.patients, drawn.lesions)
    greedy = rounds(drawn, ())
    rules = {
        "naive": [(lowest(evidence, lambda steps: steps.precision), np.inf)],
        "binomial": [(lowest(evidence, binomial), np.inf)],
        "no cap": [(greedy[0][0], np.inf)],
        "certified": greedy[:1],
    }
    if len(drawn.scores) > 1:
        rules |= {"two rounds, greedy": greedy, "two rounds": rounds(drawn, EARLY_TARGETS)}
    return rules


def lowest(evidence: Evidence, figure: Callable[[Steps], Array]) -> float:
    """The lowest threshold at which a figure, which does not exceed the plain precision, reaches the target."""
    steps = steps_of(evidence)
    steps = steps.at(np.flatnonzero(steps.precision >= TARGET).tolist())
    reached = steps.scores[figure(steps) >= TARGET]
    return float(reached[-1]) if len(reached) else np.inf


def binomial(steps: Steps) -> Array:
    """The plain Clopper-Pearson bound."""
    return beta.ppf(1 - CONFIDENCE, np.maximum(steps.correct, 1e-9), steps.accepted - steps.correct + 1)


def rounds(drawn: Drawn, early_targets: tuple[float, ...]) -> list[Cut]:
    """The engine's: every round but the last at the first early target that can be met, certified on the union."""
    taken, cuts = np.zeros(len(drawn.correct), bool), []
    for k, scores in enumerate(drawn.scores):
        asked = (*(early_targets if k + 1 < len(drawn.scores) else ()), TARGET)
        counts = [Counter(drawn.patients[rows].tolist()) for rows in (taken & drawn.correct, taken)]
        rest = (scores[~taken], drawn.correct[~taken], drawn.patients[~taken], drawn.lesions)
        tried = (solve(Evidence(*rest, Earlier(*counts)), Target(each, CONFIDENCE)).threshold for each in asked)
        threshold = next((each for each in tried if np.isfinite(each)), np.inf)
        taken |= scores >= threshold
        cuts.append((threshold, int(np.bincount(drawn.patients[taken], minlength=1).max())))
    return cuts


class Harvested:
    """A V_H, sorted by patient, without what is too low for any threshold."""

    def __init__(self, drawn: Drawn, floor: float) -> None:
        order = np.lexsort((-drawn.scores[0], drawn.patients))
        order = order[np.max([scores[order] for scores in drawn.scores], axis=0) >= floor]
        self.scores = [scores[order] for scores in drawn.scores]
        self.correct, self.patients, self.lesions = drawn.correct[order], drawn.patients[order], drawn.lesions

    def realised(self, cuts: list[Cut]) -> tuple[float, float]:
        """Precision (nan if nothing is harvested) and recall at the cuts of rounds."""
        taken = np.zeros(len(self.correct), bool)
        for scores, (threshold, most) in zip(self.scores, cuts, strict=False):
            rows = np.flatnonzero((scores >= threshold) & ~taken)
            if np.isfinite(most) and scores is not self.scores[0]:  # by the first score they are sorted
                rows = rows[np.lexsort((-scores[rows], self.patients[rows]))]
            patients = self.patients[rows]
            begins = np.flatnonzero(np.diff(patients, prepend=-1))
            place = np.arange(len(rows)) - np.repeat(begins, np.diff(np.append(begins, len(rows))))
            before = np.bincount(self.patients[taken], minlength=self.patients[-1] + 1)[patients]
            taken[rows[place + before < most]] = True
        right = self.correct[taken]
        return (float(right.mean()) if len(right) else np.nan), float(right.sum() / self.lesions)


def simulate(kind: Kind, archives: int, seed: int) -> dict[str, Any]:
    """Violations, recall and refusals of each rule over many archives of one kind."""
    rng = np.random.default_rng(seed)
    vh = Harvested(kind.draw(rng, harvested=True), floor=0.0)
    found: dict[str, list[tuple[float, float]]] = {}
    unlike = []
    for number in range(archives):
        drawn = kind.draw(rng)
        rules = chosen(drawn.above(LOW))
        for rule, cuts in rules.items():
            found.setdefault(rule, []).append(vh.realised(cuts))
        if number < TESTED and not np.isnan(found["certified"][-1][0]):
            unlike.append(told_unlike(drawn, kind.draw(rng, True, 4), rules["certified"][0][0]))
    return {
        "kind": repr(kind),
        "archives": archives,
        "told": float(np.mean(unlike)) if unlike else None,
        "rules": {rule: outcome(each) for rule, each in found.items()},
    }


def told_unlike(vm: Drawn, vh: Drawn, threshold: float) -> bool:
    """Whether V_M and V_H are told apart, without labels."""
    percentile = np.split(rankdata(np.concatenate([vm.scores[0], vh.scores[0]])), [len(vm.correct)])
    sides = [_aspects(*each, threshold) for each in zip((vm, vh), percentile, strict=True)]
    sums, weights = (np.concatenate(each) for each in zip(*sides, strict=True))
    return bool(permuted(sums, weights, np.arange(len(sums)) < len(sides[0][0]), 0)[0] < UNLIKE)


def _aspects(drawn: Drawn, percentile: Array, threshold: float) -> tuple[Array, Array]:
    """(patients, a) sums and weights: accepted per patient, mean percentile of scores; of marks, where drawn."""
    of = drawn.patients
    accepted, ranked, kept = (np.bincount(of, each) for each in (drawn.scores[0] >= threshold, percentile, of >= 0))
    sums, weights = [accepted, ranked], [np.ones(len(kept)), kept]
    if drawn.marking is not None:
        volumes, marks, sizes = drawn.marking[: len(kept)].T
        sums, weights = [*sums, marks, sizes], [*weights, volumes, marks]
    return np.column_stack(sums), np.column_stack(weights)


def outcome(outcomes: list[tuple[float, float]]) -> dict[str, Any]:
    """A rule's harvests in numbers."""
    precision, recall = np.array(outcomes).T
    broken, n = int(np.sum(precision < TARGET)), len(outcomes)
    low, high = beta.ppf(0.025, broken, n - broken + 1), beta.ppf(0.975, broken + 1, n - broken)
    return {
        "violations": broken / n,
        "violations_interval": [float(low) if broken else 0.0, float(high) if broken < n else 1.0],
        "recall": float(recall.mean()),
        "harvests_nothing": float(np.isnan(precision).mean()),
        "median_precision": float(np.nanmedian(precision)) if not np.isnan(precision).all() else None,
    }


def main() -> int:
    """Simulate every kind and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=int, default=400, help="archives drawn of a kind")
    parser.add_argument("--quick", action="store_true", help="60 of them")
    parser.add_argument("--only", default="", metavar="WORD", help="kinds whose name has it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    print(f"{'':40s}{'rule':20s}{'below 0.90':>12s}{'95 % interval':>18s}{'recall':>8s}{'nothing':>9s}")
    for name in (each for each in KINDS if options.only in each):
        began = time.monotonic()
        results[name] = simulate(KINDS[name], 60 if options.quick else options.archives, options.seed)
        for rule, row in results[name]["rules"].items():
            low, high = row["violations_interval"]
            print(
                f"{name if rule == 'naive' else '':40s}{rule:20s}{row['violations']:12.1%}"
                f"{f'{low:.1%} to {high:.1%}':>18s}{row['recall']:8.3f}{row['harvests_nothing']:9.1%}"
            )
        unlike = "" if results[name]["told"] is None else f"told apart from V_M: {results[name]['told']:.0%}; "
        print(f"{'':40s}({unlike}{time.monotonic() - began:.0f} s)", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
