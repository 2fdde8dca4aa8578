"""What a start would do, and why, without doing it: the loop itself, stopped at the first step that is not made."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any, Final

from harvester.config.settings import Settings
from harvester.harvest import harvest
from harvester.run.folder import NOTE, PARTIALS, Run
from harvester.run.partials import Partials
from harvester.run.tracking import Tracker
from harvester.storage.location import Location, Where
from harvester.store.store import Store

Told = dict[str, Any]

STEPS: Final = ("generator", "tubelets", "classifier", "scored", "operating-point")
"""Those that take time, in their order; the small tables between them are not told."""
HASH: Final = re.compile("[0-9a-f]{12}")


@dataclass(frozen=True)
class Plan:
    """done: notes of the steps that are kept; next: the first one to make, None where there is nothing to do.

    reasons   what it depends on that has changed since it was last made; none where it never was
    begun     how much of it is there already
    after     (round, step) of what follows it, as far as no round ends the loop
    seconds   step -> how long it took when it was last made here
    """

    done: list[Told]
    next: tuple[int, str] | None = None
    reasons: list[str] = field(default_factory=list)
    begun: str = ""
    after: list[tuple[int, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def plan(folder: Where, settings: Settings, store: Store) -> Plan:
    """What jobs/harvest.py would do in this run's folder, which need not be there. Writes nothing into it."""
    run_folder = Location.of(folder)
    with TemporaryDirectory() as aside:
        run = _Planned(run_folder, Location.of(aside), settings, store)
        try:
            with _quiet():
                harvest(run, Tracker(run.folder))
        except _NotMadeError as missing:
            return _with(missing, run, settings.rounds)
    return Plan(_long(run.steps))


def lines(told: Plan) -> Iterator[str]:
    """The plan for people."""
    for step in told.done:
        yield f"kept     round {step['round']} {step['step']:16} made in {_span(step['seconds'])}"
    if told.next is None:
        yield "nothing to do but the report: every step is made"
        return
    k, name = told.next
    why = "; ".join(told.reasons) or "never made here"
    begun = f"; {told.begun}" if told.begun else ""
    yield f"to make  round {k} {name:16} {why}{begun}{_last_time(told, name)}"
    for k, name in told.after:
        yield f"to make  round {k} {name:16} after it{_last_time(told, name)}"
    yield "a round that finds next to nothing ends the harvest sooner (min_gain)"


class _NotMadeError(Exception):
    def __init__(self, step: str, round_index: int, key: str) -> None:
        super().__init__(step, round_index, key)
        self.step, self.round, self.key = step, round_index, key


class _Planned(Run):
    """Reads a run's steps where they are; makes none, and writes what follows from them elsewhere."""

    def __init__(self, folder: Location, aside: Location, settings: Settings, store: Store) -> None:
        self.steps_folder = folder
        super().__init__(aside, settings, store)

    def of_round(self, round_index: int) -> Location:
        return self.steps_folder / f"round-{round_index}"

    def allow(self, step: str, round_index: int, key: str) -> None:
        raise _NotMadeError(step, round_index, key)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the loop's own lines on what was done before."""
    loop = logging.getLogger("harvester")
    before = loop.level
    loop.setLevel(logging.WARNING)
    try:
        yield
    finally:
        loop.setLevel(before)


def _with(missing: _NotMadeError, run: _Planned, rounds: int) -> Plan:
    # A small table is made for the long step that follows it.
    made = {(told["round"], told["step"]) for told in run.steps}
    left = [(k, step) for k in range(rounds) for step in STEPS if (k, step) not in made]
    left = [each for each in left if each[0] >= missing.round]
    notes = _notes(run.steps_folder, missing.round)
    earlier = [told for told in notes if told["step"] == missing.step and told.get("made_of")]
    now = run.made_of.get(missing.key, {})
    reasons = list(_changes(max(earlier, key=_ended)["made_of"], now)) if earlier else []
    every = [told for k in range(rounds) for told in _notes(run.steps_folder, k)]
    seconds = {told["step"]: told["seconds"] for told in sorted(every, key=_ended)}
    return Plan(_long(run.steps), left[0], reasons, _begun(run, missing, left[0][1]), left[1:], seconds)


def _long(steps: list[Told]) -> list[Told]:
    return [told for told in steps if told["step"] in STEPS]


def _notes(folder: Location, k: int) -> list[Told]:
    own = folder / f"round-{k}"
    return [json.loads((own / name).read_bytes()) for name in own.files() if name.endswith(NOTE)]


def _ended(told: Told) -> float:
    return float(told.get("ended", 0.0))


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes(old, new, f"{prefix}{name}.")
        elif old != new:
            hashed = any(isinstance(each, str) and HASH.fullmatch(each) for each in (old, new))
            yield f"{prefix}{name} changed" if hashed else f"{prefix}{name} {old} -> {new}"


def _begun(run: _Planned, missing: _NotMadeError, step: str) -> str:
    folder = run.of_round(missing.round)
    partials = Partials(folder / f"{step}-{missing.key}{PARTIALS}")
    if done := len(partials.done()):
        return f"{done} parts of {partials.volumes()} volumes are published"
    files = (folder / f"{step}-{missing.key}").files()
    fitted = sum(name.endswith(".safetensors") for name in files)
    stopped = sum(name.endswith(".checkpoint.pt") for name in files)
    return f"{fitted} of its folds are fitted, {stopped} go on from checkpoints" if fitted + stopped else ""


def _last_time(told: Plan, step: str) -> str:
    return f" (took {_span(told.seconds[step])} last time)" if step in told.seconds else ""


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
