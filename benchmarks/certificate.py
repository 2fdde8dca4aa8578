"""Does the certificate keep its promise? Archives of known truth are drawn and harvested at 0.90 and 95 % confidence.

    python benchmarks/certificate.py [--quick] [--archives 400] [--only WORD] [--json FILE]

The kinds of archives are in certificate_archives.py. The operating point is chosen on the V_M of one archive and judged
on a V_H of 20,000 volumes of the same kind, so that "realised precision" is next to free of chance. Printed for each
rule: how often the realised precision is below 0.90 (with its 95 % interval), the recall it harvests, how often it
harvests nothing; and how often V_M and a V_H of four times its patients are told apart without labels, of archives that
are harvested (5 %, where they are alike).

Rules: `naive`, the lowest threshold whose plain precision on V_M is 0.90 (what the paper's choice amounts to);
`binomial`, the lowest whose Clopper-Pearson bound holds, tubelets taken as independent and the search as free;
`no cap`, the engine's first round if it harvested all that reaches its threshold; `certified`, the engine's: of no
patient more than V_M's fullest gave. `two rounds` selects anew after a second look with better scores, by the mean of
both (mining/bank.py), and claims that list alone, as the engine does. `first certified` stops at the
first round that certifies anything, which lets V_M's labels say which round is the last: what the engine must not do.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from certificate_archives import KINDS, Array, Drawn, Kind
from scipy.stats import beta, rankdata

from harvester.certificate.evidence import Evidence, Steps, Target, steps_of
from harvester.certificate.operating_point import solve
from harvester.certificate.permutation import permuted

TARGET, CONFIDENCE = 0.90, 0.95
LOW = -1.0
"""No threshold lies near it, nor what a threshold is chosen by."""
TESTED = 25
"""Archives of a kind, at most, whose V_H is compared with V_M: the tests permute."""
UNLIKE = 0.05
"""A p below it is told."""
Cut = tuple[float, float]
"""A threshold, and how many of one patient are harvested at most."""


Choice = tuple[int, Cut]
"""How many rounds a list is selected from, and where it is cut."""


def chosen(drawn: Drawn) -> dict[str, Choice]:
    """Each rule's list."""
    evidence = evidence_of(drawn)
    first = certified(drawn)
    rules = {
        "naive": (1, (lowest(evidence, lambda steps: steps.precision), np.inf)),
        "binomial": (1, (lowest(evidence, binomial), np.inf)),
        "no cap": (1, (first[0], np.inf)),
        "certified": (1, first),
    }
    if len(drawn.scores) > 1:
        rules["two rounds"] = 2, certified(drawn.pooled())
        rules["first certified"] = rules["certified" if np.isfinite(first[0]) else "two rounds"]
    return rules


def evidence_of(drawn: Drawn) -> Evidence:
    """V_M by the first round's scores."""
    return Evidence(drawn.scores[0], drawn.correct, drawn.patients, drawn.lesions)


def lowest(evidence: Evidence, figure: Callable[[Steps], Array]) -> float:
    """The lowest threshold at which a figure, which does not exceed the plain precision, reaches the target."""
    steps = steps_of(evidence)
    steps = steps.at(np.flatnonzero(steps.precision >= TARGET).tolist())
    reached = steps.scores[figure(steps) >= TARGET]
    return float(reached[-1]) if len(reached) else np.inf


def binomial(steps: Steps) -> Array:
    """The plain Clopper-Pearson bound."""
    return beta.ppf(1 - CONFIDENCE, np.maximum(steps.correct, 1e-9), steps.accepted - steps.correct + 1)


def certified(drawn: Drawn) -> Cut:
    """The engine's, by the first scores."""
    threshold = solve(evidence_of(drawn), Target(TARGET, CONFIDENCE)).threshold
    taken = drawn.scores[0] >= threshold
    return threshold, int(np.bincount(drawn.patients[taken], minlength=1).max())


class Harvested:
    """A V_H by its first scores, sorted by patient and score, without what is too low for any threshold."""

    def __init__(self, drawn: Drawn, floor: float) -> None:
        order = np.lexsort((-drawn.scores[0], drawn.patients))
        order = order[drawn.scores[0][order] >= floor]
        self.scores, self.lesions = drawn.scores[0][order], drawn.lesions
        self.correct, self.patients = drawn.correct[order], drawn.patients[order]

    def realised(self, cut: Cut) -> tuple[float, float]:
        """Precision (nan if nothing is harvested) and recall at the cut."""
        threshold, most = cut
        rows = np.flatnonzero(self.scores >= threshold)
        begins = np.flatnonzero(np.diff(self.patients[rows], prepend=-1))
        place = np.arange(len(rows)) - np.repeat(begins, np.diff(np.append(begins, len(rows))))
        right = self.correct[rows[place < most]]
        return (float(right.mean()) if len(right) else np.nan), float(right.sum() / self.lesions)


def simulate(kind: Kind, archives: int, seed: int) -> dict[str, Any]:
    """Violations, recall and refusals of each rule over many archives of one kind."""
    rng = np.random.default_rng(seed)
    drawn_vh = kind.draw(rng, harvested=True)
    vh = {1: Harvested(drawn_vh, floor=0.0), 2: Harvested(drawn_vh.pooled(), floor=0.0)}
    found: dict[str, list[tuple[float, float]]] = {}
    unlike = []
    for number in range(archives):
        drawn = kind.draw(rng)
        rules = chosen(drawn.above(LOW))
        own = Harvested(drawn.own_vh, floor=LOW) if drawn.own_vh else None
        for rule, (looks, cut) in rules.items():
            found.setdefault(rule, []).append((own or vh[looks]).realised(cut))
        if number < TESTED and not np.isnan(found["certified"][-1][0]):
            unlike.append(told_unlike(drawn, drawn.own_vh or kind.draw(rng, True, 4), rules["certified"][1][0]))
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
