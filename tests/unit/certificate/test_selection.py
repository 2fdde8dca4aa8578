"""A round's threshold: the early target for all rounds but the last, the target itself where that adds too little."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from harvester.certificate.selection import Calibration, select_point
from harvester.config.settings import OperatingPointSettings, Settings
from harvester.mining.fusion import ScoreFusion
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import ACCEPTED, AcceptedTable, MarkTable, ScoredTable, empty
from tests.builders import manifest, mark, marks, reviewed, scored, tubelet

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
    given = (ScoredTable(table.slice(earlier)), MarkTable(lesions()), AcceptedTable(prior), *[empty(ScoredTable)] * 2)
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


def test_what_v_m_shows_has_no_say_in_the_choice_of_settings() -> None:
    """V_M's false candidates score low by the generator, by chance, and V_H's by the classifier."""
    boxes = {"clinical": (40.0, 10.0, 49.0, 19.0), "other": (10.0, 50.0, 19.0, 59.0)}
    rng, rows, known = np.random.default_rng(0), [], []
    for split in ("vm", "vh"):
        for i in range(60):
            low, high = rng.uniform(0.1, 0.3, 2), rng.uniform(0.7, 0.9, 2)
            by_lpg, by_lpc = (low[0], high[0]) if split == "vm" else (high[0], low[0])
            name = f"{split}{i}"
            rows.append(tubelet(name, boxes["clinical"], lpg_score=high[1] - 0.1, lpc_score=high[1] - 0.1))
            rows.append(tubelet(name, boxes["other"], lpg_score=by_lpg, lpc_score=by_lpc))
            known += [mark(name, boxes["clinical"])] + [mark(name, (10.0, 10.0, 19.0, 19.0), False)] * (split == "vm")
    tables = StoreTables(manifest({row["volume_id"]: row["volume_id"][:2] for row in rows}), marks(*known), reviewed())
    view = RoundView(scored(*rows), tables.ledger, empty(AcceptedTable), tables, Settings())
    calibration = Calibration.of(view)
    assert {name[:2] for name in calibration.clinical_finds["volume_id"].to_pylist()} == {"vh"}
    by = {weight: calibration.known_recall(ScoreFusion(weight, 0.0, 1, 0.0, 20.0)) for weight in (0.0, 1.0)}
    assert by[0.0] > by[1.0] + 0.3
    assert replace(calibration, candidates=calibration.candidates.slice(0, 60)).known_recall(FUSION) > 0, "any V_M"


def test_of_a_large_archive_a_sample_of_volumes_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harvester.mining.round_view.RIVAL_VOLUMES", 4)
    rows = [tubelet(f"vh{i}", (10.0, 10.0, 19.0, 19.0)) for i in range(9) for _ in range(3)]
    tables = StoreTables(manifest({f"vh{i}": "vh" for i in range(9)} | {"vm": "vm"}), marks(), reviewed())
    drawn = []
    for seed in (0, 0, 1):
        view = RoundView(scored(*rows), tables.ledger, empty(AcceptedTable), tables, Settings(seed=seed))
        drawn.append(view.rivals["volume_id"].to_pylist())
        assert (len(drawn[-1]), len(set(drawn[-1]))) == (12, 4)
    assert drawn[0] == drawn[1] != drawn[2]
