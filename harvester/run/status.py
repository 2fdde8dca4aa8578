"""How far a run is, read from its folder alone: while it runs, from another terminal, or after it has stopped."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from harvester.errors import StoreError
from harvester.run.folder import NOTE, PARTIALS
from harvester.run.log import read_log
from harvester.run.partials import Partials
from harvester.storage.location import Location, Where

LATEST_PARTS: Final = 20
"""The rate is theirs: what went before may have been read from a cold disk, or before a restart."""
QUIET_S: Final = 600
"""A run that has written nothing for so long may be dead."""
Told = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A step that works in parts and has no table yet.

    rate    volumes a second of the latest parts, or None before two are published
    """

    step: str
    volumes: int
    done: int
    errors: dict[str, str]
    rate: float | None

    @property
    def seconds_left(self) -> float | None:
        """At this rate."""
        return (self.volumes - self.done) / self.rate if self.rate else None


@dataclass(frozen=True)
class Status:
    """steps: finished ones in the order of their rounds; part: the one under way; log: the run's lines, latest last."""

    steps: list[Told]
    part: Part | None
    log: list[Told]
    summary: Told | None

    @property
    def last_error(self) -> Told | None:
        """The latest line of the log that tells of an error."""
        return next((line for line in reversed(self.log) if line["level"] == "ERROR"), None)


def read_status(run: Where) -> Status:
    """Raises StoreError for a folder that is no run's."""
    folder = Location.of(run)
    if not (folder / "settings.yaml").is_file():
        raise StoreError(f"{folder}: no settings.yaml; give the folder of a run with --run")
    summary = folder / "summary.json"
    return Status(
        sorted(_steps(folder), key=lambda told: (told["round"], told.get("ended", 0.0))),
        _part(folder),
        read_log(folder),
        json.loads(summary.read_bytes()) if summary.is_file() else None,
    )


def lines(status: Status, now: float | None = None) -> Iterator[str]:
    """The status for people."""
    yield f"{'round':>5}  {'step':16}{'seconds':>9}  did"
    for told in status.steps:
        did = ", ".join(f"{name} {value:g}" for name, value in told["counts"].items())
        yield f"{told['round']:>5}  {told['step']:16}{told['seconds']:9.1f}  {did}"
    if status.part:
        yield _under_way(status.part)
        yield from (f"  left out: volume {volume}: {error}" for volume, error in status.part.errors.items())
    if status.summary:
        final = status.summary.get("final", {})
        yield f"finished: {status.summary['stopped_because']}; {final.get('harvested', 0)} lesions harvested"
    elif status.log:
        latest = status.log[-1]
        quiet = (time.time() if now is None else now) - latest["time"]
        dead = "; is it still running?" if quiet > QUIET_S else ""
        yield f"last line, {_span(quiet)} ago{dead}: {latest['message']}"
    if (error := status.last_error) and not status.summary:
        yield f"last error: {error['message']}"


def _under_way(part: Part) -> str:
    left = part.seconds_left
    rate = f", {part.rate:.2g} volumes a second, {_span(left)} left" if part.rate and left is not None else ""
    return f"under way: {part.step}, {part.done} of {part.volumes} volumes{rate}"


def _rounds(folder: Location) -> list[Location]:
    return [folder / name for name in folder.folders() if name.startswith("round-")]


def _steps(folder: Location) -> Iterator[Told]:
    for each in _rounds(folder):
        for name in each.files():
            if name.endswith(NOTE):
                yield json.loads((each / name).read_bytes())


def _part(folder: Location) -> Part | None:
    """The latest step in parts without its table."""
    open_ones = []
    for each in _rounds(folder):
        files = each.files()
        begun = [name for name in each.folders() if name.endswith(PARTIALS)]
        open_ones += [each / name for name in begun if f"{name.removesuffix(PARTIALS)}{NOTE}" not in files]
    if not open_ones:
        return None
    path = max(open_ones, key=lambda path: Partials(path).planned_at())
    partials = Partials(path)
    records = sorted(
        (record for name in partials.done() if (record := partials.record(name))),
        key=lambda record: record["ended"],
    )
    errors = {volume: error for record in records for volume, error in record["errors"].items()}
    done = sum(len(record["volumes"]) for record in records)
    step = f"round {path.parent.name.removeprefix('round-')} {path.name.rsplit('-', 1)[0]}"
    return Part(step, partials.volumes(), done, errors, _rate(records[-LATEST_PARTS:]))


def _rate(records: list[Told]) -> float | None:
    if len(records) < 2:
        return None
    took = records[-1]["ended"] - records[0]["ended"]
    return sum(len(record["volumes"]) for record in records[1:]) / max(took, 1e-3)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
