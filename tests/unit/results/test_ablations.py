"""Harvests with less, round by round: the union is certified, shuffled scores leave nothing."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.config.settings import Settings
from harvester.labels.ledger import BOX
from harvester.records import SCORED, Mark, Volume
from harvester.results.ablations import controls, shuffled
from harvester.results.truth import Judge
from harvester.store.store import Store, finish_store, write_volume

LESION, CLINICAL, FALSE = (10.0, 10.0, 29.0, 29.0), (40.0, 10.0, 59.0, 29.0), (10.0, 40.0, 29.0, 59.0)
SETTINGS = Settings.model_validate({"operating_point": {"lpg_weights": [0.0, 1.0], "min_slices": [1]}})
PATIENTS = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """V_M and V_H^test, a volume a patient: in each a hidden lesion, and a clinical one in every other."""
    folder = tmp_path_factory.mktemp("store")
    volume = np.zeros((9, 8, 8), np.int16)
    rows, known, truth = [], [], []
    for split in ("vm", "vh_test"):
        for i in range(PATIENTS):
            name = f"{split}-{i}"
            rows.append(write_volume(folder, Volume(name, f"p-{name}", volume, (4, 1, 1)), split, ""))
            clinical = [Mark(name, f"{name}-c", 5, *CLINICAL, clinical=True)] if i % 2 else []
            marks = [Mark(name, f"{name}-l", 5, *LESION, clinical=False), *clinical]
            known += marks if split == "vm" else clinical
            truth += marks if split == "vh_test" else []
    return finish_store(folder, rows, known, truth)


@pytest.fixture
def judge(store: Store) -> Judge:
    return Judge(store, SETTINGS)


def scored(store: Store, seed: int, good: float) -> pa.Table:
    """A tubelet on every lesion and one beside; `good`: how far the classifier holds them apart."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for volume in store.manifest.to_pylist():
        marked = int(volume["volume_id"].split("-")[1]) % 2
        for box in (LESION, CLINICAL, FALSE) if marked else (LESION, FALSE):
            lpc = float(np.clip(rng.normal(0.9 if box != FALSE else 0.9 - good, 0.03), 0.01, 0.99))
            sides = {side: [value] * 3 for side, value in zip(BOX, box, strict=True)}
            row = {"volume_id": volume["volume_id"], "patient_id": volume["patient_id"], "lpc_score": lpc}
            row |= {"lpg_score": float(rng.uniform(0.3, 0.9)), "width_mm": 30.0, "tubelet_id": len(rows)}
            rows.append(row | {"z": [4, 5, 6], "slice_score": [0.5] * 3} | sides)
    return pa.Table.from_pylist(rows, SCORED)


def test_the_generator_alone_is_told_apart_from_the_loop(store: Store, judge: Judge) -> None:
    made = controls(SETTINGS.operating_point, seed=0)
    told = made["lpg_alone"].add(0, scored(store, 0, good=0.7), store, judge)
    # Its scores say nothing: half of what it would take is wrong.
    assert told["harvested"] == 0
    assert told["threshold"] is None
    assert "not reached" in told["reason"]


def test_shuffled_scores_certify_nothing(store: Store, judge: Judge) -> None:
    table = scored(store, 0, good=0.7)
    made = controls(SETTINGS.operating_point, seed=0)
    assert made["lpc_shuffled"].add(0, table, store, judge)["harvested"] == 0
    straight = made["lpg_alone"]
    straight.change = lambda rows, k: rows.set_column(
        rows.column_names.index("lpg_score"), "lpg_score", rows["lpc_score"]
    )
    told = straight.add(0, table, store, judge)
    assert told["harvested"] >= 50
    assert told["precision"] >= 0.9


def test_rounds_add_up_and_nothing_is_found_twice(store: Store, judge: Judge) -> None:
    control = controls(SETTINGS.operating_point, seed=0)["lpg_alone"]
    control.change = lambda rows, k: rows.set_column(
        rows.column_names.index("lpg_score"), "lpg_score", rows["lpc_score"]
    )
    first = control.add(0, scored(store, 0, good=0.7), store, judge)
    second = control.add(1, scored(store, 1, good=0.7), store, judge)
    assert second["harvested"] >= first["harvested"]
    assert set(control.lesions["round"].to_pylist()) <= {0, 1}
    right = [
        row for row in control.lesions.to_pylist() if row["x1"][0] == LESION[0] and row["y1"][0] == LESION[1]
    ]
    assert len({row["volume_id"] for row in right}) == len(right) <= PATIENTS
    assert len(control.rehearsed) >= first["harvested"] - 5


def test_shuffling_deals_the_same_scores_out_again(store: Store) -> None:
    table = scored(store, 0, good=0.7)
    dealt = shuffled(table, 3)
    assert dealt.schema.names == table.schema.names
    assert sorted(dealt["lpc_score"].to_pylist()) == sorted(table["lpc_score"].to_pylist())
    assert dealt["lpc_score"].to_pylist() != table["lpc_score"].to_pylist()
    assert dealt.equals(shuffled(table, 3))
    assert len(shuffled(SCORED.empty_table(), 0)) == 0


def test_a_round_without_tubelets_harvests_nothing(store: Store, judge: Judge) -> None:
    for control in controls(SETTINGS.operating_point, seed=0).values():
        told = control.add(0, SCORED.empty_table(), store, judge)
        assert (told["harvested"], told["reason"]) == (0, "no tubelets to choose from")


def test_without_a_classifier_in_the_choices_nothing_is_shuffled() -> None:
    alone = Settings.model_validate({"operating_point": {"lpg_weights": [1.0]}}).operating_point
    assert list(controls(alone, 0)) == ["lpg_alone"]
