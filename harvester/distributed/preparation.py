"""Ray Data: a dataset to a store. Voxels go from the actor that loads them to the store; only rows come back.

A case is one volume to be: a phantom, a sub-volume with inserted lesions, or a scan of somebody's archive. An actor
makes a shard at a time, volume after volume. What fails becomes a row of rejects.parquet with its reason, also a file
that kills its reader or keeps it for ever (harvester/run/quarantine.py: each volume is alone in its process); past
data.max_reject_share the job fails. Started again, it makes the shards that are missing.
"""

import json
import logging
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import ray.data
from ray.data import ActorPoolStrategy

from harvester.config.settings import Settings
from harvester.datasets.discovery import Discovery, LoadedVolume
from harvester.datasets.inventory import TRY_AGAIN, Inventory, identity_of, without_contents
from harvester.datasets.lists import split_rows, splits_csv
from harvester.datasets.registry import FROM_SETTINGS, WITHOUT_FILES, open_dataset
from harvester.distributed.capacity import pool_request
from harvester.distributed.cluster import quarantine_in
from harvester.distributed.watchdog import BackgroundWork, said_begun, time_limit
from harvester.errors import HarvesterError, StoreError, VolumeError, passing_cause
from harvester.models.memory import require_memory
from harvester.records import Reject
from harvester.run.partials import Part, Row
from harvester.run.progress import PartLines
from harvester.run.quarantine import Marks, forget
from harvester.run.work_list import Outcome, WorkList
from harvester.storage.location import Location, writing
from harvester.storage.salt import salt_of
from harvester.store.commit import commit_store, inputs_before
from harvester.store.container import ShardWriter, open_shard
from harvester.store.shard_plan import SHARD_BYTES, ShardNote, plan_shards, shard_name, shards_made, sweep
from harvester.store.store import Store

logger = logging.getLogger(__name__)

BEGUN: Final = "begun-"
"""A store's folder of marks of begun volumes, one for each state of an archive; gone when the store is finished."""
MINUTES_FOR_A_NEW_WORKER: Final = 5.0
"""The watchdog of the job waits so much longer than those of the workers, which end what is stuck."""
LINES_OF_REJECTS: Final = 5


def prepare(settings: Settings, source: Path | None, store: Location, shard_bytes: int = SHARD_BYTES) -> Store:
    """The finished store for `settings.data`; one that was finished before from the same is reused.

    `source` is the data root that $HARVESTER_DATA stands for, or the folder of somebody's archive.
    Of an archive that has changed only the shards are made that have to be, and what could not be read is tried again.
    Raises StoreError, StepError.
    """
    return prepare_telling(settings, source, store, lambda inventory: None, shard_bytes)


def prepare_telling(
    settings: Settings,
    source: Path | None,
    store: Location,
    looked: Callable[[Inventory], None],
    shard_bytes: int = SHARD_BYTES,
) -> Store:
    """The same; `looked` is told what a look at the data found, where there was one."""
    folder, identity = Location.of(store), identity_of(settings)
    before = inputs_before(folder, identity)
    if before and settings.data.kind in WITHOUT_FILES and (whole := _as_it_is(folder)):
        return whole
    inventory = Inventory.of(settings, list_cases(settings, source, folder))
    looked(inventory)
    unflagged, stamp = inventory.discovery.unflagged, inventory.stamp
    earlier = [Reject(**row) for row in Store.open(folder).rejects().to_pylist()] if before else []
    again = any(each.reason == TRY_AGAIN for each in earlier)
    if before == stamp and not again and (whole := _as_it_is(folder)):
        return whole
    shards, begun = folder / "shards", folder / f"{BEGUN}{stamp['cases']}"
    sweep(shards)
    kept, refused = shards_made(shards, inventory.source_hashes), inventory.still_refused(earlier)
    parts = _missing(inventory, kept, refused, shard_bytes)
    if before:
        _say_what_is_made_anew(folder, parts, inventory, touched=before != stamp)
    try:
        made, rejects = _make_all(Maker, (settings, source, folder, begun), parts, refused, len(inventory.cases))
    except StoreError:
        sweep(shards)
        forget(begun)  # whoever mends what is wrong may have mended what killed
        raise
    if before == stamp and not made and set(rejects) <= set(earlier) and (whole := _as_it_is(folder)):
        begun.delete_folder()
        return whole  # what could not be read still cannot
    if settings.data.kind not in FROM_SETTINGS:
        with writing(folder):
            (folder / "splits.csv").write_bytes(splits_csv(split_rows(inventory.discovery)).encode())
    notes = [*kept, *made]
    _require_all_here(folder, notes)
    finished = commit_store(folder, notes, [*inventory.discovery.rejects, *rejects], stamp, unflagged, settings.seed)
    _sweep_behind(folder, notes)
    return finished


def _say_what_is_made_anew(folder: Location, parts: Sequence[Part], inventory: Inventory, touched: bool) -> None:
    why = "have changed since it was made" if touched else "could not all be read"
    count = sum(len(part.rows) for part in parts)
    logger.info("store %s: its data %s; %d of %d volumes are made now", folder, why, count, len(inventory.cases))


def _sweep_behind(folder: Location, notes: Sequence[ShardNote]) -> None:
    """Nothing stays beside the shards of a finished store."""
    sweep(folder / "shards", notes)
    for name in folder.folders():
        if name.startswith(BEGUN):
            (folder / name).delete_folder()


def _require_all_here(folder: Location, notes: Sequence[ShardNote]) -> None:
    here = set((folder / "shards").files())
    if lost := sum(f"{note.name}.shard" not in here for note in notes):
        raise StoreError(
            f"{folder}: {lost} of {len(notes)} shards were made by workers and are not here; is the store's folder "
            "shared by all nodes? Give a --store that all of them see, also s3://bucket/folder, then start again"
        )


def prepared(settings: Settings, source: Path | None, store: Location) -> Store | None:
    """The store that `prepare` made of made data, None where there is none or the files that it was made from have
    changed. Raises StoreError for another's."""
    if settings.data.kind not in FROM_SETTINGS or not (before := inputs_before(store, identity_of(settings))):
        return None
    made = (
        settings.data.kind in WITHOUT_FILES
        or before == Inventory.of(settings, list_cases(settings, source, store)).stamp
    )
    return Store.open(store) if made else None


def _as_it_is(folder: Location) -> Store | None:
    """The store that is there; None where some of its shards are gone or cut short, which are then made again."""
    store = Store.open(folder)
    if not store.is_whole():
        logger.warning("store %s: some shards are gone or cut short, and are made again", folder)
        return None
    logger.info("store %s: made before", folder)
    return store


def list_cases(settings: Settings, source: Path | None, store: Location | None) -> Discovery:
    """What there is to make, and what is refused; without a store nothing is written, not even the secret of the ids:
    they are of this start alone."""
    dataset = open_dataset(settings, source)
    return dataset.discover(salt_of(store) if store and settings.data.kind not in FROM_SETTINGS else "")


class Maker:
    """Actor: parts of the cases to shards of stored volumes. begun: the folder of its marks."""

    def __init__(self, settings: Settings, source: Path | None, store: Location, begun: Location) -> None:
        self.dataset, self.store = open_dataset(settings, source), Location.of(store)
        self.minutes = settings.compute.no_progress_minutes
        self.quarantine = quarantine_in(Location.of(begun))

    def __call__(self, given: Row) -> Row:
        """One shard: its volumes to the store, a row of plain values back. `error` ends the job."""
        alone = WorkList((), (), [Part(given["name"], json.loads(given["rows"]))])
        try:
            part, outcomes = next(alone.outcomes(self.tasks, self.quarantine, (Exception,)))
            note, rejects = self.publish(part, outcomes)
        except StoreError as error:
            return {"note": "", "rejects": "[]", "error": str(error)}
        return {"note": note.to_json(), "rejects": json.dumps(rejects), "error": ""}

    def tasks(self, rows: Iterable[Row]) -> Iterator[Callable[[], LoadedVolume]]:
        """For each case a call that loads it, or does not come back."""
        return (partial(self.load, row["case"]) for row in rows)

    def load(self, case: Row) -> LoadedVolume:
        """The volume of a case. This process ends where that takes too long."""
        with time_limit(self.minutes):
            return self.dataset.load(case)

    def publish(self, part: Part, outcomes: Iterable[Outcome[LoadedVolume]]) -> tuple[ShardNote, list[Row]]:
        """The shard, then its note, and rows of records.REJECTS. Raises StoreError for a full disk."""
        note, rejects = ShardNote(part.name, {}, [], [], []), []
        shards = self.store / "shards"
        with open_shard(shards / f"{part.name}.shard") as shard:
            for outcome in outcomes:
                case, source_hash = outcome.row["case"], outcome.row["source_hash"]
                require_memory(case["volume_id"], outcome.error)
                if outcome.result is None:
                    rejects.append(_reject(case, source_hash, outcome.error).row)
                else:
                    _add(shard, note, case, source_hash, outcome.result)
                del outcome  # its voxels: the next volume is alone
        with writing(self.store):
            if note.cases:
                note.save(shards)
            else:
                (shards / f"{part.name}.shard").delete()
        return note, rejects


def _add(shard: ShardWriter, note: ShardNote, case: Row, source_hash: str, loaded: LoadedVolume) -> None:
    note.manifest.append(shard.add(loaded.volume, case["split"], without_contents(source_hash)))
    note.marks.extend(_plain(asdict(mark)) for mark in loaded.marks)
    note.ignore.extend(map(_plain, loaded.ignored))
    note.cases[case["volume_id"]] = source_hash


def _make_all(
    maker: type[Maker],
    given: tuple[Settings, Path | None, Location, Location],
    parts: Sequence[Part],
    refused: Sequence[Reject],
    volumes: int,
) -> tuple[list[ShardNote], list[Reject]]:
    """The shards of the parts, and what is refused with what was `refused` before, of so many volumes in all.

    Raises StoreError: no room, more than data.max_reject_share refused.
    """
    settings, *_, begun = given
    collected = Collected(settings, begun, parts, refused, volumes)
    collected.require_few()
    if not parts:
        return [], collected.rejects
    compute = settings.compute
    dataset = ray.data.from_items(
        [{"name": part.name, "rows": json.dumps(part.rows)} for part in parts], override_num_blocks=len(parts)
    ).map(
        cast(Callable[[Row], Row], maker),  # Ray's types know functions only
        fn_constructor_args=given,
        compute=ActorPoolStrategy(size=min(compute.replicas, len(parts))),
        num_cpus=compute.cpus_per_replica,
    )
    # Ray's own watchdog would end the job before a worker has given up what is stuck.
    dataset.context.execution_no_progress_timeout_s = -1
    work = BackgroundWork(partial(collected.take, dataset.iter_rows))
    work.start()
    work.watch(collected, pool_request(compute))
    return collected.notes, sorted(collected.rejects, key=lambda each: each.source_hash)


class ManyRefusedError(StoreError):
    """More volumes are refused than may be. rejects: those that were when the work ended."""

    def __init__(self, message: str, rejects: Sequence[Reject]) -> None:
        super().__init__(message)
        self.rejects = rejects


class Collected:
    """What the actors give back, and how far they are. Ends at once where it cannot end well."""

    def __init__(
        self, settings: Settings, begun: Location, parts: Sequence[Part], refused: Sequence[Reject], volumes: int
    ) -> None:
        self.begun, self.volumes = begun, volumes
        self.allowed = math.floor(settings.data.max_reject_share * volumes)
        self.minutes = settings.compute.no_progress_minutes + MINUTES_FOR_A_NEW_WORKER
        self.parts, self.returned = parts, set[str]()
        self.notes: list[ShardNote] = []
        self.rejects, self.before = [*refused], len(refused)
        self.lines, self.marks = PartLines("prepare", parts), Marks(begun)

    def take(self, rows: Callable[[], Iterable[Row]]) -> None:
        """All rows of Makers. Raises StoreError."""
        for row in rows():
            if row["error"]:
                raise StoreError(row["error"])
            note = ShardNote(**json.loads(row["note"]))
            new = [Reject(**each) for each in json.loads(row["rejects"])]
            self.notes += [note] if note.cases else []
            for each in new[: max(0, LINES_OF_REJECTS + self.before - len(self.rejects))]:
                logger.warning("refused: %s", each.message)
            self.rejects += new
            self.returned.add(note.name)
            self.require_few()

    def require_few(self) -> None:
        """Raises ManyRefusedError where more are refused than may be."""
        if len(self.rejects) > self.allowed:
            raise ManyRefusedError(
                f"{len(self.rejects)} of {self.volumes} volumes were refused, more than data.max_reject_share allows "
                f"({self.allowed}); the first: {self.rejects[0].message}; prepare --rejects FILE.csv names the files",
                self.rejects,
            )

    def reached(self) -> tuple[list[str], dict[str, Any]]:
        """Shards that have not come back, and the marks of the volumes that are begun."""
        left = [part.name for part in self.parts if part.name not in self.returned]
        marks, begun = self.marks.look()
        self.lines.reached(left, begun)
        return left, {**marks}

    def waiting(self) -> str:
        """The volumes that are begun."""
        return (
            f"prepare: no volume was begun or made for {self.minutes:g} minutes (compute.no_progress_minutes and "
            f"{MINUTES_FOR_A_NEW_WORKER:g} more); {said_begun(self.begun, self.parts)}. Start the same command "
            "again: what is made is kept"
        )


def _missing(
    inventory: Inventory, kept: Sequence[ShardNote], refused: Sequence[Reject], shard_bytes: int
) -> list[Part]:
    """A part for each shard to be made: its cases, each with the hash of what it is made from."""
    cases, source_hashes = inventory.cases, inventory.source_hashes
    settled = {source_hash for note in kept for source_hash in note.cases.values()}
    if settled:
        logger.info("prepare: %d of %d volumes were made before", len(settled), len(cases))
    settled |= {each.source_hash for each in refused}
    rows = {
        case["volume_id"]: {
            "volume_id": case["volume_id"],
            "source_hash": source_hashes[case["volume_id"]],
            "case": case,
        }
        for case in cases
    }
    groups = plan_shards([case for case in cases if source_hashes[case["volume_id"]] not in settled], shard_bytes)
    return [Part(shard_name(group, source_hashes), [rows[case["volume_id"]] for case in group]) for group in groups]


def _reject(case: Row, source_hash: str, error: Exception | None) -> Reject:
    """Why a case could not be made. Only our own messages are known to hold no path and no text of the file."""
    # What a reader knows to be the file's fault it says in words of ours.
    passing = error if isinstance(error, OSError) else passing_cause(error)
    if isinstance(error, HarvesterError) and not passing:
        reason = error.reason if isinstance(error, VolumeError) else type(error).__name__
        return Reject(source_hash, reason, str(error))
    cause = passing or error
    said = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(cause).__name__
    frame = traceback.extract_tb(cause.__traceback__ if cause else None)[-1]
    fault = f"volume {case['volume_id']}: cannot be read ({said}, {Path(frame.filename).name}:{frame.lineno})"
    if passing:
        return Reject(source_hash, TRY_AGAIN, f"{fault}; see to its disk and rights, the next start tries it again")
    advice = "see whether another program opens it, and export it again or leave it out"
    return Reject(source_hash, type(cause).__name__, f"{fault}; {advice}")


def _plain(row: Any) -> Row:
    """numpy's numbers as Python's, for JSON."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}
