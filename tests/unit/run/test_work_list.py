"""How a worker goes through parts, without Ray: what is read ahead, who is alone, who is left out."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from harvester.errors import NoRoomError, VolumeError
from harvester.run.partials import Part, Row
from harvester.run.quarantine import CRASHES, Quarantine, Worker, begun, forget, is_crash
from harvester.run.work_list import Outcome, WorkList
from harvester.storage.location import Location

PARTS = [Part(name, [{"volume_id": f"{name}{i}"} for i in range(2)]) for name in "abc"]
EVERY = [row["volume_id"] for part in PARTS for row in part.rows]


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    return Quarantine(Location.of(tmp_path), Worker("driver", "node"), lambda: ["node"])


class Reader:
    """Tasks that are read two ahead, and what was begun when each was done."""

    def __init__(self, folder: Location, errors: dict[str, Exception] | None = None) -> None:
        self.folder, self.errors = folder, errors or {}
        self.seen: dict[str, set[str]] = {}

    def __call__(self, rows: Iterable[Row]) -> Iterator[Callable[[], str]]:
        waiting: list[Row] = []
        for row in rows:
            waiting.append(row)
            if len(waiting) > 2:
                yield partial(self.work, waiting.pop(0))
        yield from (partial(self.work, row) for row in waiting)

    def work(self, row: Row) -> str:
        volume_id: str = row["volume_id"]
        self.seen[volume_id] = begun(self.folder, EVERY)
        if volume_id in self.errors:
            raise self.errors[volume_id]
        return volume_id.upper()


def through(
    quarantine: Quarantine, reader: Reader, done: Iterable[str] = (), suspects: Iterable[str] = ()
) -> dict[str, list[Outcome[str]]]:
    listed = WorkList.split(PARTS, set(done), set(suspects)).outcomes(reader, quarantine)
    return {part.name: list(outcomes) for part, outcomes in listed}


def test_parts_are_done_clean_or_quarantined() -> None:
    split = WorkList.split(PARTS, {"a"}, {"a0", "b1"})
    assert (split.done, split.quarantined, split.clean) == (PARTS[:1], PARTS[1:2], PARTS[2:])
    assert WorkList.split([], set(), set()) == WorkList([], [], [])


def test_clean_parts_are_read_ahead_of_each_other(quarantine: Quarantine) -> None:
    reader = Reader(quarantine.folder)
    outcomes = through(quarantine, reader, done=["b"])
    assert {name: [each.result for each in given] for name, given in outcomes.items()} == {
        "a": ["A0", "A1"],
        "c": ["C0", "C1"],
    }
    assert reader.seen["a0"] == {"a0", "a1", "c0", "c1"}  # a part's volumes are written down together
    assert begun(quarantine.folder, EVERY) == set()


def test_a_suspect_has_the_process_for_itself(quarantine: Quarantine) -> None:
    """Its part is last, whatever its place: nothing is read ahead while it is judged."""
    reader = Reader(quarantine.folder)
    outcomes = through(quarantine, reader, suspects=["a1"])
    assert list(outcomes) == ["b", "c", "a"]
    assert (reader.seen["a0"], reader.seen["a1"]) == ({"a0"}, {"a1"})


def test_one_that_kills_twice_is_left_out_and_again_at_a_restart(quarantine: Quarantine) -> None:
    for _ in range(CRASHES):
        quarantine.begin_alone("b0", "b", 2)  # and does not come back
    for _ in range(2):
        reader = Reader(quarantine.folder)
        given = through(quarantine, reader, suspects=["b0"])["b"]
        assert [each.result for each in given] == [None, "B1"]
        assert is_crash(given[0].error)
        assert str(given[0].error).startswith(
            "volume b0: 2 workers that had it alone did not come back, dead or stuck; "
        )
        assert "b0" not in reader.seen
    forget(quarantine.folder)
    assert through(quarantine, Reader(quarantine.folder), suspects=["b0"])["b"][0].result == "B0"


def test_an_error_leaves_its_volume_out_but_a_full_disk_or_a_mistake_of_ours_ends_the_step(
    quarantine: Quarantine,
) -> None:
    error = VolumeError("bad", "volume a0: bad")
    given = through(quarantine, Reader(quarantine.folder, {"a0": error}))["a"]
    assert [(each.result, each.error) for each in given] == [(None, error), ("A1", None)]
    for fatal in (NoRoomError("full"), KeyError("x")):
        with pytest.raises(type(fatal)):
            through(quarantine, Reader(quarantine.folder, {"b1": fatal}))


class Scan:
    """What is large while a volume is worked on."""


def test_nothing_of_another_volume_is_held_while_a_suspect_is_worked_on(quarantine: Quarantine) -> None:
    """Neither what was read ahead nor the result before: what kills the worker then is the volume's doing."""
    alive: weakref.WeakSet[Scan] = weakref.WeakSet()
    beside: dict[str, int] = {}

    def tasks(rows: Iterable[Row]) -> Iterator[Callable[[], Scan]]:
        """One is read ahead, and the last one is held until the end is asked for, as a thread's frame would."""
        waiting: list[Scan] = []
        for row in rows:
            beside[row["volume_id"]] = len(alive)
            alive.add(scan := Scan())
            waiting.append(scan)
            if len(waiting) > 1:
                yield partial(waiting.pop, 0)
        yield from (partial(waiting.pop, 0) for _ in waiting[:])
        del scan

    for _, outcomes in WorkList.split(PARTS, set(), {"b0", "b1"}).outcomes(tasks, quarantine):
        for outcome in outcomes:
            assert outcome.result
            del outcome
    assert (beside["b0"], beside["b1"]) == (0, 0)
    assert beside["c1"] > 0
