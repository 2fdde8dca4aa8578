"""What people reviewed in the loop: known from round 0, kept in every round, never found, counted or mined again."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.config.settings import MiningSettings, Settings
from harvester.labels import ledger as ledgers
from harvester.mining import candidates, negatives
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import LEDGER, Box, rows_where
from harvester.results.truth import without_reviewed
from tests.builders import label, manifest, mark, marks, reviewed, scored, tubelet

HERE: Box = (10, 10, 29, 29)
THERE: Box = (60, 60, 79, 79)
AWAY: Box = (100, 100, 119, 119)
SETTINGS = MiningSettings()
VOLUMES = {"m": "vm", "h": "vh", "t": "vh_test"}


def found(volume: str, box: Box) -> dict[str, Any]:
    return tubelet(volume, box, lpg_score=0.9, lpc_score=0.01, width_mm=20.0)


def verdict(volume: str, box: Box, role: str, z: tuple[int, ...] = (5,), **more: Any) -> dict[str, Any]:
    return label(volume, box, role, z, **{"round": 1, "score": 0.8, "run_id": "r"} | more)


def known(*rows: dict[str, Any]) -> pa.Table:
    return ledgers.initial_ledger(marks(), reviewed(*rows))


def ids(table: pa.Table) -> list[int]:
    return list(table["tubelet_id"].to_pylist())


def test_without_a_review_a_run_begins_with_the_marks_alone() -> None:
    given = marks(mark("m", HERE))
    assert ledgers.initial_ledger(given, reviewed()).equals(ledgers.from_marks(given).combine_chunks())


def test_reviewed_labels_are_known_before_round_0_with_their_origin() -> None:
    (row,) = known(verdict("h", HERE, "lesion")).to_pylist()
    assert (row["source"], row["role"], row["round"]) == ("reviewed", "lesion", -1)
    assert (row["score"], row["run_id"]) == (0.8, "r")


def test_they_last_while_what_was_mined_does_not() -> None:
    mined = (verdict("h", AWAY, "hard_negative"), verdict("h", THERE, "lesion", (7,)))
    roles = ("lesion", "hard_negative", "ignored", "calibration")
    ledger = known(*(verdict("h", (10 * at, 1, 10 * at + 5, 9), role) for at, role in enumerate(roles)), *mined)
    ledger = ledger.set_column(3, "source", pa.array(["reviewed"] * 4 + ["hard_negative_vh", "harvested"]))
    assert sorted(ledgers.persistent(ledger)["role"].to_pylist()) == sorted(roles)
    # While they are labels, nothing is mined on what was harvested either.
    excluded = ["hard_negative", "ignored", "lesion", "lesion"]
    assert sorted(ledgers.exclusion_labels(ledger)["role"].to_pylist()) == excluded


@pytest.mark.parametrize("role", ["lesion", "hard_negative", "ignored"])
def test_nothing_that_touches_them_is_found_or_mined(role: str) -> None:
    ledger = ledgers.extrude_marks(known(verdict("h", HERE, role)), manifest(VOLUMES))
    table = scored(found("h", HERE), found("h", AWAY), found("t", HERE))
    assert ids(candidates.candidates(table, ledgers.exclusion_labels(ledger), SETTINGS)) == [1, 2]
    assert sorted(ids(negatives.possible_hard_negatives(table, ledger, SETTINGS))) == [1, 2]
    assert sorted(ids(negatives.sure_hard_negatives(table, ledger, SETTINGS))) == [1, 2]


def test_a_rejected_find_teaches_although_its_volume_is_partly_marked() -> None:
    table = scored(found("h", HERE), found("h", AWAY), found("h", THERE))
    ledger = known(verdict("h", HERE, "hard_negative", (4, 5, 6)), verdict("h", THERE, "lesion"))
    lesion, other = negatives.classifier_examples(table, ledger, manifest(VOLUMES), 0.5)
    assert lesion.tolist() == [False, False, True]
    assert other.tolist() == [True, False, False]
    mined = ledger.set_column(3, "source", pa.array(["hard_negative_vh", "reviewed"]))
    assert not negatives.classifier_examples(table, mined, manifest(VOLUMES), 0.5)[1].any()


@pytest.mark.parametrize("role", ["calibration", "rehearsed"])
def test_the_calibration_set_leaves_out_what_a_reviewed_run_accepted_but_not_its_false_ones(role: str) -> None:
    """What is false in V_M must go on counting: looking at it made V_H no better."""
    table = scored(found("m", HERE), found("m", THERE), found("m", AWAY), found("h", AWAY))
    said = reviewed(verdict("m", HERE, role, (4, 5)), verdict("m", AWAY, "hard_negative", (4, 5)))
    store = StoreTables(manifest(VOLUMES), marks(), said)
    view = RoundView((table,), store, Settings(mining=SETTINGS))
    assert ids(view.calibration) == [1, 2]
    # They say what not to count, not what is there: V_M's best false finds stay its best hard negatives.
    ledger = rows_where(view.known, "role", "calibration")
    assert len(ledger) == 1
    assert sorted(ids(negatives.sure_hard_negatives(table, ledger, SETTINGS))) == [0, 1, 2, 3]
    assert len(ledgers.exclusion_labels(ledger)) == 0


def test_what_people_accepted_is_not_asked_for_again() -> None:
    hidden = marks(*(mark("t", box, False, mark_id=str(at)) for at, box in enumerate((HERE, AWAY, THERE))))
    verdicts = reviewed(verdict("t", HERE, "lesion", (4, 5)), verdict("t", THERE, "hard_negative", (5,)))
    assert without_reviewed(hidden, verdicts, 0.5)["mark_id"].to_pylist() == ["1", "2"]
    assert without_reviewed(hidden, reviewed(), 0.5).equals(hidden)


def test_the_ledger_of_a_reviewed_store_has_the_ledgers_schema() -> None:
    assert known().schema == LEDGER
    assert known(verdict("h", HERE, "ignored")).schema == LEDGER
    assert np.all(known(verdict("h", HERE, "ignored"))["round"].to_numpy() == -1)
