"""One writer at a time in a folder, on a disk, a share or in a bucket, none of which need know locks.

A writer puts a record of its own down first and looks for others then: of two that start at once at least one sees the
other, and who sees a living one goes away. A record is dead when its process is, on this machine; when another
machine's, or one that cannot be read, says nothing new for a while; it is removed then.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Final
from uuid import uuid4

from harvester.errors import StoreError, one_line
from harvester.storage.location import Location
from harvester.text import clock

logger = logging.getLogger(__name__)

PREFIX: Final = "writer-"
SECONDS_BETWEEN_BEATS: Final = 20.0
SECONDS_TO_LIVE: Final = 120.0
"""A record of another machine is dead that long after its last change: six beats, for shares show changes late."""
SECONDS_TO_END: Final = 5.0
"""One of this machine may be about to end: whoever stops a program and starts it again has not to wait."""
PAUSE_S: Final = 0.5
LATEST: Final = 1e11
"""No time of a record, in seconds, is as late."""


@dataclass(frozen=True)
class Writer:
    """Who writes. machine: "" where it cannot be told; began: of the process, so that its number is one of a kind."""

    host: str
    machine: str
    pid: int
    began: str
    since: float
    beat: int = 0

    @property
    def ended(self) -> bool:
        """Whether the process is known not to live any more."""
        return _is_here(self) and _began(self.pid) != self.began


@contextmanager
def owned(folder: Location) -> Iterator[None]:
    """Hold the folder against other writers. Raises StoreError where one has it, or nothing can be written."""
    own, stop = folder / f"{PREFIX}{uuid4().hex[:12]}.json", threading.Event()
    writer = Writer(socket.gethostname(), _machine(), os.getpid(), _began(os.getpid()), time.time())
    try:
        _put(own, writer)
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else one_line(error)
        raise StoreError(f"{folder}: cannot be written ({cause}); see to that, or give another folder") from error
    beats = threading.Thread(target=_beat, args=(own, writer, stop), daemon=True)
    beats.start()
    try:
        for record in _records(folder):
            if record != own:
                _require_dead(record, writer)
        yield
    finally:
        stop.set()
        beats.join(SECONDS_TO_END)  # a beat that hangs in a slow store holds nobody up
        with suppress(OSError):
            own.delete()


def writers(folder: Location) -> list[Writer]:
    """Who holds the folder, and who did until it was killed."""
    return [writer for record in _records(folder) if (writer := _read(record))]


def _records(folder: Location) -> list[Location]:
    return [folder / name for name in folder.files() if name.startswith(PREFIX)]


def _beat(own: Location, writer: Writer, stop: threading.Event) -> None:
    while not stop.wait(SECONDS_BETWEEN_BEATS):
        writer = replace(writer, beat=writer.beat + 1)
        with suppress(OSError, StoreError):  # a store that is busy for a while: a later beat arrives
            if not own.is_file():
                logger.error("%s: another writer took this one for dead and works here now; stop one", own.parent)
                return
            _put(own, writer)


def _require_dead(record: Location, own: Writer) -> None:
    """Remove the record of a writer that is dead. Raises StoreError for one that lives."""
    first = _seen(record)
    if first and not first.ended and _lives(record, first, own):
        if not first.pid:
            raise StoreError(
                f"{record}: is still being written and is no record that this release can read; wait for its writer's "
                "end, stop it, or give another folder"
            )
        raise StoreError(
            f"{record.parent}: is written by process {first.pid} on {first.host} since {clock(first.since)}; wait for "
            "its end, stop it, or give another folder"
        )
    record.delete()


def _lives(record: Location, first: Writer, own: Writer) -> bool:
    """Whether a writer is there still when one of this machine should have ended, or shows on another that it lives."""
    here = _is_here(first)
    # Of two that start at once the later one gives up while the earlier one still waits.
    seconds = SECONDS_TO_END * (1 if first.since < own.since else 2) if here else SECONDS_TO_LIVE
    if not first.pid:
        seconds = min(seconds, seconds + first.since - time.time())
    elif not here:
        logger.info("%s: is its writer on %s dead? waiting %.0f s at most", record.parent, first.host, seconds)
    until = time.monotonic() + seconds
    while (now := _seen(record)) and not now.ended and time.monotonic() < until:
        if now.beat != first.beat and not here:
            return True
        time.sleep(PAUSE_S)
    return here and now is not None and not now.ended


def _put(record: Location, writer: Writer) -> None:
    record.write_text(json.dumps(asdict(writer)))


def _seen(record: Location) -> Writer | None:
    """None where there is none any more. Of one that cannot be read, as another release's, its time: process 0."""
    if writer := _read(record):
        return writer
    versions = record.parent.versions()
    if record.name not in versions:
        return None
    changed = versions[record.name] or 0
    return Writer("", "", 0, "", changed / 1e9 if changed else time.time(), changed)


def _read(record: Location) -> Writer | None:
    """None where there is none any more, and for what is no record."""
    try:
        tree = json.loads(record.read_bytes())
        writer = Writer(**{field.name: tree[field.name] for field in fields(Writer) if field.name in tree})
        return writer if writer.pid > 0 and 0 <= writer.since < LATEST and isinstance(writer.pid, int) else None
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None


def _is_here(writer: Writer) -> bool:
    return bool(writer.machine) and writer.machine == _machine()


@cache
def _machine() -> str:
    """This machine since its last start, and which of its processes are seen from here; "" where it cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a process of this machine began, in ticks; "" for one that does not live."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
