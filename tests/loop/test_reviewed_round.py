"""A round of the loop on a store that people reviewed: harvest.py's own steps, without models and without Ray."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.certificate.selection import SelectedPoint
from harvester.config.settings import Settings
from harvester.harvest import mine, record
from harvester.mining.fusion import ScoreFusion
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import ACCEPTED, REVIEWED, SCORED, Volume
from harvester.run.folder import Artifact
from harvester.store.store import Store, finish_store, write_reviewed, write_volume

SIDES = ("x1", "y1", "x2", "y2")
PLACES = {"accepted": (5, 5), "rejected": (40, 5), "moved from": (5, 40), "new": (40, 40)}


def box(place: str) -> dict[str, list[float]]:
    x, y = PLACES[place]
    return {side: [float(end)] * 3 for side, end in zip(SIDES, (x, y, x + 15, y + 15), strict=True)}


def verdict(place: str, role: str) -> dict[str, Any]:
    told = {"volume_id": "h", "label_id": f"reviewed-{place}", "source": "reviewed", "round": 0, "run_id": "old"}
    return told | {"role": role, "verdict": place.split()[0], "score": 0.9, "z": [2, 3, 4]} | box(place)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    volumes = {"h": "vh", "m": "vm"}
    rows = [
        write_volume(tmp_path, Volume(name, f"p{name}", np.zeros((8, 64, 64), np.int16), (4, 1, 1)), split, "")
        for name, split in volumes.items()
    ]
    made = finish_store(tmp_path, rows, [], [])
    told = [verdict("accepted", "lesion"), verdict("rejected", "hard_negative"), verdict("moved from", "ignored")]
    write_reviewed(made.path, pa.Table.from_pylist(told, REVIEWED))
    return made


def selected() -> SelectedPoint:
    point = SimpleNamespace(threshold=0.5, precision_bound=0.9)
    return SimpleNamespace(point=point, choice=ScoreFusion(0.5, 0.1, 1, 0.0, 20.0))  # type: ignore[return-value]


def test_a_round_neither_finds_nor_forgets_what_was_reviewed(store: Store, tmp_path: Path) -> None:
    scores = {"patient_id": "ph", "lpg_score": 0.9, "lpc_score": 0.9, "width_mm": 16.0, "slice_score": [0.9] * 3}
    rows = [
        scores | {"volume_id": "h", "tubelet_id": number, "z": [2, 3, 4]} | box(place)
        for number, place in enumerate(PLACES)
    ]
    scored = pa.Table.from_pylist(rows, SCORED)
    run: Any = SimpleNamespace(store=store, settings=Settings(), id="now")
    tables = StoreTables.of(store)
    ledger = tables.ledger
    view = RoundView(scored, ledger, ACCEPTED.empty_table(), tables, run.settings)
    found = mine(view, selected())
    assert found.lesions["tubelet_id"].to_pylist() == [list(PLACES).index("new")]
    (tmp_path / "fold-0.safetensors").write_bytes(b"w")
    model = Artifact(tmp_path, "k", 0.0)
    for k in range(2):
        ledger = record(run, k, ledger, found, (model, model))
    kept = {row["label_id"]: row["role"] for row in ledger.to_pylist() if row["source"] == "reviewed"}
    assert kept == {
        "reviewed-accepted": "lesion",
        "reviewed-rejected": "hard_negative",
        "reviewed-moved from": "ignored",
    }
