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

from harvester.config.fingerprint import settings_hash
from harvester.config.settings import Settings
from harvester.datasets.archive.archive import salt_of
from harvester.datasets.discovery import Discovery, LoadedVolume
from harvester.datasets.dry_run import split_rows, splits_csv
from harvester.datasets.registry import FROM_SETTINGS, open_dataset
from harvester.distributed.cluster import quarantine_in
from harvester.distributed.watchdog import BackgroundWork, said_begun, time_limit
from harvester.errors import HarvesterError, StoreError, VolumeError
from harvester.models.memory import require_memory
from harvester.records import Reject
from harvester.run.partials import Part, Row
from harvester.run.progress import ProgressLines
from harvester.run.quarantine import forget
from harvester.run.work_list import Outcome, WorkList
from harvester.storage.location import Location, writing
from harvester.store.commit import DRAWN, commit_store, inputs_before
from harvester.store.container import open_shard
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
    Of an archive that has changed only the shards are made that have to be. Raises StoreError, StepError.
    """
    folder, identity = Location.of(store), _identity(settings)
    before = inputs_before(folder, identity)
    if before and settings.data.kind in FROM_SETTINGS:
        return _as_it_is(folder)
    discovery = list_cases(settings, source, folder)
    cases = [asdict(case) for case in discovery.cases]
    source_hashes = _source_hashes(identity, cases, discovery.rejects)
    stamp = {"settings": identity, "cases": settings_hash(sorted(source_hashes.items()))}
    if discovery.unflagged:
        stamp[DRAWN] = str(len(discovery.unflagged))
    if before == stamp:
        return _as_it_is(folder)
    shards, begun = folder / "shards", folder / f"{BEGUN}{stamp['cases']}"
    sweep(shards)
    kept = shards_made(shards, source_hashes)
    parts = _missing(cases, kept, source_hashes, shard_bytes)
    allowed = math.floor(settings.data.max_reject_share * len(cases))
    try:
        made, rejects = _make_all(Maker, (settings, source, folder, begun), parts, allowed)
    except StoreError:
        sweep(shards)
        forget(begun)  # whoever mends what is wrong may have mended what killed
        raise
    if settings.data.kind not in FROM_SETTINGS:
        with writing(folder):
            (folder / "splits.csv").write_bytes(splits_csv(split_rows(discovery)).encode())
    refused = [*discovery.rejects, *rejects]
    finished = commit_store(folder, [*kept, *made], refused, stamp, discovery.unflagged, settings.seed)
    return _swept(finished, [*kept, *made])


def _swept(finished: Store, notes: Sequence[ShardNote]) -> Store:
    """The store of these shards, and nothing beside them."""
    folder = finished.path
    sweep(folder / "shards", notes)
    for name in folder.folders():
        if name.startswith(BEGUN):
            (folder / name).delete_folder()
    return finished


def prepared(settings: Settings, store: Location) -> Store | None:
    """The store that `prepare` made of made data, None where it is not finished. Raises StoreError for another's."""
    made = settings.data.kind in FROM_SETTINGS and inputs_before(Location.of(store), _identity(settings))
    return Store.open(store) if made else None


def _as_it_is(folder: Location) -> Store:
    logger.info("store %s: made before", folder)
    return Store.open(folder)


def list_cases(settings: Settings, source: Path | None, store: Location | None) -> Discovery:
    """What there is to make, and what is refused; without a store nothing is written, not even the secret of the ids:
    they are of this look alone."""
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
                if (loaded := outcome.result) is None:
                    rejects.append(asdict(_reject(case, source_hash, outcome.error)))
                    continue
                note.manifest.append(shard.add(loaded.volume, case["split"], source_hash))
                note.marks.extend(_plain(asdict(mark)) for mark in loaded.marks)
                note.ignore.extend(map(_plain, loaded.ignored))
                note.cases[case["volume_id"]] = source_hash
        with writing(self.store):
            if note.cases:
                note.save(shards)
            else:
                (shards / f"{part.name}.shard").delete()
        return note, rejects


def _make_all(
    maker: type[Maker], given: tuple[Settings, Path | None, Location, Location], parts: Sequence[Part], allowed: int
) -> tuple[list[ShardNote], list[Reject]]:
    """The shards of the parts, and what was refused. Raises StoreError: no room, more than `allowed` refused."""
    if not parts:
        return [], []
    settings, *_, begun = given
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
    collected = Collected(begun, parts, compute.no_progress_minutes, allowed)
    work = BackgroundWork(partial(collected.take, dataset.iter_rows))
    work.start()
    work.watch(collected)
    return collected.notes, sorted(collected.rejects, key=lambda each: each.source_hash)


class Collected:
    """What the actors give back, and how far they are. Ends at once where it cannot end well."""

    def __init__(self, begun: Location, parts: Sequence[Part], minutes: float, allowed: int) -> None:
        self.begun, self.allowed, self.minutes = begun, allowed, minutes + MINUTES_FOR_A_NEW_WORKER
        self.volume_ids = [row["volume_id"] for part in parts for row in part.rows]
        self.notes: list[ShardNote] = []
        self.rejects: list[Reject] = []
        self.done = 0
        self.lines = ProgressLines("prepare", len(self.volume_ids))

    def take(self, rows: Callable[[], Iterable[Row]]) -> None:
        """All rows of Makers. Raises StoreError."""
        for row in rows():
            if row["error"]:
                raise StoreError(row["error"])
            note = ShardNote(**json.loads(row["note"]))
            new = [Reject(**each) for each in json.loads(row["rejects"])]
            self.notes += [note] if note.cases else []
            for each in new[: max(0, LINES_OF_REJECTS - len(self.rejects))]:
                logger.warning("refused: %s", each.message)
            self.rejects += new
            self.done += len(note.cases) + len(new)
            if len(self.rejects) > self.allowed:
                raise StoreError(
                    f"{len(self.rejects)} of {self.lines.total} volumes were refused, more than "
                    f"data.max_reject_share allows ({self.allowed}); the first: {self.rejects[0].message}"
                )

    def reached(self) -> tuple[int, dict[str, Any]]:
        """Volumes that came back, and the marks of those that are begun."""
        self.lines.reached(self.done)
        return self.done, self.begun.versions()

    def waiting(self) -> str:
        """The volumes that are begun."""
        return (
            f"prepare: no volume was begun or made for {self.minutes:g} minutes (compute.no_progress_minutes and "
            f"{MINUTES_FOR_A_NEW_WORKER:g} more); {said_begun(self.begun, self.volume_ids)}. Start the same command "
            "again: what is made is kept"
        )


def _missing(
    cases: Sequence[Row], kept: Sequence[ShardNote], source_hashes: dict[str, str], shard_bytes: int
) -> list[Part]:
    """A part for each shard to be made: its cases, each with the hash of what it is made from."""
    done = {volume_id for note in kept for volume_id in note.cases}
    if done:
        logger.info("prepare: %d of %d volumes were made before", len(done), len(cases))
    rows = {
        case["volume_id"]: {
            "volume_id": case["volume_id"],
            "source_hash": source_hashes[case["volume_id"]],
            "case": case,
        }
        for case in cases
    }
    groups = plan_shards([case for case in cases if case["volume_id"] not in done], shard_bytes)
    return [Part(shard_name(group, source_hashes), [rows[case["volume_id"]] for case in group]) for group in groups]


def _reject(case: Row, source_hash: str, error: Exception | None) -> Reject:
    """Why a case could not be made. Only our own messages are known to hold no path and no text of the file."""
    if isinstance(error, HarvesterError):
        reason = error.reason if isinstance(error, VolumeError) else type(error).__name__
        return Reject(source_hash, reason, str(error))
    cause = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    frame = traceback.extract_tb(error.__traceback__ if error else None)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return Reject(
        source_hash,
        type(error).__name__,
        f"volume {case['volume_id']}: cannot be read ({cause}, {where}); see whether another program opens "
        "it, and export it again or leave it out",
    )


def _plain(row: Any) -> Row:
    """numpy's numbers as Python's, for JSON."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}


def _identity(settings: Settings) -> str:
    """What a store is made from, but for the cases. The path does not count: data may lie elsewhere tomorrow.

    Neither does how many refusals are allowed: whoever allows more goes on with what is there.
    """
    kind = settings.data.kind
    # Clinical marks are drawn when all volumes are there: not a voxel is made anew for it.
    own = getattr(settings.data, kind).model_dump(mode="json", exclude={"clinical_marks"})
    return settings_hash(kind, own, settings.seed, settings.grid.spacing_zyx_mm)


def _source_hashes(identity: str, cases: Sequence[Row], rejects: Sequence[Reject]) -> dict[str, str]:
    """volume_id: what the volume is to be made from, hashed. Raises StoreError for no cases and for two of one id."""
    if not cases:
        first = f"; {len(rejects)} were refused, the first: {rejects[0].message}" if rejects else ""
        raise StoreError(
            "no scans found: want .nii, .nii.gz or DICOM CT series, or the slices of DeepLesion's table, under "
            f"--source{first}"
        )
    hashes = {case["volume_id"]: settings_hash(identity, case) for case in cases}
    if len(hashes) < len(cases):
        raise StoreError(f"{len(cases) - len(hashes)} scans have the volume_id of another; want one per scan")
    return hashes
