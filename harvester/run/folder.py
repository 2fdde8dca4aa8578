"""A run's folder, on a disk or in an object store: each step's output is named by the hash of its inputs.

It is never made twice: a step is done when its note is there, which is written last (an object store renames nothing),
and the files that it names are as they were written.

run/
  starting-weights-<hash>/         what both stages start from, if anything (weights/starting.py)
  settings.yaml                    the resolved settings; settings.hash their hash
  run.json                         format of the folder, release, how the run stands (journal.py)
  round-<k>/<step>-<hash>.parquet  a table, <step>-<hash>/ a folder of weights, <step>-<hash>.json small values
  round-<k>/<step>-<hash>.partials/ a table of every volume (tubelets, scored) in parts, published one by one by those
                                   who made them (parted_table.py)
  round-<k>/<step>-<hash>.step.json  its note: how long it took, how much it did, what it depends on, its files
  round-<k>/round.json             what the round chose and how it came out, when it has ended (journal.py)
  log.jsonl                        what was logged, one JSON object per line, over all starts; in an object store one
                                   log-<time>.jsonl per start
  harvest.parquet, harvest.csv, ledger.parquet, summary.json, report.html
  calibration.parquet              what the last scored round accepts in V_M (records.ACCEPTED)
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic

import pyarrow as pa

from harvester.config.fingerprint import as_tree, settings_hash
from harvester.config.loading import dump, restore
from harvester.config.settings import Settings
from harvester.errors import SettingsError, StepError, StoreError, without_secrets
from harvester.records import MINED, Kind, Split, each_row, rows_where
from harvester.run.journal import RoundRecord, RunRecord, Status, read_run, round_folder, write_round, write_run
from harvester.run.parted_table import PartedTable
from harvester.run.partials import Partials
from harvester.run.progress import StepSaid, step_words
from harvester.run.step_notes import (
    NOTE,
    StepNote,
    broken_files,
    checksum,
    contents,
    most_measured,
    read_note,
    said_broken,
)
from harvester.storage.location import Location
from harvester.store.store import Store
from harvester.weights.starting import KNOWN_BY, folds_by_patient, in_sample, starting_weights

logger = logging.getLogger(__name__)

PARTIALS: Final = ".partials"
STARTING: Final = "starting-weights-"
Inputs = dict[str, Any]

STEP_VERSION: Final = {"generator": 2, "tubelets": 5, "classifier": 2, "scored": 4, "operating-point": 3}
"""Those steps that take time, in their order. One is raised where a release makes the step, or a small table made
for it under the same key, otherwise from the same inputs: then nothing made by an older release is taken for it."""
VERSION: Final = "step_version"
"""Its name among a step's inputs."""

ROW_GROUP = 4096
"""Rows per row group of a step's table: sorted by volume, so that reading one volume reads little else."""


class StepMissingError(StepError):
    """A step that is not made, in a run that may make none. broken: its files that are not as they were written."""

    def __init__(self, step: str, round_index: int, key: str, inputs: Inputs, broken: Sequence[str] = ()) -> None:
        super().__init__(f"round {round_index} {step}: not made, and this run is for looking alone")
        self.step, self.round, self.key, self.inputs, self.broken = step, round_index, key, inputs, broken


@dataclass(frozen=True)
class Artifact:
    """A finished step's output: where it lies, the hash that names it, what it took, and what names weights' bytes."""

    path: Location
    key: str
    seconds: float
    counts: dict[str, float] = field(default_factory=dict)
    content: str = ""


@dataclass(frozen=True)
class Parted(Generic[Kind]):
    """A finished step whose output is a table in parts."""

    step: Artifact
    table: PartedTable[Kind]

    @property
    def key(self) -> str:
        """The hash that names it."""
        return self.step.key


@dataclass(frozen=True)
class _Step:
    """A step that may be made already. began: on the clock of time.monotonic."""

    name: str
    round: int
    key: str
    path: Location
    note: Location
    began: float


class Run:
    """Settings, store and folder of one harvest, and the steps in it. `open` makes one that may write.

    Other settings in the same folder redo what depends on them and reuse the rest: steps are named by their inputs.

    folder    where the results go
    steps_in  where the steps lie, if elsewhere; where it is read-only, one that is not made is a StepMissingError
    watch     is told when a step begins, and when it has ended
    began     when the harvest began, on the clock of time.monotonic
    """

    def __init__(
        self, folder: Location, settings: Settings, store: Store, began: float = 0.0, steps_in: Location | None = None
    ) -> None:
        self.folder, self.settings, self.store, self.began = folder, settings, store, began
        self.steps_in = steps_in or folder
        self.start = starting_weights(settings)
        self.folds = folds_by_patient(each_row(store.manifest, *KNOWN_BY), settings)
        self.data_hash = store.data_hash()
        # What a harvest follows from: not how it is computed, but in which precision; not its pictures.
        tree = settings.model_dump(mode="json", exclude={"compute", "report", "retrain"})
        self.id = settings_hash(tree | {"precision": settings.compute.precision}, self.data_hash)
        # V_D^test is for detectors trained on the harvest: nothing here may look at it, let alone learn from it.
        self.mined = rows_where(store.manifest, "split", *MINED)
        self.steps: list[StepNote] = []
        self.watch: Callable[[StepSaid], None] = lambda _: None
        self._inputs: dict[str, Inputs] = {}
        self._partials: dict[int, list[Partials]] = {}

    @classmethod
    def open(
        cls,
        folder: Location,
        settings: Settings,
        store: Store,
        began: float | None = None,
        steps_in: Location | None = None,
    ) -> "Run":
        """The run of this folder, new or to go on with: it writes the settings and run.json there.

        steps_in    where its steps lie, shared with other runs of the store; its own folder if not given

        Raises StoreError for the folder of a newer release.
        """
        run = cls(Location.of(folder), settings, store, time.monotonic() if began is None else began, steps_in)
        before = read_run(run.folder) or RunRecord()
        run.folder.sweep()
        (run.folder / "settings.yaml").write_text(dump(settings))
        (run.folder / "settings.hash").write_text(settings_hash(settings) + "\n")
        remembered = without_secrets(store.path.uri)
        write_run(run.folder, RunRecord(id=before.id, began=before.began, store=remembered))
        if run.start:
            run.start.publish(run.steps_in / f"{STARTING}{run.start.digest}", settings)
            vm = rows_where(store.manifest, "split", Split.VM)
            if seen := in_sample(each_row(vm, *KNOWN_BY), settings):
                logger.warning(
                    "%d patients of V_M were seen by the starting weights: the certificate does without them", len(seen)
                )
        return run

    def starting(self, stage: str) -> Artifact | None:
        """The folds' weights that a stage (generator, classifier) starts from in round 0; None from nothing."""
        if self.start is None:
            return None
        key = self.start.digest
        return Artifact(self.steps_in / f"{STARTING}{key}" / stage, key, 0.0)

    def end(self, status: Status) -> None:
        """Write down how the run ended."""
        record = read_run(self.folder) or RunRecord()
        write_run(self.folder, record.model_copy(update={"status": status, "ended": time.time()}))

    def end_round(self, round_index: int, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Write down what a round chose and how it came out; not where steps are only looked at."""
        if not self.steps_in.read_only:
            record = RoundRecord(round=round_index, ended=time.time(), params={**params}, metrics={**metrics})
            write_round(self.folder, record)

    def key(self, step: str, /, **inputs: Any) -> str:
        """The hash that names a step's output: of all that it depends on, by name, so that a plan can tell a change.

        `step` is one of STEP_VERSION; small tables that are made for it go by the same key.
        """
        every = {VERSION: STEP_VERSION[step], **inputs}
        key = settings_hash(*every.values())
        self._inputs[key] = {name: as_tree(value) for name, value in every.items()}
        return key

    def table(self, step: str, round_index: int, key: str, make: Callable[[], pa.Table]) -> Artifact:
        """A small table of a step, made if it is not there."""
        this = self._step(step, round_index, key, ".parquet")
        if made := self._made(this):
            return made
        table = make()
        this.path.write_table(table, row_group_size=ROW_GROUP)
        return self._finish(this, {"rows": len(table)})

    def parted(
        self, step: str, round_index: int, key: str, table: PartedTable[Kind], make: Callable[[], Mapping[str, float]]
    ) -> "Parted[Kind]":
        """A step whose table is in the parts of `partials`, which workers publish one by one; `make` gives what was
        measured on the way."""
        this = self._step(step, round_index, key, PARTIALS)
        if made := self._made(this):
            return Parted(made, table)
        table.partials.withdraw_without_rows()
        return Parted(self._finish(this, {**make()}), table)

    def values(self, step: str, round_index: int, key: str, make: Callable[[], dict[str, Any]]) -> Artifact:
        """Small values of a step as JSON."""
        this = self._step(step, round_index, key, ".json")
        if made := self._made(this):
            return made
        this.path.write_text(json.dumps(make(), indent=1, sort_keys=True))
        return self._finish(this, {})

    def weights(self, step: str, round_index: int, key: str, make: Callable[[Location], None]) -> Artifact:
        """A folder of weights, a file at a time, so that a killed fit goes on with what is there."""
        this = self._step(step, round_index, key, "")
        if made := self._made(this):
            return made
        make(this.path)
        return self._finish(this, most_measured(this.path))

    def partials(self, step: str, round_index: int, key: str) -> Partials:
        """Where the workers of a step publish the parts of its table."""
        made = Partials(self.of_round(round_index) / f"{step}-{key}{PARTIALS}")
        self._partials.setdefault(round_index, []).append(made)
        return made

    def left_out(self, round_index: int) -> dict[str, str]:
        """Why volumes were left out of a round's steps so far, by volume id."""
        return {volume: why for made in self._partials.get(round_index, ()) for volume, why in made.errors().items()}

    def of_round(self, round_index: int) -> Location:
        """The folder of a round's steps."""
        return round_folder(self.steps_in, round_index)

    def _step(self, step: str, round_index: int, key: str, suffix: str) -> _Step:
        folder, name = self.of_round(round_index), f"{step}-{key}"
        path, note = folder / f"{name}{suffix}", folder / f"{name}{NOTE}"
        return _Step(step, round_index, key, path, note, time.monotonic())

    def _made(self, step: _Step) -> Artifact | None:
        """The step as it was made before; None where it is to be made. Raises StepMissingError where it must not."""
        looking, broken = self.steps_in.read_only, []
        if note := read_note(step.note):
            files, content = contents(step.path)
            broken = broken_files(step.path, note, files)
            if not broken:
                if not looking:
                    logger.info("round %d, %s: done before", step.round, step_words(step.name))
                return self._artifact(step, note, content)
        if looking:
            raise StepMissingError(step.name, step.round, step.key, self._inputs.get(step.key, {}), broken)
        if broken:
            self._drop(step, broken)
        self._say("round %d, %s ...", StepSaid(step.round, step.name))
        return None

    def _drop(self, step: _Step, broken: Sequence[str]) -> None:
        """What is broken, then the note: the other way round a killed start would leave it to be taken for whole."""
        logger.warning("round %d %s: %s, made anew", step.round, step.name, said_broken(broken))
        for name in broken:
            (step.path / name if name != step.path.name else step.path).delete()
        step.note.delete()

    def _finish(self, step: _Step, counts: dict[str, float]) -> Artifact:
        seconds, (files, content) = time.monotonic() - step.began, contents(step.path)
        note = {"round": step.round, "step": step.name, "seconds": seconds, "counts": counts}
        more = {
            "ended": time.time(),
            "inputs": self._inputs.get(step.key, {}),
            "files": files,
            "crc32": checksum(step.path),
        }
        step.note.write_text(json.dumps(note | more))
        measured = "".join(f", {name} {value:g}" for name, value in counts.items())
        self._say(f"round %d, %s: {seconds:.1f} s{measured}", StepSaid(step.round, step.name, seconds))
        return self._artifact(step, note, content)

    def _say(self, words: str, said: StepSaid) -> None:
        logger.info(words, said.round, step_words(said.step), extra={"step": said})
        self.watch(said)

    def _artifact(self, step: _Step, note: StepNote, content: str) -> Artifact:
        told = {name: note[name] for name in ("round", "step", "seconds", "counts")}
        self.steps.append({**told, "key": step.key})
        return Artifact(step.path, step.key, note["seconds"], note["counts"], content)


def settings_of(folder: Location, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a run's folder. Raises StoreError for a folder without, and for one of a newer release."""
    file = Location.of(folder) / "settings.yaml"
    if not file.is_file():
        raise StoreError(f"{folder}: no settings.yaml; give the folder of a run with --run")
    read_run(file.parent)
    return restore(file.read_text(), overrides)


def store_of(folder: Location, settings: Settings, given: Location | str | None) -> Store:
    """The store that is given, or the one in the run's folder, or as its settings say, or the one that was harvested.

    Raises SettingsError for none, StoreError where it is none any more.
    """
    own, record = Location.of(folder) / "store", read_run(Location.of(folder))
    remembered = store_in(settings) or (record.store if record else "")
    where = given or (own if (own / "manifest.parquet").is_file() else remembered)
    if not where:
        raise SettingsError(f"{folder}: holds no store and names none; give the harvested store with --store")
    return Store.open(where)


def store_in(settings: Settings) -> str:
    """The store that the settings name, with what the environment's variables in it stand for; "" for none."""
    return os.path.expandvars(settings.data.store or "")
