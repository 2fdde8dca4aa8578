"""What a start would do, and why, without doing it: the loop itself, stopped at the first step that is not made."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import Final

from harvester.config.settings import Settings
from harvester.harvest import harvest
from harvester.run.folder import STEP_VERSION, VERSION, Inputs, Run, StepMissingError
from harvester.run.journal import read_run
from harvester.run.step_notes import StepNote, ended, said_broken, step_notes
from harvester.run.tracking import Tracker
from harvester.storage.location import Location
from harvester.store.store import Store
from harvester.text import duration

HASH: Final = re.compile("[0-9a-f]{12}")
WORDS: Final = {"start": "the weights that it starts from"}
"""Inputs of a step whose names say too little."""


@dataclass(frozen=True)
class Plan:
    """done: notes of the steps that are kept; next: the first one to make, None where there is nothing to do.

    reasons   what it depends on that has changed since it was last made; none where it never was
    begun     how much of it is there already
    after     (round, step) of what follows it, as far as no round ends the loop
    seconds   step -> how long it took when it was last made here
    """

    done: list[StepNote]
    next: tuple[int, str] | None = None
    reasons: list[str] = field(default_factory=list)
    begun: str = ""
    after: list[tuple[int, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def plan(folder: Location, settings: Settings, store: Store) -> Plan:
    """What a start would do in this run's folder, which need not be there, and in which nothing can be written.

    Raises StoreError for the folder of a newer release.
    """
    run_folder = replace(Location.of(folder), read_only=True)
    read_run(run_folder)
    with TemporaryDirectory() as results:
        run = Run(Location.of(results), settings, store, steps_in=run_folder)
        try:
            harvest(run, Tracker(run))
        except StepMissingError as missing:
            return _from(run, missing)
    return Plan(_long(run.steps))


def format_plan(shown: Plan) -> Iterator[str]:
    """The plan for people."""
    for step in shown.done:
        yield f"kept     round {step['round']} {step['step']:16} made in {duration(step['seconds'])}"
    if shown.next is None:
        yield "nothing to do but the report: every step is made"
        return
    k, name = shown.next
    why = "; ".join(shown.reasons) or "never made here"
    begun = f"; {shown.begun}" if shown.begun else ""
    yield f"to make  round {k} {name:16} {why}{begun}{_last_time(shown, name)}"
    for k, name in shown.after:
        yield f"to make  round {k} {name:16} after it{_last_time(shown, name)}"
    yield "a round that finds next to nothing ends the harvest sooner (min_gain)"


def _from(run: Run, missing: StepMissingError) -> Plan:
    # A small table is made for the long step that follows it.
    made = {(note["round"], note["step"]) for note in run.steps}
    every = [(k, step) for k in range(run.settings.rounds) for step in STEP_VERSION]
    (k, step), *after = [each for each in every if each not in made and each[0] >= missing.round]
    notes = sorted(step_notes(run.steps_in), key=ended)
    seconds = {note["step"]: note["seconds"] for note in notes}
    same = [note for note in notes if (note["round"], note["step"]) == (missing.round, missing.step)]
    # Releases before the first with versions called it made_of.
    before = [inputs for note in same if (inputs := note.get("inputs") or note.get("made_of"))]
    same_again = "what was made from it stays if it comes out the same"
    reasons = [f"{said_broken(missing.broken)} ({same_again})"] if missing.broken else []
    reasons += _changes(before[-1], missing.inputs) if before else []
    return Plan(_long(run.steps), (k, step), reasons, _begun(run, missing, step), after, seconds)


def _long(steps: list[StepNote]) -> list[StepNote]:
    return [note for note in steps if note["step"] in STEP_VERSION]


def _changes(before: Inputs, now: Inputs, prefix: str = "") -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes({**old}, {**new}, f"{prefix}{name}.")
        elif name == VERSION and old != new:
            yield f"made by {'a newer' if (old or 0) > (new or 0) else 'an older'} release"
        elif old != new:
            hashed = any(isinstance(each, str) and HASH.fullmatch(each) for each in (old, new))
            yield f"{WORDS.get(name, prefix + name)} changed" if hashed else f"{prefix}{name} {old} -> {new}"


def _begun(run: Run, missing: StepMissingError, step: str) -> str:
    partials = run.partials(step, missing.round, missing.key)
    if done := len(partials.done()):
        return f"{done} parts of {partials.planned()['volumes']} volumes are published"
    made = (run.of_round(missing.round) / f"{step}-{missing.key}").files()
    files = [name for name in made if name not in missing.broken]
    fitted = sum(name.endswith(".safetensors") for name in files)
    stopped = sum(name.endswith(".checkpoint.pt") for name in files)
    return f"{fitted} of its folds are fitted, {stopped} go on from checkpoints" if fitted + stopped else ""


def _last_time(shown: Plan, step: str) -> str:
    return f" (took {duration(shown.seconds[step])} last time)" if step in shown.seconds else ""
