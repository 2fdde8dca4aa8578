"""Harvests with less, round by round: each selects anew, shuffled scores leave nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.config.settings import Settings
from harvester.mining.fusion import EVEN
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import SCORED, ScoredTable
from harvester.results.ablations import ablations, shuffled
from harvester.results.truth import TruthEvaluator
from harvester.store.store import Store
from tests import builders
from tests.builders import made_store, mark, tubelet

LESION, CLINICAL, FALSE = (10.0, 10.0, 29.0, 29.0), (40.0, 10.0, 59.0, 29.0), (10.0, 40.0, 29.0, 59.0)
SETTINGS = Settings.model_validate({"operating_point": {"min_slices": [1]}})
PATIENTS = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """V_M and V_H^test, a volume per patient: in each a hidden lesion, and a clinical one in every other."""
    splits = {f"{split}-{i}": split for split in ("vm", "vh_test") for i in range(PATIENTS)}
    lesions = {name: [mark(name, LESION, clinical=False)] for name in splits}
    clinical = {name: [mark(name, CLINICAL)] for name in splits if int(name.split("-")[1]) % 2}
    known, truth = [], []
    for name, split in splits.items():
        both = lesions[name] + clinical.get(name, [])
        known += both if split == "vm" else clinical.get(name, [])
        truth += both if split == "vh_test" else []
    return made_store(tmp_path_factory.mktemp("store"), splits, known, truth)


@pytest.fixture
def truth(store: Store) -> TruthEvaluator:
    return TruthEvaluator(store, SETTINGS)


def view(store: Store, *rounds: pa.Table) -> RoundView:
    return RoundView(rounds, StoreTables.of(store, SETTINGS), SETTINGS)


def by_lpc(rows: pa.Table, k: int) -> pa.Table:
    return rows.set_column(rows.column_names.index("lpg_score"), "lpg_score", rows["lpc_score"])


def scored(store: Store, seed: int, good: float) -> pa.Table:
    """A tubelet on every lesion and one beside; `good`: how far the classifier holds them apart."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for volume in store.manifest.to_pylist():
        marked = int(volume["volume_id"].split("-")[1]) % 2
        for box in (LESION, CLINICAL, FALSE) if marked else (LESION, FALSE):
            lpc = float(np.clip(rng.normal(0.9 if box != FALSE else 0.9 - good, 0.03), 0.01, 0.99))
            lpg = float(rng.uniform(0.3, 0.9))
            rows.append(tubelet(volume["volume_id"], box, lpg_score=lpg, lpc_score=lpc))
    return builders.scored(*rows)


def test_the_generator_alone_is_told_apart_from_the_loop(store: Store, truth: TruthEvaluator) -> None:
    made = ablations(SETTINGS.operating_point, seed=0)
    result = made["lpg_alone"].after(0, view(store, scored(store, 0, good=0.7)), EVEN).result(truth)
    # Its scores say nothing: half of what it would take is wrong.
    assert result.harvested == 0
    assert result.threshold is None
    assert "does not prove" in result.reason


def test_shuffled_scores_certify_nothing(store: Store, truth: TruthEvaluator) -> None:
    table = scored(store, 0, good=0.7)
    made = ablations(SETTINGS.operating_point, seed=0)
    assert made["lpc_shuffled"].after(0, view(store, table), EVEN).result(truth).harvested == 0
    straight = replace(made["lpg_alone"], change=by_lpc)
    result = straight.after(0, view(store, table), EVEN).result(truth)
    assert result.harvested >= 50
    assert result.precision is not None and result.precision >= 0.9
    assert straight.result(truth).harvested == 0, "an ablation is not changed by its next round"


def test_a_round_takes_the_place_of_the_one_before(store: Store, truth: TruthEvaluator) -> None:
    none = replace(ablations(SETTINGS.operating_point, seed=0)["lpg_alone"], change=by_lpc)
    good, bad = scored(store, 0, good=0.7), scored(store, 1, good=0.0)
    first = none.after(0, view(store, good), EVEN)
    second = first.after(1, view(store, good, scored(store, 1, good=0.7)), EVEN)
    assert second.result(truth).harvested >= 50
    assert set(second.lesions["round"].to_pylist()) == {1}
    names = second.lesions["volume_id"].to_pylist()
    assert len(set(names)) == len(names), "one on each lesion"
    # Where the last round proves nothing nothing is left of the first one's.
    assert first.after(1, view(store, bad, bad), EVEN).result(truth).harvested == 0


def test_shuffling_deals_the_same_scores_out_again(store: Store) -> None:
    table = scored(store, 0, good=0.7)
    dealt = shuffled(table, 3)
    assert dealt.schema.names == table.schema.names
    assert sorted(dealt["lpc_score"].to_pylist()) == sorted(table["lpc_score"].to_pylist())
    assert dealt["lpc_score"].to_pylist() != table["lpc_score"].to_pylist()
    assert dealt.equals(shuffled(table, 3))
    assert len(shuffled(SCORED.empty_table(), 0)) == 0


def test_a_round_without_tubelets_harvests_nothing(store: Store, truth: TruthEvaluator) -> None:
    for each in ablations(SETTINGS.operating_point, seed=0).values():
        result = each.after(0, view(store, SCORED.empty_table()), EVEN).result(truth)
        assert (result.harvested, result.reason) == (0, "the models propose nothing in V_M")


def test_an_ablation_leaves_for_review_what_the_loop_leaves(store: Store, truth: TruthEvaluator) -> None:
    """One patient of V_H has five more that score best; V_M's fullest patient gives one or, with a false one, two."""
    table = scored(store, 0, good=0.7)
    boxes = [(40.0 + 12 * i, 60.0, 49.0 + 12 * i, 69.0) for i in range(5)]
    odd = [tubelet("vh_test-0", box, lpg_score=0.9, lpc_score=0.99, tubelet_id=90 + i) for i, box in enumerate(boxes)]
    both = ScoredTable(pa.concat_tables([table, pa.Table.from_pylist(odd, SCORED)]))
    straight = replace(ablations(SETTINGS.operating_point, seed=0)["lpg_alone"], change=by_lpc)
    usual, found = (straight.after(0, view(store, each), EVEN) for each in (table, both))
    assert usual.point == found.point
    assert found.lesions["volume_id"].to_pylist().count("vh_test-0") <= 2
    assert len(found.lesions) <= len(usual.lesions) + 1
