"""How far a run is, read from its folder alone: while it runs, from another terminal, or after it has stopped."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from harvester.errors import STOPPED, StoreError
from harvester.run.folder import PARTIALS
from harvester.run.journal import RunRecord, read_run, round_folder, rounds
from harvester.run.log import read_log
from harvester.run.partials import Partials
from harvester.run.step_notes import NOTE, StepNote, step_notes
from harvester.run.summary import Summary, read_summary
from harvester.storage.location import Location
from harvester.storage.owner import Writer, writers
from harvester.text import clock, duration, table

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
    log        the run's lines over all starts, latest last
    summary    of the last start that finished; a later one may be under way or have failed
    record     run.json; None in a folder of an older release
    driver     who works in the folder, or did when it was killed
    """

    steps: list[StepNote]
    under_way: Progress | None
    log: list[Row]
    summary: Summary | None
    record: RunRecord | None
    driver: Writer | None

    @property
    def last_start(self) -> list[Row]:
        """The lines of the last start."""
        return [line for line in self.log if line.get("start") == self.log[-1].get("start")]

    @property
    def finished(self) -> bool:
        """Whether the last start has finished, and is what the summary tells of."""
        if self.summary is None or not self.log:
            return self.summary is not None
        start = self.log[-1].get("start")
        if start is None:  # a log of a release before 0.3
            return bool(self.log[-1]["level"] != "ERROR")
        ended = self.record and self.record.status == "FINISHED" and self.record.ended
        return bool(ended and ended >= start)


def read_status(run: Location) -> Status:
    """Raises StoreError for a folder that is no run's, and for one of a newer release."""
    folder = Location.of(run)
    log = read_log(folder)
    if not log and not (folder / "settings.yaml").is_file():  # a start that was refused has a log alone
        raise StoreError(f"{folder}: no settings.yaml; give the folder of a run with --run")
    record = read_run(folder)
    summary = read_summary(folder) if (folder / "summary.json").is_file() else None
    driver = next(iter(writers(folder)), None)
    return Status(step_notes(folder), _under_way(folder), log, summary, record, driver)


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
    if status.finished and status.summary:
        yield f"finished: {_outcome(status.summary)}"
        return
    if status.log:
        yield _format_end(status.log[-1], status.driver, time.time() if now is None else now)
        errors = [line["message"] for line in status.last_start if line["level"] == "ERROR"]
        if errors and not _is_stop(errors[-1]):
            yield f"last error: {errors[-1]}"
    if status.summary:
        yield f"the results are an earlier start's: {_outcome(status.summary)}"


def _outcome(summary: Summary) -> str:
    return f"{summary.stopped_because}; {summary.final.harvested} lesions harvested"


def _format_end(latest: Row, driver: Writer | None, now: float) -> str:
    """How the last start stands that has not finished, by its last line."""
    if _is_stop(latest["message"]) and latest["level"] == "ERROR":
        at, by = clock(latest["time"]), latest["message"].removeprefix(f"{STOPPED} ")
        return f"stopped by a signal at {at} ({by}); start the same command again"
    quiet, about = now - latest["time"], ""
    if driver and driver.ended:
        about = f"; its driver, process {driver.pid} on {driver.host}, is gone: start the same command again"
    elif quiet > QUIET_S:
        about = "; is it still running?"
    return f"last line, {duration(quiet)} ago{about}: {latest['message']}"


def _is_stop(message: str) -> bool:
    return message.startswith(f"{STOPPED} ")


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
    records = sorted(partials.published().values(), key=lambda record: record["ended"])
    errors = {volume: error for record in records for volume, error in record["errors"].items()}
    done = sum(len(record["volumes"]) for record in records)
    step = f"round {path.parent.name.removeprefix('round-')} {path.name.rsplit('-', 1)[0]}"
    return Progress(step, partials.planned()["volumes"], done, errors, _rate(records[-LATEST_PARTS:]))


def _rate(records: list[Row]) -> float | None:
    if len(records) < 2:
        return None
    seconds = float(records[-1]["ended"] - records[0]["ended"])
    return sum(len(record["volumes"]) for record in records[1:]) / max(seconds, 1e-3)
