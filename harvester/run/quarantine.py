"""Volumes that kill their worker: found, done with nothing else at stake, and left out where they do it again.

A worker writes down each volume that it begins, and deletes the mark when it is done: begun-<volume>.json. A volume
whose mark stays behind is a suspect. It is begun alone, with no other volume begun in its process; workers that do not
come back from that are counted, and from CRASHES on it is the volume's doing. Its mark stays until the step is over, so
that a restart leaves it out at once.
"""

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Final

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


@dataclass(frozen=True)
class Worker:
    """Who works on a volume: the names of its driver (one per start) and of its node."""

    driver: str
    node: str


@dataclass(frozen=True)
class Quarantine:
    """What a worker asks and tells of the volumes of one step.

    folder       where the marks lie, the same for all workers
    alive_nodes  the nodes that live now
    """

    folder: Location
    worker: Worker
    alive_nodes: Callable[[], Collection[str]]

    def begin(self, volume_id: str) -> None:
        """A volume is begun among others."""
        self._mark(volume_id, alone=False, crashes=0.0)

    def begin_alone(self, volume_id: str) -> None:
        """A volume is begun, nothing else beside it. Raises VolumeError (crash) for one that has killed too often."""
        crashes = self.crash_count(volume_id)
        if crashes >= CRASHES:
            raise VolumeError(
                CRASH,
                f"volume {volume_id}: {int(crashes)} workers that had it alone did not come back, dead or stuck; see "
                "whether another program opens it, and export it again or leave it out",
            )
        self._mark(volume_id, alone=True, crashes=crashes)

    def end(self, volume_id: str) -> None:
        """The worker lives."""
        _mark_of(self.folder, volume_id).delete()

    def crash_count(self, volume_id: str) -> float:
        """How many workers that had this volume alone have died; SHARED_CRASH each that died with node or driver."""
        mark = _mark_of(self.folder, volume_id).read_json(crashes=Real) or {}
        before = float(mark.get("crashes", 0.0))
        if not mark.get("alone"):
            return before
        own = mark.get("driver") == self.worker.driver and mark.get("node") in self.alive_nodes()
        return before + (1.0 if own else SHARED_CRASH)

    def _mark(self, volume_id: str, alone: bool, crashes: float) -> None:
        mark = {"driver": self.worker.driver, "node": self.worker.node, "alone": alone, "crashes": crashes}
        _mark_of(self.folder, volume_id).write_bytes(json.dumps(mark).encode())


def is_crash(error: Exception | None) -> bool:
    """Whether an error leaves out a volume that kills."""
    return isinstance(error, VolumeError) and error.reason == CRASH


def begun(folder: Location, volume_ids: Iterable[str]) -> set[str]:
    """Those of the volumes that a worker has begun and not come back from, dead or alive."""
    marks = {name for name in folder.files() if name.startswith(BEGUN)}
    return {volume_id for volume_id in volume_ids if mark_name(volume_id) in marks}


def forget(folder: Location) -> None:
    """Delete all marks: the step is over, or to be tried as if nothing had happened."""
    for name in folder.files():
        if name.startswith(BEGUN):
            (folder / name).delete()


def mark_name(volume_id: str) -> str:
    """The file that says who works on a volume."""
    return f"{BEGUN}{settings_hash(volume_id)}.json"


def _mark_of(folder: Location, volume_id: str) -> Location:
    return folder / mark_name(volume_id)
