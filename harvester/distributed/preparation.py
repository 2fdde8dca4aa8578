"""Ray Data: an archive, made or given, to a store. Voxels go from the maker to the disk; only rows come back.

A case is one volume to be: a phantom, a sub-volume with inserted lesions, or a scan of somebody's archive. What
fails becomes a row of rejects.parquet with its reason; past data.max_reject_share the job fails.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import ray.data
from ray.data import ActorPoolStrategy

from harvester.config import Settings, settings_hash
from harvester.errors import HarvesterError, SettingsError, StoreError, VolumeError
from harvester.records import Mark, Volume
from harvester.volumes import archive, backgrounds, insertion, phantom
from harvester.volumes.found import Found
from harvester.volumes.store import Store, finish_store, write_volume

logger = logging.getLogger(__name__)

Made = tuple[Volume, list[Mark], list[dict[str, Any]]]
SECONDS_BETWEEN_LINES: Final = 15.0
STAMP: Final = "prepared.json"


def prepare(settings: Settings, source: Path | None, store: Path) -> Store:
    """The finished store for `settings.data`; one that was finished before from the same settings is reused.

    `source` is the data root that $HARVESTER_DATA stands for, or the folder of an archive (data.kind archive).
    """
    # An archive grows, so what it holds now counts; made data follow from the settings alone.
    found = list_cases(settings, source, store) if settings.data.kind == "archive" else Found([])
    told = _identity(settings, [asdict(case) for case in found.cases])
    if (store / "manifest.parquet").is_file():
        return _made_before(store, told)
    found = found if found.cases else list_cases(settings, source, store)
    if not found.cases:
        raise StoreError("no scans found: want .nii, .nii.gz or DICOM CT series under --source")
    store.mkdir(parents=True, exist_ok=True)
    rows = _make_all(settings, source, store, [asdict(case) for case in found.cases])
    made = [row for row in rows if not row["reason"]]
    rejects = [row for row in rows if row["reason"]]
    _refuse_if_broken(rejects, len(rows), settings.data.max_reject_share)
    marks = [(row["split"], Mark(**mark)) for row in made for mark in json.loads(row["marks"])]
    (store / STAMP).write_text(json.dumps(told))
    return finish_store(
        store,
        [json.loads(row["manifest"]) for row in made],
        [mark for split, mark in marks if split == "vm" or mark.clinical],
        [mark for split, mark in marks if split in ("vh_test", "vd_test")],
        [asdict(each) for each in found.refused]
        + [{name: row[name] for name in ("source_hash", "reason", "message")} for row in rejects],
        [region for row in made for region in json.loads(row["ignore"])],
    )


def _made_before(store: Path, told: dict[str, str]) -> Store:
    """The store that is there, if it was made from the same. Raises StoreError."""
    stamp = store / STAMP
    if not stamp.is_file() or json.loads(stamp.read_text()) != told:
        raise StoreError(
            f"{store}: holds a store made from other settings or scans; give another --store or --run"
        )
    logger.info("store %s: made before", store)
    return Store(store)


def list_cases(settings: Settings, source: Path | None, store: Path) -> Found:
    """What there is to make, a small dataclass each, those that share work side by side; and what is refused."""
    data = settings.data
    if data.kind == "phantom":
        return Found(phantom.plan(data.phantom))
    if data.kind == "insertion":
        listed = backgrounds.load_backgrounds(data.insertion, _root(source))
        return Found(sorted(insertion.plan(data.insertion, listed), key=lambda case: case.background_id))
    if data.kind == "archive":
        return archive.scan(_root(source), data.archive, settings.seed, archive.salt_of(store))
    raise SettingsError("setting data.kind = 'store': nothing to prepare; want phantom, insertion or archive")


class Maker:
    """Actor: cases to stored volumes. What several cases share is read once an actor."""

    def __init__(self, settings: Settings, source: Path | None, store: Path) -> None:
        self.settings, self.source, self.store = settings, source, store
        self.shared: dict[str, Any] = {}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """One case: the volume to the store, a row of plain values back."""
        case = json.loads(row["case"])
        source_hash = settings_hash(self.settings.data, self.settings.seed, case)
        try:
            volume, marks, ignored = self.make(case)
            manifest = write_volume(self.store, volume, case["split"], source_hash)
        except (HarvesterError, OSError, ValueError) as error:
            reason = error.reason if isinstance(error, VolumeError) else type(error).__name__
            return _row(case, source_hash, reason=reason, message=str(error))
        told = {"marks": [asdict(mark) for mark in marks], "manifest": manifest, "ignore": ignored}
        return _row(
            case, source_hash, **{name: json.dumps(value, default=_plain) for name, value in told.items()}
        )

    def make(self, case: dict[str, Any]) -> Made:
        """The volume of a case, its marks, and the regions left out of scoring."""
        data, grid = self.settings.data, self.settings.grid.spacing_zyx_mm
        if data.kind == "phantom":
            drawn = phantom.Case(**case)
            volume, marks, _ = phantom.make(data.phantom, grid, drawn, self.settings.seed)
            return volume, marks, []
        if data.kind == "archive":
            return *archive.read(archive.Case(**case), _root(self.source)), []
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
    settings: Settings, source: Path | None, store: Path, cases: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    compute = settings.compute
    replicas = min(compute.replicas, len(cases))
    items = [{"case": json.dumps(case)} for case in cases]
    dataset = ray.data.from_items(items, override_num_blocks=min(len(items), 8 * replicas)).map(
        Maker,  # type: ignore[arg-type]  # Ray's stub knows functions only
        fn_constructor_args=(settings, source, store),
        compute=ActorPoolStrategy(size=replicas),
        num_cpus=compute.cpus_per_replica,
    )
    return _watched(dataset.iter_rows, len(cases))


def _watched(rows: Callable[[], Iterable[dict[str, Any]]], total: int) -> list[dict[str, Any]]:
    began = last = time.monotonic()
    done = []
    for row in rows():
        done.append(row)
        if time.monotonic() - last > SECONDS_BETWEEN_LINES or len(done) == total:
            last = time.monotonic()
            logger.info(
                "prepare: %d of %d volumes, %.1f a second", len(done), total, len(done) / (last - began)
            )
    return sorted(done, key=lambda row: str(row["volume_id"]))


def _row(case: dict[str, Any], source_hash: str, **told: str) -> dict[str, Any]:
    blank = {"reason": "", "message": "", "marks": "[]", "manifest": "", "ignore": "[]"}
    return {
        "volume_id": case["volume_id"],
        "split": case["split"],
        "source_hash": source_hash,
        **blank,
        **told,
    }


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's, for JSON."""
    return value.item()


def _root(source: Path | None) -> Path:
    if source is None:
        raise SettingsError(
            "this data.kind reads files: give --source, or set $HARVESTER_DATA to the folder of the data"
        )
    return source


def _identity(settings: Settings, cases: list[dict[str, Any]]) -> dict[str, str]:
    """What a store is made from. The path does not count: the same data may lie elsewhere tomorrow."""
    return {"settings": settings_hash(settings.data, settings.seed, settings.grid.spacing_zyx_mm, cases)}


def _refuse_if_broken(rejects: list[dict[str, Any]], total: int, max_share: float) -> None:
    for row in rejects[:5]:
        logger.warning("refused %s: %s", row["volume_id"], row["message"])
    if len(rejects) > math.floor(max_share * total):
        raise StoreError(
            f"{len(rejects)} of {total} volumes were refused, more than data.max_reject_share = {max_share} "
            f"allows; the first: {rejects[0]['message']}"
        )
