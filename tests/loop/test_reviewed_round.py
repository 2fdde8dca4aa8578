"""A round of the loop on a store that people reviewed: harvest.py's own steps, without models and without Ray."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harvester.certificate.selection import SelectedPoint
from harvester.config.settings import Settings
from harvester.harvest import mine, record
from harvester.mining.fusion import EVEN
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import Box
from harvester.run.folder import Artifact
from harvester.store.store import Store, write_reviewed
from tests.builders import label, made_store, reviewed, scored, tubelet

PLACES = {"accepted": (5, 5), "rejected": (40, 5), "moved from": (5, 40), "new": (40, 40)}


def box(place: str) -> Box:
    x, y = PLACES[place]
    return (x, y, x + 15, y + 15)


def verdict(place: str, role: str) -> dict[str, Any]:
    origin = {"label_id": f"reviewed-{place}", "round": 0, "run_id": "old", "score": 0.9}
    return label("h", box(place), role, (2, 3, 4), verdict=place.split()[0], **origin)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = made_store(tmp_path, {"h": "vh", "m": "vm"}, hu=np.zeros((8, 64, 64), np.int16))
    roles = {"accepted": "lesion", "rejected": "hard_negative", "moved from": "ignored"}
    write_reviewed(made.path, reviewed(*(verdict(place, role) for place, role in roles.items())))
    return made


def selected() -> SelectedPoint:
    point = SimpleNamespace(threshold=0.5, precision_bound=0.9)
    return SimpleNamespace(point=point, naive=point, choice=EVEN)  # type: ignore[return-value]  # mine takes no more of it


def test_a_round_neither_finds_nor_forgets_what_was_reviewed(store: Store, tmp_path: Path) -> None:
    # V_M's one patient shows that a patient may give one tubelet.
    places = [("h", place) for place in PLACES] + [("m", "new")]
    table = scored(*(tubelet(name, box(place), (2, 3, 4), lpg_score=0.9, lpc_score=0.9) for name, place in places))
    run: Any = SimpleNamespace(store=store, settings=Settings(), id="now")
    tables = StoreTables.of(store, run.settings)
    ledger = tables.ledger
    view = RoundView((table,), tables, run.settings)
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
