"""One score from LPG, LPC and what else a tubelet shows: how they are weighed, and which tubelets take part."""

from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.config.settings import OperatingPointSettings
from harvester.geometry import Array
from harvester.mining.regression import Weights, cross_fitted, log_odds
from harvester.records import SELECTED, PooledTable, SelectedTable

FEATURES: Final = ("lpg_logit", "lpc_logit", "width", "elongation", "fading", "slices", "spread")
"""What a tubelet shows.

lpg_logit, lpc_logit  both scores (records.POOLED)
width, elongation     log2 of its width over 16 mm, and of its length over its width
fading                mean slice logit less the best one
slices                log2 of how many slices it is on
spread                how much rounds differ
"""
RISING: Final = (0, 1)
"""Features whose weight is not negative: a score does not speak against what it likes."""
NORMAL_MM: Final = 16.0
EVEN_WEIGHTS: Final[Weights] = ((0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0),)
"""Both scores alike, for every fold."""


@dataclass(frozen=True)
class ScoreFusion:
    """How a tubelet's features become one score, and which tubelets take part.

    weights     of the intercept and of FEATURES, a row per fold of patients, or one for all
    lpg_floor   tubelets below this generator score are dropped
    min_slices  shorter tubelets are dropped
    """

    weights: Weights = EVEN_WEIGHTS
    lpg_floor: float = 0.0
    min_slices: int = 1

    @property
    def is_fitted(self) -> bool:
        """Whether its score is a probability."""
        return len(self.weights) > 1

    def told(self) -> dict[str, int | float]:
        """In flat figures; the weights are the means over folds."""
        mean = np.mean(self.weights, axis=0).tolist()
        gates = {"lpg_floor": self.lpg_floor, "min_slices": self.min_slices}
        return gates | dict(zip(("intercept", *FEATURES), mean, strict=True))


EVEN: Final = ScoreFusion()
"""Both scores alike, all tubelets."""


def fusions(settings: OperatingPointSettings, weights: Weights = EVEN_WEIGHTS) -> list[ScoreFusion]:
    """Every combination that the settings name: what Ray Tune compares."""
    return [ScoreFusion(weights, *gates) for gates in product(settings.lpg_floors, settings.min_slices)]


def fitted_weights(candidates: PooledTable, correct: Array, folds: int) -> Weights:
    """A row of weights per fold, each fitted on V_M's patients of the other folds; EVEN_WEIGHTS if those are too few.

    candidates  V_M's, (n,); correct (n,) bool: which find a lesion
    """
    fold = candidates["fold"].to_numpy()
    return cross_fitted(features(candidates), correct, fold, folds, RISING) or EVEN_WEIGHTS


def features(tubelets: PooledTable) -> Array:
    """(n, 7) float64: FEATURES."""
    slices = pc.list_value_length(tubelets["z"]).to_numpy()
    row = np.repeat(np.arange(len(slices)), slices)
    odds = log_odds(pc.list_flatten(tubelets["slice_score"]).to_numpy().astype(np.float64))
    best = np.full(len(slices), -np.inf)
    np.maximum.at(best, row, odds)
    mean = np.bincount(row, odds, len(slices)) / np.maximum(slices, 1)
    width, length = (np.maximum(tubelets[name].to_numpy(), 0.1) for name in ("width_mm", "length_mm"))
    shape = (np.log2(width / NORMAL_MM), np.log2(length / width), mean - best, np.log2(np.maximum(slices, 1)))
    lpg, lpc, spread = (tubelets[name].to_numpy() for name in ("lpg_logit", "lpc_logit", "spread"))
    return np.stack([lpg, lpc, *shape, spread], axis=1)


def fuse(tubelets: PooledTable, choice: ScoreFusion) -> Array:
    """One score in (0, 1) per tubelet, float64 (n,); -inf for those that the choice drops.

    A patient is scored by the weights of its fold, which were fitted without it, in V_H as in V_M.
    """
    table = np.array(choice.weights)
    own = table[tubelets["fold"].to_numpy() if choice.is_fitted else np.zeros(len(tubelets), int)]
    logit = own[:, 0].copy()
    for column, values in enumerate(features(tubelets).T, start=1):  # in this order whatever n is: bit for bit the same
        logit += own[:, column] * values
    slices = pc.list_value_length(tubelets["z"]).to_numpy()
    kept = (tubelets["lpg_score"].to_numpy() >= choice.lpg_floor) & (slices >= choice.min_slices)
    return np.where(kept, 1 / (1 + np.exp(-logit)), -np.inf)


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
