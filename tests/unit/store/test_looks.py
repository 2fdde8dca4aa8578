"""Looks at a store's V_M are counted once each, whoever writes them, and stop nobody where they cannot be."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from harvester.errors import StoreError
from harvester.store import looks
from harvester.store.looks import look, said
from harvester.store.store import Store
from tests.builders import made_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    clock = count(1.0)
    monkeypatch.setattr(looks.time, "time", lambda: next(clock))
    return made_store(tmp_path / "store", {"a": "vm", "b": "vm", "c": "vh"})


def test_each_other_run_counts_once_and_the_same_one_not_at_all(store: Store) -> None:
    data = store.data_hash()
    assert [look(store, name) for name in ("first", "first", "second", "third", "third")] == [0, 0, 1, 2, 2]
    # A run that goes on later still has those before it alone.
    assert [look(store, name) for name in ("first", "second")] == [0, 1]
    # Notes are no data: a run's steps stay what they are.
    assert Store.open(store.path).data_hash() == data
    assert len((store.path / looks.FOLDER).files()) == 3


def test_only_looks_at_the_same_patients_count(store: Store, tmp_path: Path) -> None:
    look(store, "first")
    grown = made_store(tmp_path / "store", {"b": "vm", "d": "vm", "c": "vh"})
    assert look(grown, "second") == 1
    other = made_store(tmp_path / "store", {"e": "vm", "a": "vh"})
    assert look(other, "third") == 0


def broken(store: Store) -> Store:
    (store.path / looks.FOLDER / "0123456789ab.json").write_text("{")
    (store.path / looks.FOLDER / "0123456789ac.json").write_text('{"patients": 3, "at": "x"}')
    return store


def taken(store: Store) -> Store:
    (store.path / looks.FOLDER).write_text("a file where the folder should be")
    return store


def read_only(store: Store) -> Store:
    return replace(store, path=replace(store.path, read_only=True))


@pytest.mark.parametrize(("harm", "told"), [(broken, 0), (taken, None), (read_only, None)])
def test_what_cannot_be_counted_stops_nobody(harm: Callable[[Store], Store], told: int | None, store: Store) -> None:
    assert look(harm(store), "mine") == told


def test_it_is_said_in_one_sentence() -> None:
    assert said(2).startswith("V_M has been looked at by 2 earlier runs with other settings; the promise is for one: ")
    assert said(1).startswith("V_M has been looked at by 1 earlier run with other settings; the promise is for one: ")
    assert said(0) == "No run has looked at this V_M before"
    assert "could not be counted" in said(None)


def test_audits_of_all_runs_are_counted_and_a_list_is_drawn_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    data = store.data_hash()
    assert [looks.audit(store, name, "run1") for name in ("a", "b")] == [0, 1]
    with pytest.raises(StoreError, match="drawn already, of run1"):
        looks.audit(store, "a", "run2")
    assert looks.audit(store, "c", "run2") == 2
    assert Store.open(store.path).data_hash() == data
    nowhere = replace(store, path=store.path / "manifest.parquet")
    assert looks.audit(nowhere, "d", "run2") is None
    assert "could not be counted" in caplog.text
