"""Harvests beside the loop's own, with less: what each part is worth, measured in the same run.

A control takes the scores of the same rounds, the same certificate and the same target; it keeps its own harvest and
its own rehearsal, and certifies their union round by round, as the loop does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from harvester.certificate.selection import solve_choice
from harvester.config.settings import OperatingPointSettings
from harvester.labels import ledger as ledgers
from harvester.mining import calibration, candidates, fusion
from harvester.mining.fusion import Choice, choices
from harvester.records import ACCEPTED, PARTLY_MARKED
from harvester.results.truth import Judge, finite, harvested_table, with_round
from harvester.store.store import Store

Change = Callable[[pa.Table, int], pa.Table]


@dataclass(eq=False)
class Control:
    """One control: which choices it has, what it does to a round's scores, what it found so far."""

    tried: list[Choice]
    change: Change
    lesions: pa.Table
    rehearsed: pa.Table

    def add(self, k: int, scored: pa.Table, store: Store, judge: Judge) -> dict[str, Any]:
        """Harvest a round; counts, precision and recall of all so far, and the round's own threshold."""
        own, rules, manifest = judge.settings.operating_point, judge.settings.mining, store.manifest
        scored = self.change(scored, k)
        marks = ledgers.known_before(store.marks(), store.reviewed())
        known = ledgers.spread(marks, manifest)
        practice = calibration.rehearsal_candidates(scored, manifest, known, self.rehearsed, rules)
        targets = calibration.rehearsal_lesions(store.marks(), manifest)
        finds = calibration.clinical_finds(scored, marks, own.match_iou)
        choice = max(self.tried, key=lambda each: fusion.known_recall(practice, finds, len(targets), each))
        last = k + 1 == judge.settings.rounds
        point = solve_choice(practice, targets, self.rehearsed, choice, own, 1, last).point
        accepted = fusion.select(practice, choice, point.threshold)
        correct, _ = calibration.judge(accepted, targets, own.match_iou)
        self.rehearsed = pa.concat_tables(
            [self.rehearsed, accepted.append_column("correct", pa.array(correct))]
        )
        found = fusion.select(self._free(scored, known, store, judge), choice, point.threshold)
        self.lesions = pa.concat_tables([self.lesions, with_round(found, k)])
        return {
            "harvested": len(self.lesions),
            "threshold": finite(point.threshold),
            "precision_bound": finite(point.precision_bound),
            "reason": point.reason,
            **judge.harvest(self.lesions),
        }

    def _free(self, scored: pa.Table, known: pa.Table, store: Store, judge: Judge) -> pa.Table:
        """V_H's tubelets that touch no mark and nothing that this control found before."""
        before = ledgers.from_tubelets(self.lesions, "lesion", "harvested", 0, "", "")
        taken = ledgers.extend(ledgers.settled(known), ledgers.spread(before, store.manifest))
        partly = candidates.split_of(scored, store.manifest, *PARTLY_MARKED)
        return candidates.candidates(partly, taken, judge.settings.mining)


def controls(settings: OperatingPointSettings, seed: int) -> dict[str, Control]:
    """By name.

    lpg_alone     the generator's score alone. From round 1 on it is the generator that learnt from the full loop's
                  harvest; only round 0's owes the classifier nothing.
    lpc_shuffled  the loop with the classifier's scores dealt out at random: the certificate should leave nothing.
    """
    alone = [
        Choice(1.0, settings.lpg_floors[0], slices, 0.0, settings.small_mm) for slices in settings.min_slices
    ]
    mixed = [choice for choice in choices(settings) if choice.lpg_weight < 1]
    made = {"lpg_alone": (alone, _as_it_is)}
    if mixed:
        made["lpc_shuffled"] = (mixed, lambda scored, k: shuffled(scored, seed + k))
    return {
        name: Control(tried, change, harvested_table(), ACCEPTED.empty_table())
        for name, (tried, change) in made.items()
    }


def shuffled(scored: pa.Table, seed: int) -> pa.Table:
    """The table with its classifier scores dealt out at random."""
    order = np.random.default_rng(seed).permutation(len(scored))
    return scored.set_column(
        scored.column_names.index("lpc_score"), "lpc_score", scored["lpc_score"].take(order)
    )


def _as_it_is(scored: pa.Table, k: int) -> pa.Table:
    return scored
