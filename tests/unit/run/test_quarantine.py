"""Marks of parts that are begun: few requests, none lost, read as they change."""

import json
from pathlib import Path

import pytest

from harvester.run import quarantine as module
from harvester.run.quarantine import Marks, Quarantine, Worker, begun, forget, mark_name
from harvester.storage.location import Location

VOLUMES = [f"v{i}" for i in range(16)]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    return Quarantine(Location.of(tmp_path), Worker("driver", "node"), lambda: ["node"])


def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that change something, as they come."""
    requests: list[str] = []
    for name in ("write_bytes", "delete"):
        before = getattr(Location, name)

        def counted(self: Location, *given: object, name: str = name, before: object = before) -> object:
            requests.append(name)
            return before(self, *given)  # type: ignore[operator]

        monkeypatch.setattr(Location, name, counted)
    return requests


def test_a_part_of_quick_volumes_costs_two_requests(
    quarantine: Quarantine, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = written(monkeypatch)
    quarantine.begin("part", VOLUMES)
    for volume in VOLUMES:
        now[0] += 0.1
        quarantine.end(volume)
    assert requests == ["write_bytes", "delete"]
    assert quarantine.folder.files() == []


def test_slow_volumes_are_struck_out_as_they_end(quarantine: Quarantine, now: list[float]) -> None:
    quarantine.begin("part", VOLUMES)
    for done, volume in enumerate(VOLUMES[:3], 1):
        now[0] += 60
        quarantine.end(volume)
        assert begun(quarantine.folder, VOLUMES) == set(VOLUMES[done:])


def test_what_is_begun_is_in_the_mark_before_it_is_touched(quarantine: Quarantine, now: list[float]) -> None:
    """Of two parts at once each has its own mark; one that ends takes the other's nothing away."""
    quarantine.begin("a", ["a0", "a1"])
    quarantine.begin("b", ["b0"])
    now[0] += 60
    quarantine.end("a0")
    assert begun(quarantine.folder, ["a0", "a1", "b0", "c0"]) == {"a1", "b0"}
    quarantine.end("b0")
    assert begun(quarantine.folder, ["a0", "a1", "b0", "c0"]) == {"a1"}


def test_looks_read_each_mark_once_and_not_those_of_the_dead(
    quarantine: Quarantine, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    quarantine.begin("dead", ["d0"])
    marks, read = Marks(quarantine.folder), []
    before = Location.read_json

    def counted(self: Location, **fields: type) -> object:
        read.append(self.name)
        return before(self, **fields)

    monkeypatch.setattr(Location, "read_json", counted)
    assert marks.look()[1] == {}
    quarantine.begin("part", VOLUMES)
    assert [marks.look()[1] for _ in range(3)] == [{"part": 16}] * 3
    assert read == [mark_name("part")]
    now[0] += 60
    quarantine.end("v0")
    assert marks.look()[1] == {"part": 15}
    quarantine.begin_alone("d0", "dead", 1)
    assert marks.look()[1] == {"part": 15, "dead": 1}
    forget(quarantine.folder)
    assert marks.look()[1] == {}


def test_a_mark_holds_ids_and_places_alone(quarantine: Quarantine, tmp_path: Path) -> None:
    quarantine.begin("part", ["v0"])
    assert json.loads((tmp_path / mark_name("part")).read_text()) == {
        "driver": "driver", "node": "node", "part": "part", "left": 1, "volumes": ["v0"]
    }  # fmt: skip
