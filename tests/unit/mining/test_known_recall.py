"""What Ray Tune's trials compare: the rank of known lesions, and nothing hidden."""

import numpy as np
import pytest
from numpy.typing import NDArray

from harvester.mining.fusion import ScoreFusion, fuse, known_recall
from harvester.records import PooledTable
from tests.builders import pooled, tubelet


def recalled(candidates: PooledTable, known: PooledTable, lesions: int, choice: ScoreFusion) -> float:
    return known_recall(fuse(candidates, choice), fuse(known, choice), lesions)


def proposals(lpg: NDArray[np.float64], lpc: NDArray[np.float64]) -> PooledTable:
    rows = zip(lpg, lpc, strict=True)
    return pooled(*(tubelet("v", (0, 0, 9, 9), [0], lpg_score=float(a), lpc_score=float(b)) for a, b in rows))


def test_known_recall_is_the_mean_share_above_the_candidates() -> None:
    candidates, known = np.linspace(0.2, 0.9, 30), np.array([0.95, 0.86, 0.85, 0.3])
    given = (proposals(candidates, candidates), proposals(known, known), 12)
    ranked = np.sort(candidates)[::-1]
    slow = np.mean([np.mean(known >= ranked[count]) for count in range(2, 8)])
    assert recalled(*given, ScoreFusion(1.0, 0.1)) == pytest.approx(slow)
    assert 0.25 < slow < 0.75


def test_known_recall_prefers_the_score_that_ranks_known_lesions_higher() -> None:
    rng = np.random.default_rng(0)
    noise = proposals(rng.random(60), rng.uniform(0.0, 0.5, 60))
    lesions = proposals(rng.random(40), rng.uniform(0.4, 0.9, 40))
    given = (noise, lesions, 45)
    by_lpg, by_lpc = (recalled(*given, ScoreFusion(weight)) for weight in (1.0, 0.0))
    assert by_lpc > by_lpg + 0.3


def test_known_recall_where_the_choice_keeps_little() -> None:
    low = np.full(20, 0.2)
    given = (proposals(low, low), proposals(np.array([0.2, 0.8]), np.array([0.5, 0.5])), 12)
    # The floor drops every candidate and one of the two known: nothing is above the other.
    assert recalled(*given, ScoreFusion(1.0, 0.5)) == 0.5
    nothing = (proposals(low, low), PooledTable(proposals(low, low).slice(0, 0)), 12)
    assert recalled(*nothing, ScoreFusion(1.0, 0.5)) == 0.0
