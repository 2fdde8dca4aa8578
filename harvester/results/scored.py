"""The scored tubelets that a run left, round by round."""

from harvester.errors import StoreError
from harvester.records import ScoredTable
from harvester.run.folder import PARTIALS
from harvester.run.journal import round_folder, rounds
from harvester.run.parted_table import PartedTable
from harvester.run.partials import Partials
from harvester.run.step_notes import NOTE, ended, read_note
from harvester.run.summary import SUMMARY, read_summary
from harvester.storage.location import Location


def last_round(run: Location) -> int:
    """The last round whose tubelets are scored: of those of its summary, where it has one. Raises StoreError where
    there is none."""
    made = _made(run)
    scored = [k for k in rounds(Location.of(run)) if (not made or k in made) and _scored(run, k)]
    if not scored:
        raise StoreError(f"{run}: no scored tubelets (round-*/scored-*.partials); give the folder of a finished run")
    return scored[-1]


def scored_round(run: Location, round_index: int) -> PartedTable[ScoredTable]:
    """The scored tubelets of a round; of several (settings were changed) those that the run's summary is of, and where
    it has none those made last."""
    notes = _scored(run, round_index)
    if not notes:
        raise StoreError(f"{run}: round {round_index} has no scored tubelets; the last is {last_round(run)}")
    own = [note for note in notes if note.name == f"scored-{_made(run).get(round_index)}{NOTE}"]
    latest = max(own or notes, key=lambda note: ended(read_note(note) or {}))
    folder = latest.parent / f"{latest.name.removesuffix(NOTE)}{PARTIALS}"
    return PartedTable(Partials(folder), ScoredTable)


def _made(run: Location) -> dict[int, str]:
    """The keys of the tubelets that the run's summary is of, by round; none where it has no summary."""
    if not (Location.of(run) / SUMMARY).is_file():
        return {}
    return {step.round: step.key for step in read_summary(run).steps if step.step == "scored" and step.key}


def _scored(run: Location, round_index: int) -> list[Location]:
    folder = round_folder(Location.of(run), round_index)
    named = [folder / name for name in folder.files() if name.startswith("scored-") and name.endswith(NOTE)]
    return [note for note in named if read_note(note)]


def scored_rounds(run: Location, last: int) -> tuple[PartedTable[ScoredTable], ...]:
    """The scored tubelets of all rounds up to the last one asked for."""
    return tuple(scored_round(run, k) for k in range(last + 1))
