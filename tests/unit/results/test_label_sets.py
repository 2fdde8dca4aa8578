"""The label sets that detectors are compared on, and what is drawn at random for them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harvester.config.settings import MiningSettings
from harvester.errors import StoreError
from harvester.labels.ledger import extend, from_marks
from harvester.records import LEDGER, LedgerTable, Mark, Role, Source, empty
from harvester.results.label_sets import GRADES, LabelSets, graded
from harvester.store.store import Store
from tests.builders import label, made_store, scored, tubelet

Boxes = tuple[float, float, float, float]


def place(at: int) -> Boxes:
    """Places that do not touch."""
    return (40.0 * (at % 10), 40.0 * (at // 10), 40.0 * (at % 10) + 9, 40.0 * (at // 10) + 9)


def mark(volume: str, at: int, clinical: bool) -> Mark:
    return Mark(volume, f"{volume}-{at}", 4, *place(at), clinical)


MARKS = [mark("m", 0, True), mark("m", 1, False), mark("h", 0, True)]
HIDDEN = [mark("h", at, False) for at in range(1, 9)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made_store(tmp_path, {"m": "vm", "h": "vh_test"}, known=MARKS, truth=[*HIDDEN, mark("h", 0, True)])


def sets_of(store: Store, found: LedgerTable, seed: int = 0) -> LabelSets:
    known = extend(from_marks(store.marks()), found)
    proposals = scored(*(tubelet("h", place(at), (3, 4, 5), lpg_score=0.5, lpc_score=0.5) for at in range(60)))
    return LabelSets(store, known, proposals, MiningSettings(), seed)


def harvested(*places: int) -> LedgerTable:
    rows = [label("h", place(at), Role.LESION, (3, 4, 5), source=Source.HARVESTED, label_id=f"f-{at}") for at in places]
    false = label("h", place(50), Role.HARD_NEGATIVE, (4,), source=Source.HARD_NEGATIVE_VH, label_id="n")
    return LedgerTable(pa.Table.from_pylist([*rows, false], LEDGER))


def test_each_set_has_the_labels_of_its_name(store: Store) -> None:
    sets = sets_of(store, harvested(1, 2, 3))
    count = {name: sets.table(name).num_rows for name in sets.names()}
    assert count == {
        "clinical": 2, "complete_vm": 3, "harvest": 6, "hard_negatives": 7, "placebo": 6, "full_truth": 3 + len(HIDDEN),
    }  # fmt: skip
    assert not {row["source"] for row in sets.table("clinical").to_pylist()} - {Source.CLINICAL}
    assert {row["role"] for row in sets.table("hard_negatives").to_pylist()} == {Role.LESION, Role.HARD_NEGATIVE}


def test_the_placebo_is_neither_marked_nor_harvested(store: Store) -> None:
    drawn = []
    for seed in range(20):
        sets = sets_of(store, harvested(1, 2, 3), seed)
        mine = {row["x1"][0] + 10 * row["y1"][0] for row in sets.table("placebo").to_pylist() if row["round"] == -1}
        of_harvest = {place(at)[0] + 10 * place(at)[1] for at in (1, 2, 3)}
        new = [
            row for row in sets.table("placebo").to_pylist()
            if row["source"] == Source.HARVESTED
        ]  # fmt: skip
        assert len(new) == 3 and mine
        assert not {row["x1"][0] + 10 * row["y1"][0] for row in new} & of_harvest
        drawn.append(tuple(row["label_id"] for row in new))
    assert len(set(drawn)) > 10


def test_a_graded_harvest_has_its_precision_and_recall_and_holds_the_lower_ones(store: Store) -> None:
    sets, hidden = sets_of(store, harvested(1)), {each.mark_id for each in HIDDEN}
    kept: dict[int, set[str]] = {}
    for precision, recall in GRADES:
        rows = sets.table(graded(precision, recall)).to_pylist()
        right = {row["label_id"] for row in rows} & hidden
        false = [row for row in rows if row["source"] == Source.HARVESTED]
        assert len(right) == round(len(hidden) * recall / 100)
        assert len(false) == round(len(right) * (100 - precision) / precision)
        assert kept.setdefault(recall, right) == right  # the same lesions at each precision
        truths = [place(at) for at in range(9)]
        assert not any((row["x1"][0], row["y1"][0]) == truth[:2] for row in false for truth in truths)
    assert kept[50] < kept[75]


def test_without_a_harvest_without_all_truth_or_enough_proposals(store: Store, tmp_path: Path) -> None:
    none = sets_of(store, empty(LedgerTable))
    for name in ("harvest", "hard_negatives", "placebo"):
        with pytest.raises(StoreError, match="the run harvested nothing"):
            none.table(name)
    assert none.table("full_truth").num_rows == 3 + len(HIDDEN)
    partly = made_store(tmp_path / "partly", {"m": "vm", "h": "vh_test", "o": "vh"}, known=MARKS, truth=HIDDEN)
    sets = sets_of(partly, harvested(1))
    assert not sets.knows_all
    assert list(sets.names(exchange_rate=True)) == ["clinical", "complete_vm", "harvest", "hard_negatives", "placebo"]


def test_fewer_proposals_than_labels_are_a_shorter_placebo_and_no_graded_harvest(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    many = sets_of(store, harvested(*range(1, 59)))
    assert many.table("placebo").num_rows == 3 + 1  # of 60 proposals one is neither marked nor harvested
    assert "the placebo has 1 labels, not 58: no more proposals are left" in caplog.text
    with pytest.raises(StoreError, match="2 random proposals are wanted, 1 lie apart from every label"):
        many.table(graded(80, 100))


def test_the_draws_are_of_the_seed(store: Store) -> None:
    one, same = (sets_of(store, harvested(1, 2), 3).table("placebo") for _ in range(2))
    assert one.equals(same)
    assert np.all(np.array(one["round"].to_pylist()) == -1)
