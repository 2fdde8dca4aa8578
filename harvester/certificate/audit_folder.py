"""An audit on disk: the deck as it was drawn, and every verdict, a line each, in the order in which they were given.

RUN/audit-<attempt>/
  audit.json               what is claimed of which list, and the deck (Plan)
  finds.parquet            what is shown, a row each (records.FINDS)
  <reader>/verdicts.jsonl  what a reader said (Said); never rewritten, only added to

Where two readers differ, what the reader `adjudicated` says counts.
"""

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from harvester.certificate.audit import RIGHT, Deck, Verdict, list_hash
from harvester.errors import LabelError, SettingsError, StoreError
from harvester.records import FINDS, SIDES, FindTable, Placed, checked
from harvester.storage.location import Location, writing
from harvester.storage.owner import owned

FORMAT: Final = 1
READER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
ADJUDICATED: Final = "adjudicated"
AUDIT: Final = "audit"
TEACHING: Final = "teaching"
"""A deck without rungs: what is said of it proves nothing, and teaches."""
PLAN: Final = "audit.json"
VERDICTS: Final = "verdicts.jsonl"
MOST_NOTE: Final = 1000
"""Characters of a note."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(_Frozen):
    """What was drawn, before anybody looked.

    level      this attempt's
    list_hash  of the ids in the deck; content: of what they name, whatever the ids
    scored     hash of the tubelets that the list was drawn from; "" where they are no run's
    """

    format: Literal[1] = FORMAT
    run_id: str
    attempt: int
    target: float
    level: float
    seed: int
    list_hash: str
    content: str
    scored: str = ""
    deck: Deck


class Said(_Frozen):
    """A verdict as a line. None: taken back. boxes: where a moved one belongs, (z, x1, y1, x2, y2) each."""

    find: str
    verdict: Verdict | None
    boxes: tuple[tuple[int, float, float, float, float], ...] = ()
    note: str = ""
    at: float

    @property
    def placed(self) -> list[Placed]:
        """The boxes as everything else has them."""
        return [(z, (x1, y1, x2, y2)) for z, x1, y1, x2, y2 in self.boxes]


@dataclass(frozen=True, eq=False)
class AuditFolder:
    """An audit that was drawn. `create` and `open` make one."""

    path: Path
    plan: Plan
    finds: FindTable

    @classmethod
    def create(cls, folder: Location, plan: Plan, finds: pa.Table) -> "AuditFolder":
        """Write what was drawn. Raises StoreError where the folder holds an audit already, or is on no disk."""
        path = _on_disk(folder)
        if (path / PLAN).exists():
            raise StoreError(f"{path}: holds an audit already: a list is never drawn again; go on with it")
        with writing(folder):
            (folder / "finds.parquet").write_table(checked(FindTable, finds))
            (folder / PLAN).write_text(plan.model_dump_json(indent=1) + "\n")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Location) -> "AuditFolder":
        """Raises StoreError for a folder that holds no audit, or one that was changed since it was drawn."""
        path = _on_disk(folder)
        try:
            plan = Plan.model_validate_json((path / PLAN).read_bytes())
        except (OSError, ValidationError) as error:
            raise StoreError(
                f"{path}: no {PLAN} that can be read ({type(error).__name__}): bring back the one that was drawn, or "
                "move the folder away and draw another audit"
            ) from error
        finds = checked(FindTable, (folder / "finds.parquet").read_table(FINDS), folder / "finds.parquet")
        shown = set(finds["find"].to_pylist())
        if list_hash(plan.deck.ranked) != plan.list_hash or not shown >= {*plan.deck.order, *plan.deck.planted}:
            raise StoreError(
                f"{path}: its list is not the one that was drawn: bring that back, or move the folder away"
            )
        return cls(path, plan, finds)

    @classmethod
    def newest(cls, run: Location, kind: str = AUDIT) -> "AuditFolder":
        """The last audit of a run, or deck of another kind. Raises StoreError where none was drawn."""
        made = attempts(run, kind)
        if not made:
            more = " --teaching 40" if kind == TEACHING else ""
            raise StoreError(f"{run}: no {kind} was drawn; harvester audit --run {run} draw{more}")
        return cls.open(made[-1])

    def readers(self) -> list[str]:
        """Who said something, the adjudicator among them."""
        return sorted(file.parent.name for file in self.path.glob(f"*/{VERDICTS}"))

    def said(self, reader: str) -> list[Said]:
        """Every line of a reader, but for a last one that a kill cut off. Raises LabelError for another broken one."""
        file = self.path / reader / VERDICTS
        lines = file.read_bytes().split(b"\n") if file.exists() else []
        found = []
        for number, line in enumerate(lines[:-1], 1):  # what does not end in a newline was not finished
            try:
                found.append(Said.model_validate_json(line))
            except ValidationError as error:
                raise LabelError(f"{file} line {number}: is no verdict; remove the line") from error
        return found

    def verdicts(self, reader: str) -> dict[str, Verdict]:
        """A reader's word on each find."""
        return self.verdicts_of(self.said(reader))

    def verdicts_of(self, lines: Iterable[Said]) -> dict[str, Verdict]:
        """Of each find the last word; of a planted one the first, which nobody can have guessed."""
        found: dict[str, Verdict] = {}
        for line in lines:
            if line.find in self.plan.deck.planted:
                if line.verdict:
                    found.setdefault(line.find, line.verdict)
            elif line.verdict:
                found[line.find] = line.verdict
            else:
                found.pop(line.find, None)
        return found

    def decided(self) -> dict[str, Verdict]:
        """What counts: a reader's verdict; of several readers what they agree on, else the adjudicator's, else none.

        A planted find that any of them took for a lesion was taken for one.
        """
        every = [self.verdicts(reader) for reader in self.readers() if reader != ADJUDICATED]
        final, decided = self.verdicts(ADJUDICATED), {}
        for find in {find for one in every for find in one}:
            words = [one[find] for one in every if find in one]
            if find in self.plan.deck.planted:
                decided[find] = next((word for word in words if word in RIGHT), words[0])
            elif len({word in RIGHT for word in words}) == 1:
                decided[find] = words[0]
            elif find in final:
                decided[find] = final[find]
        return decided

    def moved(self) -> dict[str, dict[str, list[float]]]:
        """Where finds whose box is off belong, as columns of a tubelet: by the last one who said so."""
        decided = self.decided()
        lines = {line.find: line.placed for reader in self.readers() for line in self.said(reader) if line.placed}
        return {find: _columns(placed) for find, placed in lines.items() if decided.get(find) == Verdict.MOVED}

    def disputed(self) -> list[str]:
        """The finds on which readers differ, in the order of the deck."""
        decided = self.decided()
        read = {find for reader in self.readers() for find in self.verdicts(reader)}
        return [find for find in self.plan.deck.order if find in read and find not in decided]

    @contextmanager
    def reading(self, reader: str) -> Iterator["Reader"]:
        """A reader's file, open for more. Raises StoreError where another program writes it, SettingsError for a name
        that is none."""
        if not READER.fullmatch(reader):
            raise SettingsError(f"--reader {reader[:40]!r}: want letters, digits, - and _, 32 at most")
        folder = self.path / reader
        folder.mkdir(exist_ok=True)
        with owned(Location.of(folder)):
            _end_line(folder / VERDICTS)
            yield Reader(self, reader)


@dataclass(frozen=True)
class Reader:
    """Writes one reader's verdicts."""

    folder: AuditFolder
    name: str

    def say(self, find: str, verdict: Verdict | None, boxes: list[Placed] | None = None, note: str = "") -> Said:
        """Add a line, which is on the disk when this returns."""
        flat = tuple((z, *box) for z, box in boxes or ())
        line = Said(find=find, verdict=verdict, boxes=flat, note=note[:MOST_NOTE], at=round(time.time(), 3))
        with (self.folder.path / self.name / VERDICTS).open("ab") as file:
            file.write(line.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return line


def attempts(run: Location, kind: str = AUDIT) -> list[Location]:
    """The audits of a run, or its decks of another kind, the first one first."""
    names = [name for name in run.folders() if re.fullmatch(rf"{kind}-\d+", name)]
    return [run / name for name in sorted(names, key=lambda name: int(name.partition("-")[2]))]


def find_id(row: Mapping[str, object], salt: str) -> str:
    """Names a find and says nothing of it."""
    return list_hash([json.dumps([salt, row["volume_id"], row["tubelet_id"]])])[:12]


def _columns(placed: Sequence[Placed]) -> dict[str, list[float]]:
    """z, the sides, and slice scores of 1: a person's box."""
    sides = {side: [box[at] for _, box in placed] for at, side in enumerate(SIDES)}
    return {"z": [z for z, _ in placed], **sides, "slice_score": [1.0] * len(placed)}


def _on_disk(folder: Location) -> Path:
    if not folder.on_disk:
        raise SettingsError(
            f"{folder}: an audit is written line by line and wants a disk; copy the run's folder to one"
        )
    return Path(folder.base)


def _end_line(file: Path) -> None:
    """After a kill in the middle of a line the next one begins on its own; the torn one is cut off."""
    if file.exists() and not (data := file.read_bytes()).endswith(b"\n") and data:
        with file.open("r+b") as torn:
            torn.truncate(data.rfind(b"\n") + 1)
