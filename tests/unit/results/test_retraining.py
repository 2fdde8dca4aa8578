"""What label sets are worth: means over seeds, paired gains, the gap that is closed, the exchange rate."""

import numpy as np
import pyarrow as pa
import pytest

from harvester.records import MARKS, TUBELETS, IgnoreTable, MarkTable, TubeletTable, empty
from harvester.results.label_sets import GRADES, graded
from harvester.results.retraining import Comparison, HeldOutSet, SetScores
from tests.builders import tubelet

ROWS = [{"volume_id": f"v{at}", "patient_id": f"p{at // 2}"} for at in range(8)]
BOX = (10.0, 10.0, 29.0, 29.0)


def marks() -> MarkTable:
    rows = [
        {"volume_id": row["volume_id"], "mark_id": str(at), "z": 3, "clinical": False, "kind": "",
         **dict(zip(("x1", "y1", "x2", "y2"), BOX, strict=True))}
        for at, row in enumerate(ROWS)
    ]  # fmt: skip
    elsewhere = rows[0] | {"volume_id": "other"}
    return MarkTable(pa.Table.from_pylist([*rows, elsewhere], MARKS))


def found(*volumes: int) -> TubeletTable:
    rows = [tubelet(f"v{at}", BOX, (3,), lpg_score=0.9 - at / 100) | {"patient_id": f"p{at // 2}"} for at in volumes]
    return TubeletTable(pa.Table.from_pylist(rows, TUBELETS))


def scores(*aps: float, resamples: int = 200, spread: float = 0.02) -> SetScores:
    """Of seeds with these APs, and resamples around them."""
    rng = np.random.default_rng(1)
    own = np.array(aps)
    noise = rng.normal(0, spread, (resamples, 1))  # a patient that is drawn twice moves all label sets alike
    return SetScores(own, own / 2, own + noise, own / 2 + noise)


def test_a_test_set_scores_its_own_marks_alone() -> None:
    test = HeldOutSet.of(ROWS, marks(), empty(IgnoreTable))
    card = test.score(found(0, 1, 2), 100)
    assert card.counts["num_marks"] == 8 and card.counts["tp"] == 3
    assert float(card.figures["ap"]) == pytest.approx(3 / 8)
    same, other = test.score(found(0, 1, 2), 100), test.score(found(0, 1, 2), 100, draw_seed=1)
    assert np.array_equal(card.replicates["ap"], same.replicates["ap"])
    assert not np.array_equal(card.replicates["ap"], other.replicates["ap"])


def test_gains_are_paired_and_the_gap_is_a_share() -> None:
    sets = {
        "clinical": scores(0.20, 0.24), "complete_vm": scores(0.30, 0.34), "harvest": scores(0.38, 0.42),
        "hard_negatives": scores(0.37, 0.41), "placebo": scores(0.29, 0.33), "full_truth": scores(0.46, 0.50),
    }  # fmt: skip
    done = Comparison("fcos", sets).figures()
    by_name = {each.labels: each for each in done.sets}
    assert by_name["harvest"].ap.value == pytest.approx(0.40) and by_name["harvest"].by_seed == (0.38, 0.42)
    assert by_name["harvest"].sensitivity.value == pytest.approx(0.20)
    gain = done.gains["harvest over complete V_M"]
    # Seeds and patients move all sets alike: nothing of it is left in a difference.
    assert gain.value == pytest.approx(0.08) and gain.interval == pytest.approx((0.08, 0.08))
    assert by_name["harvest"].ap.interval is not None
    low, high = by_name["harvest"].ap.interval
    assert low < 0.38 < 0.42 < high
    assert done.gains["harvest over clinical marks"].value == pytest.approx(0.18)
    assert done.gains["as many random proposals"].value == pytest.approx(-0.01)
    assert done.gap_closed is not None and done.gap_closed.value == pytest.approx(0.5)
    assert done.exchange_rate is None


def test_without_truth_or_resamples() -> None:
    none = {name: scores(0.3, resamples=0) for name in ("clinical", "complete_vm", "harvest")}
    done = Comparison("fcos", none).figures()
    assert done.gap_closed is None and done.sets[0].ap.interval is None
    assert done.gains["harvest over clinical marks"].interval is None
    flat = {name: scores(0.3) for name in ("clinical", "complete_vm", "harvest", "full_truth")}
    assert Comparison("fcos", flat).figures().gap_closed is None  # no gap: no share of it


def test_the_exchange_rate_of_a_plane_is_the_planes() -> None:
    sets = {"clinical": scores(0.1), "complete_vm": scores(0.2)}
    for precision, recall in [*GRADES, (100, 100)]:
        name = "full_truth" if (precision, recall) == (100, 100) else graded(precision, recall)
        sets[name] = scores(0.1 + 0.002 * recall + 0.001 * precision)
    rate = Comparison("fcos", sets).figures().exchange_rate
    assert rate is not None
    assert rate.ap_per_point_of_recall.value == pytest.approx(0.002)
    assert rate.ap_per_point_of_precision.value == pytest.approx(0.001)
    assert rate.recall_per_point_of_precision == pytest.approx(0.5)
    assert rate.ap_per_point_of_recall.interval == pytest.approx((0.002, 0.002))
