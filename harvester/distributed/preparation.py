"""Ray Data: an archive, made or given, to a store. Voxels go from the maker to the store; only rows come back.

A case is one volume to be: a phantom, a sub-volume with inserted lesions, or a scan of somebody's archive. An actor
makes a shard at a time, volume after volume. What fails becomes a row of rejects.parquet with its reason; past
data.max_reject_share the job fails. Started again, it makes the shards that are missing.
"""

import json
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import ray.data
from ray.data import ActorPoolStrategy

from harvester.config.loading import settings_hash
from harvester.config.settings import Settings
from harvester.datasets.archive import archive
from harvester.datasets.deeplesion import deeplesion
from harvester.datasets.discovery import Found
from harvester.datasets.dry_run import split_rows, splits_csv
from harvester.datasets.insertion import backgrounds, insertion
from harvester.datasets.phantom import phantom
from harvester.errors import HarvesterError, SettingsError, StoreError, VolumeError
from harvester.records import Mark, Refused, Volume
from harvester.storage.location import Location, Where, writing
from harvester.store.commit import commit_store, inputs_before
from harvester.store.container import ShardWriter, open_shard
from harvester.store.shard_plan import (
    SHARD_BYTES,
    CaseRecord,
    ShardNote,
    plan_shards,
    shard_name,
    shards_made,
    sweep,
)
from harvester.store.store import Store

logger = logging.getLogger(__name__)

Made = tuple[Volume, list[Mark], list[dict[str, Any]]]
FROM_SETTINGS: Final = ("phantom", "insertion")
"""Kinds of data whose cases follow from the settings; what an archive holds is to be looked up."""


def prepare(settings: Settings, source: Path | None, store: Where, shard_bytes: int = SHARD_BYTES) -> Store:
    """The finished store for `settings.data`; one that was finished before from the same is reused.

    `source` is the data root that $HARVESTER_DATA stands for, or the folder of somebody's archive.
    Of an archive that has changed only the shards are made that have to be. Raises StoreError.
    """
    folder, identity = Location.of(store), _identity(settings)
    before = inputs_before(folder, identity)
    if before and settings.data.kind in FROM_SETTINGS:
        return _as_it_is(folder)
    found = list_cases(settings, source, folder)
    cases = [asdict(case) for case in found.cases]
    source_hashes = _source_hashes(identity, cases, found.refused)
    told = {"settings": identity, "cases": settings_hash(sorted(source_hashes.items()))}
    if before == told:
        return _as_it_is(folder)
    shards = folder / "shards"
    sweep(shards)
    kept = shards_made(shards, source_hashes)
    done = {volume_id for note in kept for volume_id in note.cases}
    if done:
        logger.info("prepare: %d of %d volumes were made before", len(done), len(cases))
    missing = [case for case in cases if case["volume_id"] not in done]
    try:
        made, rejects = _make_all(settings, source, folder, source_hashes, missing, len(cases), shard_bytes)
    except StoreError:
        sweep(shards)
        raise
    if settings.data.kind not in FROM_SETTINGS:
        with writing(folder):
            (folder / "splits.csv").write_bytes(splits_csv(split_rows(found)).encode())
    finished = commit_store(folder, [*kept, *made], [*found.refused, *rejects], told)
    sweep(shards, [*kept, *made])
    return finished


def prepared(settings: Settings, store: Where) -> Store | None:
    """The store that `prepare` made of made data, None where it is not finished. Raises StoreError for another's."""
    made = settings.data.kind in FROM_SETTINGS and inputs_before(Location.of(store), _identity(settings))
    return Store.open(store) if made else None


def _as_it_is(folder: Location) -> Store:
    logger.info("store %s: made before", folder)
    return Store.open(folder)


def list_cases(settings: Settings, source: Path | None, store: Location | None) -> Found:
    """What there is to make, a small dataclass each, those that share work side by side; and what is refused.

    Without a store nothing is written, not even the secret that makes ids: they are of this look alone.
    """
    data = settings.data
    salt = archive.salt_of(store) if store and data.kind not in FROM_SETTINGS else ""
    if data.kind == "phantom":
        return Found(phantom.plan(data.phantom))
    if data.kind == "insertion":
        listed = backgrounds.load_backgrounds(data.insertion, _root(source))
        return Found(sorted(insertion.plan(data.insertion, listed), key=lambda case: case.background_id))
    if data.kind == "archive":
        return archive.scan(_root(source), data.archive, settings.seed, salt)
    if data.kind == "deeplesion":
        return deeplesion.scan(_root(source), data.deeplesion, settings.seed, salt)
    raise SettingsError(
        "setting data.kind = 'store': nothing to prepare; want phantom, insertion, archive or deeplesion"
    )


class Maker:
    """Actor: cases to shards of stored volumes. What several cases share is read once an actor."""

    def __init__(self, settings: Settings, source: Path | None, store: Where) -> None:
        self.settings, self.source, self.store = settings, source, Location.of(store)
        self.shared: dict[str, Any] = {}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """One shard: its volumes to the store, a row of plain values back. `error` ends the job."""
        try:
            note, rejects = self.write(row["name"], json.loads(row["cases"]), json.loads(row["sources"]))
        except StoreError as error:
            return {"note": "", "rejects": "[]", "error": str(error)}
        return {"note": note.to_json(), "rejects": json.dumps(rejects), "error": ""}

    def write(
        self, name: str, cases: list[CaseRecord], sources: dict[str, str]
    ) -> tuple[ShardNote, list[dict[str, str]]]:
        """The shard of these cases, with its note, and rows of records.REJECTS. Raises StoreError for a full disk."""
        note, rejects = ShardNote(name, {}, [], [], []), []
        shards = self.store / "shards"
        with open_shard(shards / f"{name}.shard") as shard:
            for case in cases:
                refused = self._add(case, sources[case["volume_id"]], shard, note)
                rejects += [asdict(refused)] if refused else []
        with writing(self.store):
            if note.cases:
                note.save(shards)
            else:
                (shards / f"{name}.shard").delete()
        return note, rejects

    def _add(self, case: CaseRecord, source: str, shard: ShardWriter, note: ShardNote) -> Refused | None:
        """One volume into the shard, forgotten afterwards; or why not."""
        try:
            volume, marks, ignored = self.make(case)
        except Exception as error:  # noqa: BLE001  a reader may raise anything on a broken file
            return _refused(case, source, error)
        note.manifest.append(shard.add(volume, case["split"], source))
        note.marks.extend(_plain(asdict(mark)) for mark in marks)
        note.ignore.extend(_plain(region) for region in ignored)
        note.cases[case["volume_id"]] = source
        return None

    def make(self, case: dict[str, Any]) -> Made:
        """The volume of a case, its marks, and the regions left out of scoring."""
        data, grid = self.settings.data, self.settings.grid.spacing_zyx_mm
        if data.kind == "phantom":
            drawn = phantom.Case(**case)
            volume, marks, _ = phantom.make(data.phantom, grid, drawn, self.settings.seed)
            return volume, marks, []
        if data.kind == "archive":
            return *archive.read(archive.Case(**case), _root(self.source), data.archive), []
        if data.kind == "deeplesion":
            return *deeplesion.read(deeplesion.Case(**case), _root(self.source)), []
        prepared = self._background(case["background_id"])
        cut = insertion.Case(**case)
        volume, marks, regions = insertion.make(data.insertion, prepared, cut, self.settings.seed)
        return volume, marks, [{k: v for k, v in asdict(region).items() if k != "kind"} for region in regions]

    def _background(self, name: str) -> Any:
        if name not in self.shared:
            listed = backgrounds.load_backgrounds(self.settings.data.insertion, _root(self.source))
            chosen = next(each for each in listed if each.id == name)
            # Cases come sorted by background: one at a time is enough to hold.
            loaded = backgrounds.load_background_volume(chosen, self.settings.grid.spacing_zyx_mm)
            self.shared = {name: loaded}
        return self.shared[name]


def _make_all(
    settings: Settings,
    source: Path | None,
    folder: Location,
    source_hashes: dict[str, str],
    missing: list[CaseRecord],
    total: int,
    shard_bytes: int,
) -> tuple[list[ShardNote], list[Refused]]:
    """The shards of the missing cases, and what was refused. Raises StoreError: no room, too many refused."""
    compute = settings.compute
    shards = plan_shards(missing, shard_bytes)
    if not shards:
        return [], []
    dataset = ray.data.from_items(
        [_item(cases, source_hashes) for cases in shards], override_num_blocks=len(shards)
    ).map(
        Maker,  # type: ignore[arg-type]  # Ray's stub knows functions only
        fn_constructor_args=(settings, source, folder),
        compute=ActorPoolStrategy(size=min(compute.replicas, len(shards))),
        num_cpus=compute.cpus_per_replica,
    )
    return gathered(dataset.iter_rows, len(missing), math.floor(settings.data.max_reject_share * total))


def _item(cases: list[CaseRecord], source_hashes: dict[str, str]) -> dict[str, str]:
    sources = {case["volume_id"]: source_hashes[case["volume_id"]] for case in cases}
    return {
        "name": shard_name(cases, sources),
        "cases": json.dumps(cases),
        "sources": json.dumps(sources),
    }


def _refused(case: CaseRecord, source_hash: str, error: Exception) -> Refused:
    """Why a case could not be made. Only our own messages are known to hold no path and no text of the file."""
    if isinstance(error, HarvesterError):
        reason = error.reason if isinstance(error, VolumeError) else type(error).__name__
        return Refused(source_hash, reason, str(error))
    cause = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return Refused(
        source_hash,
        type(error).__name__,
        f"volume {case['volume_id']}: cannot be read ({cause}, {where}); see whether another program opens "
        "it, and export it again or leave it out",
    )


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """numpy's numbers as Python's, for JSON."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}


def _root(source: Path | None) -> Path:
    if source is None:
        raise SettingsError(
            "this data.kind reads files: give --source, or set $HARVESTER_DATA to the folder of the data"
        )
    return source


def _identity(settings: Settings) -> str:
    """What a store is made from, but for the cases. The path does not count: data may lie elsewhere tomorrow.

    Neither does how many refusals are allowed: whoever allows more goes on with what is there.
    """
    kind = settings.data.kind
    return settings_hash(kind, getattr(settings.data, kind), settings.seed, settings.grid.spacing_zyx_mm)


def _source_hashes(identity: str, cases: Sequence[CaseRecord], refused: Sequence[Refused]) -> dict[str, str]:
    """volume_id: what the volume is to be made from, hashed. Raises StoreError for no cases and for two of one id."""
    if not cases:
        first = f"; {len(refused)} were refused, the first: {refused[0].message}" if refused else ""
        raise StoreError(
            "no scans found: want .nii, .nii.gz or DICOM CT series, or the slices of DeepLesion's table, under "
            f"--source{first}"
        )
    hashes = {case["volume_id"]: settings_hash(identity, case) for case in cases}
    if len(hashes) < len(cases):
        raise StoreError(f"{len(cases) - len(hashes)} scans have the volume_id of another; want one a scan")
    return hashes


SECONDS_BETWEEN_LINES: Final = 15.0
LINES_OF_REFUSAL: Final = 5


def gathered(
    rows: Callable[[], Iterable[dict[str, Any]]], total: int, allowed: int
) -> tuple[list[ShardNote], list[Refused]]:
    """What the actors told, with a line of progress now and then. Ends at once where it cannot end well."""
    began = last = time.monotonic()
    notes: list[ShardNote] = []
    rejects: list[Refused] = []
    done = 0
    for row in rows():
        if row["error"]:
            raise StoreError(row["error"])
        note = ShardNote(**json.loads(row["note"]))
        new = [Refused(**each) for each in json.loads(row["rejects"])]
        notes += [note] if note.cases else []
        rejects += new
        done += len(note.cases) + len(new)
        _refuse_if_broken(rejects, new, total, allowed)
        now = time.monotonic()
        if now - last > SECONDS_BETWEEN_LINES or done == total:
            last, rate = now, done / (now - began)
            left = (total - done) / rate
            logger.info("prepare: %d of %d volumes, %.1f a second, %.0f s left", done, total, rate, left)
    return notes, sorted(rejects, key=lambda each: each.source_hash)


def _refuse_if_broken(rejects: list[Refused], new: list[Refused], total: int, allowed: int) -> None:
    for each in new[: max(0, LINES_OF_REFUSAL + len(new) - len(rejects))]:
        logger.warning("refused: %s", each.message)
    if len(rejects) > allowed:
        raise StoreError(
            f"{len(rejects)} of {total} volumes were refused, more than data.max_reject_share allows "
            f"({allowed}); the first: {rejects[0].message}"
        )
