"""A finished run to files of one format: all of them or none, and a table of what could not be exported."""

import csv
import importlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from harvester import __version__
from harvester.errors import SettingsError, StoreError, VolumeError
from harvester.export import coco, dl_info, markups, nifti
from harvester.export.file_grid import Grid, stored_grid
from harvester.export.request import DICOM, Request, Told
from harvester.export.selection import ORIGIN, Case, Row, by_volume, labels_of_run
from harvester.export.source_scans import Source
from harvester.imaging.dicom.file import unheard
from harvester.storage.location import Where
from harvester.store.store import Store

logger = logging.getLogger(__name__)

WriteAll = Callable[[Iterable[Case], Path, Row], None]
WriteOne = Callable[[Case, Path, Row], list[Row]]

WHOLE: Final[dict[str, WriteAll]] = {"coco": coco.write, "csv": dl_info.write}
FOR_EACH: Final[dict[str, WriteOne]] = {"markups": markups.write, "nifti": nifti.write}
LAZY: Final = {"dicom-sr": "harvester.export.dicom_sr", "dicom-seg": "harvester.export.dicom_seg"}
"""Modules that load highdicom, and only when they are asked for: it is an extra."""
REFUSED: Final = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What highdicom and pydicom raise for a series that breaks the standard; their texts may quote it."""
SECONDS_BETWEEN_LINES: Final = 15.0


def export(run: Where, store: Store, source: Source | None, request: Request) -> Told:
    """Write the request's files to its folder; they appear there together, at the end.

    Raises StoreError for a run that is not finished or a missing scan, VolumeError for a scan that has changed.
    """
    groups = by_volume(labels_of_run(run, request.merge, request.hard_negatives), store)
    if source and not request.skip_missing:
        source.require(volume["volume_id"] for volume, _ in groups)
    told = Told()
    aside = request.out.with_name(f".{request.out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)  # what an export that was killed left
    cases = _watched(_cases(groups, source, request, told), len(groups))
    try:
        aside.mkdir(parents=True)
        with unheard():
            _write(cases, aside, request, told)
        _tell(aside, request, told)
        _publish(aside, request.out)
    except OSError as error:
        raise StoreError(
            f"{request.out}: cannot be written ({error.strerror}); make room or give another --out"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return told


def _write(cases: Iterable[Case], folder: Path, request: Request, told: Told) -> None:
    made_by: Row = {"made_by": f"harvester {__version__}", "made": request.made}
    if request.to in WHOLE:
        WHOLE[request.to](cases, folder, made_by)
        return
    write = _writer(request.to)
    rows: list[Row] = []
    for case in cases:
        try:
            rows += write(case, folder, made_by | {"capped": len(case.labels) == request.most})
        except REFUSED as error:
            told.volumes, told.labels = told.volumes - 1, told.labels - len(case.labels)
            _leave_out(
                VolumeError(
                    "unwritable",
                    f"volume {case.volume['volume_id']}: its series cannot carry a {request.to} object "
                    f"({type(error).__name__}); check the series against the standard",
                ),
                case.volume,
                request,
                told,
            )
    _index(rows, folder / "index.csv")


def _writer(to: str) -> WriteOne:
    if to in FOR_EACH:
        return FOR_EACH[to]
    try:
        write: WriteOne = importlib.import_module(LAZY[to]).write
    except ModuleNotFoundError as error:
        if error.name != "highdicom":
            raise
        raise SettingsError(f"--to {to} needs highdicom: pip install highdicom") from None
    return write


def _cases(
    groups: Sequence[tuple[Row, list[Row]]], source: Source | None, request: Request, told: Told
) -> Iterator[Case]:
    for volume, labels in groups:
        try:
            grid = _grid(volume, source, request)
        except VolumeError as error:
            _leave_out(error, volume, request, told)
            continue
        kept = labels[: request.most]
        told.volumes += 1
        told.labels += len(kept)
        told.capped += len(labels) - len(kept)
        yield Case(volume, kept, grid)


def _grid(volume: Row, source: Source | None, request: Request) -> Grid:
    if source is None:
        return stored_grid(volume)
    if not source.has(volume["volume_id"]):
        raise VolumeError("missing", f"volume {volume['volume_id']}: no scan under --source")
    grid = source.grid(volume)
    if request.to in DICOM and not grid.headers:
        raise VolumeError(
            "not_dicom", f"volume {volume['volume_id']}: its scan is NIfTI; export it with --to nifti"
        )
    # Headers are large: only the formats that copy from them keep them.
    return grid if request.to in DICOM else replace(grid, headers=())


def _leave_out(error: VolumeError, volume: Row, request: Request, told: Told) -> None:
    if not request.skip_missing:
        raise error
    told.left_out.append({"volume_id": volume["volume_id"], "reason": error.reason, "message": str(error)})


def _watched(cases: Iterable[Case], total: int) -> Iterator[Case]:
    began = last = time.monotonic()
    for done, case in enumerate(cases):
        now = time.monotonic()
        if now - last > SECONDS_BETWEEN_LINES:
            last, rate = now, done / (now - began)
            logger.info(
                "export: %d of %d volumes, %.1f a second, %.0f s left",
                done,
                total,
                rate,
                (total - done) / rate,
            )
        yield case


def _index(rows: Sequence[Row], file: Path) -> None:
    """What is in which file: a row a label."""
    names = ["file", "number", *(["voxels"] if rows and "voxels" in rows[0] else []), "volume_id", "label_id"]
    flat = [row["label"] | row for row in rows]
    _table(file, [*names, *ORIGIN], flat)


def _tell(folder: Path, request: Request, told: Told) -> None:
    about = {
        "made_by": f"harvester {__version__}",
        "made": request.made,
        "format": request.to,
        "merge": request.merge,
        "hard_negatives": request.hard_negatives,
        "volumes": told.volumes,
        "labels": told.labels,
        "labels_above_the_cap": told.capped,
        "volumes_left_out": len(told.left_out),
        "status": "machine-made, not verified, but for labels whose source is clinical, annotated or reviewed",
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if told.left_out:
        _table(folder / "left_out.csv", ["volume_id", "reason", "message"], told.left_out)


def _table(file: Path, names: Sequence[str], rows: Iterable[Row]) -> None:
    with file.open("w", newline="", encoding="utf-8") as target:
        table = csv.DictWriter(target, names, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows({name: "" if row[name] is None else row[name] for name in names} for row in rows)


def _publish(aside: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(aside.iterdir()):
        file.replace(out / file.name)
