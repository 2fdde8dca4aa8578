"""One score from LPG and LPC: how they are weighed, and which tubelets take part."""

from dataclasses import asdict, dataclass
from itertools import product
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import expit

from harvester.config.settings import OperatingPointSettings
from harvester.geometry import Array
from harvester.records import SELECTED, PooledTable, SelectedTable


@dataclass(frozen=True)
class ScoreFusion:
    """How both scores become one, and which tubelets take part.

    lpg_weight  share of the generator's logit; the classifier's has the rest
    lpg_floor   tubelets below this generator score are dropped
    min_slices  shorter tubelets are dropped
    """

    lpg_weight: float = 0.5
    lpg_floor: float = 0.0
    min_slices: int = 1

    def told(self) -> dict[str, int | float]:
        """In flat figures."""
        return asdict(self)


EVEN: Final = ScoreFusion()
"""Both scores alike, all tubelets."""


def fusions(settings: OperatingPointSettings) -> list[ScoreFusion]:
    """Every combination that the settings name: what Ray Tune compares."""
    return [ScoreFusion(*each) for each in product(settings.lpg_weights, settings.lpg_floors, settings.min_slices)]


def fuse(tubelets: PooledTable, choice: ScoreFusion) -> Array:
    """One score in (0, 1) per tubelet, float64 (n,); -inf for those that the choice drops."""
    lpg, lpc = (tubelets[name].to_numpy() for name in ("lpg_logit", "lpc_logit"))
    slices = pc.list_value_length(tubelets["z"]).to_numpy()
    kept = (tubelets["lpg_score"].to_numpy() >= choice.lpg_floor) & (slices >= choice.min_slices)
    return np.where(kept, expit(choice.lpg_weight * lpg + (1 - choice.lpg_weight) * lpc), -np.inf)


def select(tubelets: PooledTable, choice: ScoreFusion, threshold: float) -> SelectedTable:
    """The tubelets whose fused score reaches the threshold, with that `score`, best first."""
    score = fuse(tubelets, choice)
    rows = np.flatnonzero(score >= threshold)
    rows = rows[np.argsort(-score[rows], kind="stable")]
    return SelectedTable(tubelets.take(rows).append_column("score", pa.array(score[rows])).select(SELECTED.names))


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
