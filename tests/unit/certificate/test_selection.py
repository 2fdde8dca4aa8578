"""What a round's threshold is selected from, and what has no say in it."""

from dataclasses import replace

import numpy as np
import pytest

from harvester.certificate.selection import Calibration
from harvester.config.settings import Settings
from harvester.mining.fusion import ScoreFusion
from harvester.mining.round_view import RoundView, StoreTables
from tests.builders import manifest, mark, marks, reviewed, scored, tubelet

FUSION = ScoreFusion(0.0)


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
    view = RoundView((scored(*rows),), tables, Settings())
    calibration = Calibration.of(view)
    assert {name[:2] for name in calibration.clinical_finds["volume_id"].to_pylist()} == {"vh"}
    by = {weight: calibration.known_recall(ScoreFusion(weight)) for weight in (0.0, 1.0)}
    assert by[0.0] > by[1.0] + 0.3
    assert replace(calibration, candidates=calibration.candidates.slice(0, 60)).known_recall(FUSION) > 0, "any V_M"


def test_of_a_large_archive_a_sample_of_volumes_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = StoreTables(manifest({f"vh{i}": "vh" for i in range(9)} | {"vm": "vm"}), marks(), reviewed())
    assert tables.sampled(0) is None, "all of it is looked at"
    monkeypatch.setattr("harvester.mining.round_view.SAMPLE_VOLUMES", 4)
    drawn = []
    for seed in (0, 0, 1):
        sample = tables.sampled(seed)
        assert sample is not None
        drawn.append(sorted(sample.manifest["volume_id"].to_pylist()))
        assert len(drawn[-1]) == 5 and drawn[-1][-1] == "vm"
    assert drawn[0] == drawn[1] != drawn[2]
