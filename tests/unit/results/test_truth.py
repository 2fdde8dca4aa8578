"""What a harvest is worth against a hidden truth; without a truth there are no figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.config.settings import Settings
from harvester.mining.candidates import outside_ignored
from harvester.records import IGNORE, SCORED, Box
from harvester.results.truth import TruthEvaluator, finite, hidden_lesions, with_round
from harvester.run.summary import TruthScores
from harvester.store.store import Store
from tests import builders
from tests.builders import made_store, mark, selected

A: Box = (10, 10, 29, 29)
B: Box = (40, 40, 59, 59)
NEAR_A: Box = (12, 10, 31, 29)  # IoU 360 / 440
CLINICAL: Box = (70, 10, 89, 29)
AWAY: Box = (100, 100, 119, 119)


def tubelet(volume: str, box: Box, score: float = 0.5, lpg: float = 0.5, lpc: float = 0.5) -> dict[str, Any]:
    columns = {"score": score, "lpg_score": lpg, "lpc_score": lpc, "slice_score": [0.1, lpg, 0.2]}
    return builders.tubelet(volume, box, **columns)


def scores(harvested: int, correct: int | None, precision: float | None, recall: float | None) -> TruthScores:
    return TruthScores(test_harvested=harvested, test_correct=correct, precision=precision, recall_unmarked=recall)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two volumes with truth (one of them without a lesion), one of V_H without, one of V_M."""
    splits = {"t1": "vh_test", "t2": "vh_test", "h1": "vh", "m1": "vm"}
    clinical = mark("t1", CLINICAL, clinical=True)
    truth = [clinical, mark("t1", A, clinical=False), mark("t1", B, clinical=False)]
    return made_store(tmp_path, splits, [clinical, mark("m1", A, clinical=False)], truth)


@pytest.fixture
def truth(store: Store) -> TruthEvaluator:
    return TruthEvaluator(store, Settings())


def test_only_unmarked_lesions_of_the_test_set_are_hidden(store: Store, truth: TruthEvaluator) -> None:
    assert hidden_lesions(store)["mark_id"].to_pylist() == ["t1-5-10", "t1-5-40"]
    assert truth.known
    assert truth.volumes == 2


def test_a_harvest_is_right_where_it_finds_a_lesion_first(truth: TruthEvaluator) -> None:
    found = selected(tubelet("t1", A), tubelet("t1", NEAR_A, 0.9), tubelet("t2", A), tubelet("h1", AWAY))
    assert truth.harvest(with_round(found, 0)) == scores(3, 1, 1 / 3, 1 / 2)
    assert truth.correct(with_round(found, 0)) == [False, True, False, None]
    assert truth.missed(with_round(found, 0))["mark_id"].to_pylist() == ["t1-5-40"]


def test_a_harvest_of_nothing_has_no_precision_and_no_recall(truth: TruthEvaluator) -> None:
    nothing = with_round(selected(), 0)
    assert truth.harvest(nothing) == scores(0, 0, None, 0.0)
    assert truth.correct(nothing) == []
    assert len(truth.missed(nothing)) == 2
    assert truth.on_lesions(selected()) is None
    assert truth.proposals(SCORED.empty_table(), "lpg_score").sensitivity == {"1": 0.0, "4": 0.0, "16": 0.0}


def test_without_truth_nothing_is_told(store: Store) -> None:
    (store.path / "truth.parquet").delete()
    truth = TruthEvaluator(store, Settings())
    found = with_round(selected(tubelet("t1", A)), 0)
    assert not truth.known
    assert truth.harvest(found) == scores(1, None, None, None)
    assert truth.correct(found) == [None]
    assert truth.proposals(found, "lpg_score").ap is None
    assert truth.on_lesions(found) is None


def test_proposals_on_clinical_marks_are_neither_found_nor_false(truth: TruthEvaluator) -> None:
    rows = [tubelet("t1", CLINICAL, lpg=0.9), tubelet("t1", A, lpg=0.8), tubelet("t2", AWAY, lpg=0.7)]
    found = truth.proposals(selected(*rows, tubelet("h1", AWAY, lpg=0.95), tubelet("m1", AWAY, lpg=0.95)), "lpg_score")
    # One of two lesions before the first false positive.
    assert found.sensitivity["1"] == pytest.approx(0.5)
    assert found.ap == pytest.approx(0.5)
    fp, sensitivity = found.froc
    assert fp.tolist() == [0, 0.5]
    assert sensitivity.tolist() == [0.5, 0.5]


def test_unclean_negatives_are_counted(truth: TruthEvaluator) -> None:
    assert truth.on_lesions(selected(tubelet("t1", NEAR_A), tubelet("t1", AWAY), tubelet("h1", A))) == 0.5


def test_regions_left_out_swallow_what_is_centred_in_them() -> None:
    region = {"volume_id": "t1", "z1": 5, "z2": 8, "x1": 0.0, "y1": 0.0, "x2": 25.0, "y2": 25.0}
    regions = pa.Table.from_pylist([region], IGNORE)
    rows = selected(tubelet("t1", A), tubelet("t1", B), tubelet("t2", A))
    assert outside_ignored(rows, regions)["tubelet_id"].to_pylist() == [1, 2]
    assert outside_ignored(rows, IGNORE.empty_table()) is rows
    assert len(outside_ignored(selected(), regions)) == 0
    elsewhere = pa.Table.from_pylist([region | {"z1": 6}], IGNORE)
    # The best slice of each tubelet is 5.
    assert len(outside_ignored(rows, elsewhere)) == 3


def test_json_has_no_infinity() -> None:
    assert [finite(value) for value in (0.5, np.inf, -np.inf, np.nan)] == [0.5, None, None, None]
