"""How far a run is, read from its folder alone: while it runs, from another terminal, or after it has stopped."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from harvester.errors import StoreError
from harvester.run.folder import NOTE, PARTIALS, StepNote, step_notes
from harvester.run.journal import read_run, round_folder, rounds
from harvester.run.log import read_log
from harvester.run.partials import Partials
from harvester.run.summary import Summary, read_summary
from harvester.storage.location import Location
from harvester.text import duration, table

LATEST_PARTS: Final = 20
"""The rate is theirs: what went before may have been read from a cold disk, or before a restart."""
QUIET_S: Final = 600
"""A run that has written nothing for so long may be dead."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """A step that works in parts and has no table yet.

    rate    volumes per second of the latest parts, or None before two are published
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
    """How far a run is.

    steps      notes of the finished ones, in the order of their rounds
    under_way  the step that is being made
    log        the run's lines, latest last
    summary    of a finished run
    """

    steps: list[StepNote]
    under_way: Progress | None
    log: list[Row]
    summary: Summary | None


def read_status(run: Location) -> Status:
    """Raises StoreError for a folder that is no run's, and for one of a newer release."""
    folder = Location.of(run)
    if not (folder / "settings.yaml").is_file():
        raise StoreError(f"{folder}: no settings.yaml; give the folder of a run with --run")
    read_run(folder)
    summary = read_summary(folder) if (folder / "summary.json").is_file() else None
    return Status(step_notes(folder), _under_way(folder), read_log(folder), summary)


def format_status(status: Status, now: float | None = None) -> Iterator[str]:
    """The status for people."""
    rows = [["round", "step", "took", "did"]]
    for note in status.steps:
        did = ", ".join(f"{name} {value:g}" for name, value in note["counts"].items())
        rows.append([str(note["round"]), note["step"], duration(note["seconds"]), did])
    yield from table(rows, "rlrl")
    if status.under_way:
        yield _format_progress(status.under_way)
        left_out = status.under_way.errors.items()
        yield from (f"  left out: volume {volume}: {error}" for volume, error in left_out)
    if status.summary:
        yield f"finished: {status.summary.stopped_because}; {status.summary.final.harvested} lesions harvested"
    elif status.log:
        latest = status.log[-1]
        quiet = (time.time() if now is None else now) - latest["time"]
        dead = "; is it still running?" if quiet > QUIET_S else ""
        yield f"last line, {duration(quiet)} ago{dead}: {latest['message']}"
    errors = [line["message"] for line in status.log if line["level"] == "ERROR"]
    if errors and not status.summary:
        yield f"last error: {errors[-1]}"


def _format_progress(step: Progress) -> str:
    left = step.seconds_left
    rate = f", {step.rate:.2g} volumes per second, {duration(left)} left" if step.rate and left is not None else ""
    return f"under way: {step.step}, {step.done} of {step.volumes} volumes{rate}"


def _under_way(folder: Location) -> Progress | None:
    """The latest step in parts without its table."""
    open_ones: list[Partials] = []
    for each in (round_folder(folder, k) for k in rounds(folder)):
        files = each.files()
        begun = [name.removesuffix(PARTIALS) for name in each.folders() if name.endswith(PARTIALS)]
        open_ones += [Partials(each / f"{name}{PARTIALS}") for name in begun if f"{name}{NOTE}" not in files]
    if not open_ones:
        return None
    partials = max(open_ones, key=lambda each: each.planned()["at"])
    path = partials.folder
    records = sorted(filter(None, partials.records([*partials.done()])), key=lambda record: record["ended"])
    errors = {volume: error for record in records for volume, error in record["errors"].items()}
    done = sum(len(record["volumes"]) for record in records)
    step = f"round {path.parent.name.removeprefix('round-')} {path.name.rsplit('-', 1)[0]}"
    return Progress(step, partials.planned()["volumes"], done, errors, _rate(records[-LATEST_PARTS:]))


def _rate(records: list[Row]) -> float | None:
    if len(records) < 2:
        return None
    seconds = float(records[-1]["ended"] - records[0]["ended"])
    return sum(len(record["volumes"]) for record in records[1:]) / max(seconds, 1e-3)
