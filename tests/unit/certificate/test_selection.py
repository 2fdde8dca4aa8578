"""A round's threshold: the early target for all rounds but the last, the target itself where that adds too little."""

import numpy as np
import pyarrow as pa

from harvester.certificate.selection import Calibration, select_point
from harvester.config.settings import OperatingPointSettings
from harvester.mining.fusion import ScoreFusion
from harvester.records import ACCEPTED, AcceptedTable, MarkTable, ScoredTable, empty
from tests.builders import mark, marks, scored, tubelet

FUSION = ScoreFusion(lpg_weight=0.0, lpg_floor=0.0, min_slices=1, small_bonus=0.0, small_mm=20.0)
LESIONS = 400


def candidates(precision_below: float) -> pa.Table:
    """One tubelet per patient and volume: 300 right ones on top, then 200 of which a share is right."""
    right = np.arange(500) < 300
    right[300:] = np.arange(200) % 10 < round(10 * precision_below)
    top = np.where(right, 10.0, 50.0)
    boxes = [(10.0, y, 19.0, y + 9) for y in top.tolist()]
    return scored(*(tubelet(f"v{i:03d}", box, (3,), lpc_score=1 - (i + 1) / 1000) for i, box in enumerate(boxes)))


def lesions() -> pa.Table:
    return marks(*(mark(f"v{i:03d}", (10.0, 10.0, 19.0, 19.0), clinical=False, z=3) for i in range(500)))


def accepted(last: bool, precision_below: float = 0.7, earlier: int = 0, **changed: float | tuple[float, ...]) -> int:
    settings = OperatingPointSettings(**changed)
    table = candidates(precision_below)
    prior = table.slice(0, earlier).append_column("score", table["lpc_score"].slice(0, earlier))
    right = [row["y1"] == [10.0] for row in prior.to_pylist()]
    prior = prior.append_column("correct", pa.array(right, pa.bool_())).cast(ACCEPTED)
    given = (ScoredTable(table.slice(earlier)), MarkTable(lesions()), AcceptedTable(prior), empty(ScoredTable))
    return select_point(Calibration(*given, last), FUSION, settings).point.accepted


def test_an_early_round_accepts_less_than_the_last_one() -> None:
    early, last = accepted(last=False), accepted(last=True)
    assert 300 < early < last
    assert early == accepted(last=True, target_precision=0.95)


def test_an_early_target_that_cannot_be_met_gives_way_to_the_target() -> None:
    assert accepted(last=False, early_target_precisions=(0.9999, 0.999)) == accepted(last=True)


def test_the_first_early_target_that_can_be_met_is_kept() -> None:
    assert accepted(last=False, early_target_precisions=(0.999, 0.93)) == accepted(last=True, target_precision=0.93)


def test_an_early_target_that_adds_next_to_nothing_gives_way_too() -> None:
    reach = accepted(last=False, early_target_precisions=(0.95,))
    again = accepted(last=False, early_target_precisions=(0.95,), earlier=reach - 2)
    assert again == accepted(last=True, earlier=reach - 2) > reach
