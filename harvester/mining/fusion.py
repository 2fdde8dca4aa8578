"""One score from LPG and LPC: how they are mixed, and which tubelets take part."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.config.settings import OperatingPointSettings
from harvester.geometry import Array
from harvester.records import SELECTED, PooledTable, SelectedTable


@dataclass(frozen=True)
class ScoreFusion:
    """What Ray Tune searches: how LPG and LPC scores become one, and which tubelets take part.

    lpg_weight      share of the generator's logit in the score, the rest is the classifier's
    lpg_floor       tubelets below this generator score are dropped
    min_slices      shorter tubelets are dropped
    small_bonus     added to the logit of tubelets narrower than small_mm: a threshold of their own
    """

    lpg_weight: float
    lpg_floor: float
    min_slices: int
    small_bonus: float
    small_mm: float


EVEN: Final = ScoreFusion(lpg_weight=0.5, lpg_floor=0.0, min_slices=1, small_bonus=0.0, small_mm=0.0)
"""Both scores alike, all tubelets."""


def fusions(settings: OperatingPointSettings) -> list[ScoreFusion]:
    """Every combination that the settings name."""
    return [
        ScoreFusion(weight, floor, slices, bonus, settings.small_mm)
        for weight in settings.lpg_weights
        for floor in settings.lpg_floors
        for slices in settings.min_slices
        for bonus in settings.small_bonuses
    ]


def fuse(scored: PooledTable, choice: ScoreFusion) -> Array:
    """One score in (0, 1) per tubelet, float64 (n,); -inf for those that the choice drops."""
    lpg, lpc = (scored[name].to_numpy() for name in ("lpg_logit", "lpc_logit"))
    logit = choice.lpg_weight * lpg + (1 - choice.lpg_weight) * lpc
    logit = logit + choice.small_bonus * (scored["width_mm"].to_numpy() < choice.small_mm)
    slices = pc.list_value_length(scored["z"]).to_numpy()
    kept = (scored["lpg_score"].to_numpy() >= choice.lpg_floor) & (slices >= choice.min_slices)
    return np.where(kept, 1 / (1 + np.exp(-logit)), -np.inf)


def select(scored: PooledTable, choice: ScoreFusion, threshold: float) -> SelectedTable:
    """The tubelets whose fused score reaches the threshold, with that `score`, best first."""
    score = fuse(scored, choice)
    rows = np.flatnonzero(score >= threshold)
    rows = rows[np.argsort(-score[rows], kind="stable")]
    return SelectedTable(scored.take(rows).append_column("score", pa.array(score[rows])).select(SELECTED.names))


def known_recall(rivals: Array, known: Array, num_lesions: int) -> float:
    """Share of the tubelets on clinical marks that outscore V_H's candidates (rivals), 0 to 1, by their fused scores.

    The mean over thresholds that accept from a sixth to two thirds as many candidates as there are lesions to
    find among them: where operating points lie.
    """
    ranked = np.sort(rivals)[::-1]
    counts = np.arange(num_lesions // 6, 2 * num_lesions // 3)
    thresholds = ranked[counts[counts < len(ranked)]]
    found = np.sort(known)
    if not len(found) or not len(thresholds):
        return 0.0
    # A threshold of -inf (fewer candidates kept than counted) finds all that the choice itself keeps.
    first = np.searchsorted(found, np.maximum(thresholds, np.finfo(np.float64).min))
    return float(1 - first.mean() / len(found))
