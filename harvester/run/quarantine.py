"""Volumes that kill their worker: found, done with nothing else at stake, and left out where they do it again.

A worker writes down the volumes of each part that it begins, and strikes out those that have ended, now and then: a
mark, begun-<part>.json, which it deletes when all have. Volumes of a mark that stays behind are suspects. Each is begun
alone, with no other volume begun in its process and a mark of its own, begun-<volume>.json; workers that do not come
back from that are counted, and from CRASHES on it is the volume's doing. Its mark stays until the step is over, so that
a restart leaves it out at once.
"""

import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

from harvester.config.fingerprint import settings_hash
from harvester.errors import VolumeError
from harvester.storage.location import Location

BEGUN: Final = "begun-"
CRASH: Final = "crash"
"""The reason of a VolumeError."""
CRASHES: Final = 2
"""Of workers that had one volume alone: then it is the volume's doing, and it is left out."""
SHARED_CRASH: Final = 0.25
"""What a worker's death counts that died with its node or its driver: preemptions and restarts do that too, but so
does a volume that takes its machine along."""

SECONDS_BETWEEN_MARKS: Final = 5.0
"""A part's mark is written anew at most so often: quick volumes cost next to nothing, slow ones show that they end."""


@dataclass(frozen=True)
class Worker:
    """Who works on a volume: the names of its driver (one per start) and of its node."""

    driver: str
    node: str


class Quarantine:
    """What a worker asks and tells of the volumes of one step.

    folder       where the marks lie, the same for all workers
    alive_nodes  the nodes that live now
    """

    def __init__(self, folder: Location, worker: Worker, alive_nodes: Callable[[], Collection[str]]) -> None:
        self.folder, self.worker, self.alive_nodes = folder, worker, alive_nodes
        self.held: list[_Held] = []

    def begin(self, part: str, volume_ids: Sequence[str]) -> None:
        """The volumes of a part are begun, among others."""
        held = _Held(part, [*volume_ids])
        self.held.append(held)
        self._write(held)

    def begin_alone(self, volume_id: str, part: str, left: int) -> None:
        """A volume is begun, nothing else beside it. Raises VolumeError (crash) for one that has killed too often.

        left    how many volumes of its part have not ended, this one among them
        """
        crashes = self.crash_count(volume_id)
        if crashes >= CRASHES:
            raise VolumeError(
                CRASH,
                f"volume {volume_id}: {int(crashes)} workers that had it alone did not come back, dead or stuck; see "
                "whether another program opens it, and export it again or leave it out",
            )
        self._mark(volume_id, {"part": part, "left": left, "volumes": [], "alone": True, "crashes": crashes})

    def end(self, volume_id: str) -> None:
        """The worker lives."""
        held = next((each for each in self.held if volume_id in each.volumes), None)
        if held is None:
            _mark_of(self.folder, volume_id).delete()
            return
        held.volumes.remove(volume_id)
        if not held.volumes:
            self.held.remove(held)
            self.release(held.part)
        elif time.monotonic() - held.written >= SECONDS_BETWEEN_MARKS:
            self._write(held)

    def release(self, part: str) -> None:
        """All volumes of a part have ended."""
        _mark_of(self.folder, part).delete()

    def crash_count(self, volume_id: str) -> float:
        """How many workers that had this volume alone have died; SHARED_CRASH each that died with node or driver."""
        mark = _mark_of(self.folder, volume_id).read_json(crashes=Real) or {}
        before = float(mark.get("crashes", 0.0))
        if not mark.get("alone"):
            return before
        own = mark.get("driver") == self.worker.driver and mark.get("node") in self.alive_nodes()
        return before + (1.0 if own else SHARED_CRASH)

    def _write(self, held: "_Held") -> None:
        held.written = time.monotonic()
        self._mark(held.part, {"part": held.part, "left": len(held.volumes), "volumes": held.volumes})

    def _mark(self, name: str, more: Mapping[str, Any]) -> None:
        mark = {"driver": self.worker.driver, "node": self.worker.node, **more}
        _mark_of(self.folder, name).write_bytes(json.dumps(mark).encode())


@dataclass
class _Held:
    """A part that is begun, the volumes of it that have not ended, and when that was last written down."""

    part: str
    volumes: list[str]
    written: float = -math.inf


class Marks:
    """The marks of a step's folder, each read as it changes; those there at first are of workers that died before."""

    def __init__(self, folder: Location) -> None:
        self.folder = folder
        self.dead: Mapping[str, int | None] | None = None
        self.read: dict[str, tuple[int | None, str, int]] = {}

    def look(self) -> tuple[Mapping[str, int | None], dict[str, int]]:
        """All files of the folder and when they were written; of each part that is begun, how many volumes of it have
        not ended."""
        files = self.folder.versions()
        marks = {name: when for name, when in files.items() if name.startswith(BEGUN)}
        self.dead = marks if self.dead is None else self.dead
        living = {name: when for name, when in marks.items() if self.dead.get(name, -1) != when}
        self.read = {name: said for name, said in self.read.items() if name in living}
        for name, when in living.items():
            if name not in self.read or self.read[name][0] != when:
                mark = (self.folder / name).read_json(part=str, left=int)
                if mark:  # not one that has ended since
                    self.read[name] = when, mark["part"], mark["left"]
        begun: dict[str, int] = {}
        for _, part, left in self.read.values():
            begun[part] = min(left, begun.get(part, left))
        return files, begun


def is_crash(error: Exception | None) -> bool:
    """Whether an error leaves out a volume that kills."""
    return isinstance(error, VolumeError) and error.reason == CRASH


def begun(folder: Location, volume_ids: Iterable[str]) -> set[str]:
    """Those of the volumes that a worker has begun and not come back from, dead or alive."""
    marks = {name for name in folder.files() if name.startswith(BEGUN)}
    asked = {mark_name(volume_id): volume_id for volume_id in volume_ids}
    listed = ((folder / name).read_json(volumes=list) or {"volumes": []} for name in marks - asked.keys())
    held = {volume_id for mark in listed for volume_id in mark["volumes"]}
    return {volume_id for name, volume_id in asked.items() if name in marks or volume_id in held}


def forget(folder: Location) -> None:
    """Delete all marks: the step is over, or to be tried as if nothing had happened."""
    for name in folder.files():
        if name.startswith(BEGUN):
            (folder / name).delete()


def mark_name(name: str) -> str:
    """The file that says who works on a part or a volume."""
    return f"{BEGUN}{settings_hash(name)}.json"


def _mark_of(folder: Location, name: str) -> Location:
    return folder / mark_name(name)
