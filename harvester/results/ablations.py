"""Ablations: harvests beside the loop's own, with less: what each part is worth, measured in the same run.

An ablation takes the scores of the same rounds, the same certificate and the same target, and selects anew in every
round, as the loop does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from harvester.certificate.operating_point import OperatingPoint
from harvester.certificate.selection import Calibration, nothing_scored, select_point
from harvester.config.settings import OperatingPointSettings
from harvester.mining.fusion import ScoreFusion, fusions
from harvester.mining.round_view import RoundView
from harvester.records import ManifestTable, ScoredTable, SelectedTable
from harvester.results.truth import TruthEvaluator, finite, harvested_table, with_round
from harvester.run.summary import AblationResult

Change = Callable[[ScoredTable, int], ScoredTable]


@dataclass(frozen=True, eq=False)
class Ablation:
    """What it does to a round's scores, whether it fuses them in its own way, its last round's list and point, and
    among which volumes that is; None: all."""

    change: Change
    own_way: bool
    lesions: SelectedTable
    point: OperatingPoint
    among: ManifestTable | None = None

    def after(self, k: int, view: RoundView, loops: ScoreFusion) -> "Ablation":
        """With its own list of a round in place of the one before. loops: how the loop fuses the scores."""
        rounds = tuple(self.change(table, j) for j, table in enumerate(view.rounds))
        view = replace(view, rounds=rounds, sweep=None)  # of a large V_H the sample
        calibration = Calibration.of(view)
        own = fusions(view.settings.operating_point) if self.own_way else [loops]
        fusion = max(own, key=calibration.known_recall)
        point = select_point(calibration, fusion, view.settings.operating_point).point
        lesions = with_round(view.harvested(fusion, point.threshold), k)
        return replace(self, lesions=lesions, point=point, among=view.store.manifest)

    def result(self, truth: TruthEvaluator) -> AblationResult:
        """Precision and recall of its list, and the threshold."""
        return AblationResult(
            harvested=len(self.lesions),
            threshold=finite(self.point.threshold),
            precision_bound=finite(self.point.precision_bound),
            reason=self.point.reason,
            **truth.harvest(self.lesions, self.among).model_dump(),
        )


def ablation(settings: OperatingPointSettings, change: Change, own_way: bool = True) -> Ablation:
    """One that has harvested nothing yet."""
    none = nothing_scored(settings, "no round was scored").point
    return Ablation(change, own_way, harvested_table(), none)


def ablations(settings: OperatingPointSettings, seed: int) -> dict[str, Ablation]:
    """By name.

    lpg_alone     the generator's score in place of the classifier's, fused anew. From round 1 on it is the generator
                  that learnt from the full loop's harvest; only round 0's owes the classifier nothing.
    lpc_shuffled  the loop, its scores fused as they are there, with the classifier's dealt out at random, a
                  permutation control: the certificate should leave nothing, as far as the classifier has a say.
    """
    return {
        "lpg_alone": ablation(settings, lambda scored, k: generators(scored)),
        "lpc_shuffled": ablation(settings, lambda scored, k: shuffled(scored, seed + k), own_way=False),
    }


def generators(scored: ScoredTable) -> ScoredTable:
    """The table with the generator's scores for both."""
    at = scored.column_names.index("lpc_score")
    return ScoredTable(scored.set_column(at, "lpc_score", scored["lpg_score"]))


def shuffled(scored: ScoredTable, seed: int) -> ScoredTable:
    """The table with its classifier scores dealt out at random."""
    order = np.random.default_rng(seed).permutation(len(scored))
    at = scored.column_names.index("lpc_score")
    return ScoredTable(scored.set_column(at, "lpc_score", scored["lpc_score"].take(order)))
