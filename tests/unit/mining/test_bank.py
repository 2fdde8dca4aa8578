"""The bank of scores: which tubelets of two rounds are the same, and what all rounds say of one."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.evaluation.matching import tubelet_overlaps
from harvester.mining.bank import log_odds, pool, same_tubelet, share_new
from harvester.records import POOLED, SIDES, Box
from tests.builders import pooled, scored, selected, tubelet

HERE: Box = (10, 10, 29, 29)
SHIFTED: Box = (15, 10, 34, 29)  # 2D IoU with HERE: 300 / 500
AWAY: Box = (100, 100, 119, 119)


def slow_iou(one: dict[str, Any], other: dict[str, Any]) -> float:
    """3D IoU, pixel columns of a slice at a time."""

    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return max(x2 - x1 + 1, 0.0) * max(y2 - y1 + 1, 0.0)

    mine, others = ({z: [row[side][i] for side in SIDES] for i, z in enumerate(row["z"])} for row in (one, other))
    common = 0.0
    for z in set(mine) & set(others):
        a, b = mine[z], others[z]
        common += area(*map(max, a[:2], b[:2]), *map(min, a[2:], b[2:]))
    return common / (sum(area(*box) for box in [*mine.values(), *others.values()]) - common)


def some(rng: np.random.Generator, count: int) -> pa.Table:
    rows = []
    for _ in range(count):
        z0, (x, y), side = int(rng.integers(6)), rng.integers(0, 12, 2), rng.uniform(2, 12, 2)
        places = {z0 + i: (x + i, y, x + i + side[0], y + side[1]) for i in range(int(rng.integers(1, 5)))}
        rows.append(tubelet(f"v{rng.integers(4)}", places))
    return scored(*rows)


@pytest.mark.parametrize("seed", range(3))
def test_overlaps_of_tubelets_equal_the_slow_way(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = some(rng, 40), some(rng, 30)
    found = tubelet_overlaps(one, other)
    expected = {
        (i, j): iou
        for i, a in enumerate(one.to_pylist())
        for j, b in enumerate(other.to_pylist())
        if a["volume_id"] == b["volume_id"] and (iou := slow_iou(a, b)) > 0
    }
    assert list(zip(found.tubelet.tolist(), found.mark.tolist(), strict=True)) == sorted(expected)
    np.testing.assert_allclose(found.iou, [expected[pair] for pair in sorted(expected)], rtol=1e-6)
    assert len(tubelet_overlaps(one, other.slice(0, 0)).iou) == len(tubelet_overlaps(one.slice(0, 0), other).iou) == 0


def test_the_same_is_what_overlaps_most_in_the_same_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = scored(tubelet("v", HERE), tubelet("w", HERE), tubelet("v", AWAY), tubelet("v", HERE, z=(6, 7, 8)))
    before = scored(tubelet("v", SHIFTED), tubelet("v", HERE), tubelet("w", AWAY))
    expected = [1, -1, -1, -1]
    assert same_tubelet(newest, before).tolist() == expected
    monkeypatch.setattr("harvester.mining.bank.CHUNK", 1)
    assert same_tubelet(newest, before).tolist() == expected
    assert same_tubelet(newest, before.slice(0, 0)).tolist() == [-1] * 4


def test_a_score_is_the_mean_logit_over_the_rounds_that_found_it() -> None:
    first = scored(tubelet("v", HERE, lpg_score=0.2, lpc_score=0.6), tubelet("v", AWAY, lpg_score=0.9, lpc_score=0.9))
    second = scored(tubelet("v", SHIFTED, lpg_score=0.4, lpc_score=0.6))
    third = scored(tubelet("v", HERE, lpg_score=0.7, lpc_score=0.8), tubelet("w", HERE, lpg_score=0.7, lpc_score=0.8))
    table = pool([first, second, third])
    assert table.schema == POOLED
    lpg, lpc = (np.array([log_odds(np.array(each)) for each in given]) for given in ((0.2, 0.4, 0.7), (0.6, 0.6, 0.8)))
    known, new = table.to_pylist()
    assert known["lpg_logit"] == pytest.approx(lpg.mean())
    assert known["lpc_logit"] == pytest.approx(lpc.mean())
    assert new["lpg_logit"] == pytest.approx(lpg[2])
    # What the models of the round say themselves stays.
    assert (known["lpg_score"], known["lpc_score"]) == (0.7, 0.8)


def test_the_first_round_says_it_all_and_sure_scores_stay_finite() -> None:
    table = pooled(tubelet("v", HERE, lpg_score=1.0, lpc_score=0.0))
    assert np.isfinite([table["lpg_logit"][0].as_py(), table["lpc_logit"][0].as_py()]).all()
    assert pool([scored()]).schema == POOLED


def test_what_is_new_is_counted() -> None:
    one, other = selected(tubelet("v", HERE), tubelet("v", AWAY)), selected(tubelet("v", SHIFTED), tubelet("w", HERE))
    assert share_new(one, one) == 0.0
    assert share_new(one, other) == 0.5
    assert share_new(one, one.slice(0, 0)) == 1.0
    assert share_new(one.slice(0, 0), one) == 0.0
