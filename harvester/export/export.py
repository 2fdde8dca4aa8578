"""A finished run to files of one format: all of them or none, and a table of what could not be exported."""

import csv
import importlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from harvester import __version__
from harvester.errors import SettingsError, StoreError, VolumeError
from harvester.export import coco, dl_info
from harvester.export.file_grid import FileGrid, stored_grid
from harvester.export.request import DICOM, ExportSummary, Request
from harvester.export.selection import ORIGIN, LabelledVolume, Row, by_volume, labels_of_run, write_csv
from harvester.export.source_scans import SourceScans
from harvester.imaging.dicom.file import BROKEN, silence_dicom_loggers
from harvester.run.progress import ProgressLines
from harvester.storage.location import Location
from harvester.store.store import Store

WriteAll = Callable[[Iterable[LabelledVolume], Path, Row], None]
WriteOne = Callable[[LabelledVolume, Path, Row], list[Row]]

WHOLE: Final[dict[str, WriteAll]] = {"coco": coco.write, "csv": dl_info.write}
ABOUT: Final = "about.json"
INDEX: Final = "index.csv"
LEFT_OUT: Final = "left_out.csv"
ENDINGS: Final = (".mrk.json", ".nii.gz", ".sr.dcm", ".seg.dcm")
"""Of what is written for each volume."""
FOR_EACH: Final = {"markups": "markups", "nifti": "nifti", "dicom-sr": "dicom_sr", "dicom-seg": "dicom_seg"}
"""Modules, loaded when they are asked for: DICOM's load highdicom, which is an extra."""
REFUSED: Final = tuple(kind for kind in BROKEN if kind is not OSError)
"""What highdicom and pydicom raise for a series that breaks the standard; their texts may quote it."""


def export(run: Location, store: Store, source: SourceScans | None, request: Request) -> ExportSummary:
    """Write the request's files to its folder; they appear there together, at the end.

    Raises StoreError for a run that is not finished or harvested nothing and for a missing scan, VolumeError for a scan
    that has changed.
    """
    groups = by_volume(labels_of_run(run, request.merge, request.hard_negatives, request.likely), store)
    if not groups:
        raise StoreError(
            f"{run}: nothing is harvested yet, so nothing was written: prove it first (harvester audit); --likely "
            "exports what is not proven, --merge the archive's marks"
        )
    if source and not request.skip_missing:
        source.require(volume["volume_id"] for volume, _ in groups)
    summary = ExportSummary()
    aside = request.out.with_name(f".{request.out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)  # what an export that was killed left
    volumes = _labelled(groups, source, request, summary)
    try:
        aside.mkdir(parents=True)
        with silence_dicom_loggers():
            _write(volumes, aside, request, summary)
        _write_about(aside, request, summary)
        request.out.mkdir(parents=True, exist_ok=True)
        for name in _last_export(request.out):
            (request.out / name).unlink(missing_ok=True)
        for file in sorted(aside.iterdir()):
            file.replace(request.out / file.name)
    except OSError as error:
        raise StoreError(
            f"{request.out}: cannot be written ({error.strerror}); make room or give another --out"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return summary


def _write(volumes: Iterable[LabelledVolume], folder: Path, request: Request, summary: ExportSummary) -> None:
    made_by: Row = {"made_by": f"harvester {__version__}", "made": request.made}
    if request.to in WHOLE:
        WHOLE[request.to](volumes, folder, made_by)
        return
    write = _writer(request.to)
    rows: list[Row] = []
    for each in volumes:
        try:
            rows += write(each, folder, made_by | {"capped": len(each.labels) == request.most})
        except (VolumeError, *REFUSED) as error:
            summary.volumes, summary.labels = summary.volumes - 1, summary.labels - len(each.labels)
            _leave_out(_unwritable(error, each, request), each.volume, request, summary)
    names = ["file", "number", *(["voxels"] if rows and "voxels" in rows[0] else []), "volume_id", "label_id"]
    write_csv(folder / INDEX, [*names, *ORIGIN], rows)


def _unwritable(error: Exception, labelled: LabelledVolume, request: Request) -> VolumeError:
    """The error's class alone where it is not ours: its text may quote the series."""
    if isinstance(error, VolumeError):
        return error
    return VolumeError(
        "unwritable",
        f"volume {labelled.volume['volume_id']}: its series cannot carry a {request.to} object "
        f"({type(error).__name__}); check the series against the standard",
    )


def _writer(to: str) -> WriteOne:
    try:
        write: WriteOne = importlib.import_module(f"harvester.export.{FOR_EACH[to]}").write
    except ModuleNotFoundError as error:
        if error.name != "highdicom":
            raise
        raise SettingsError(f"--to {to} needs highdicom: pip install highdicom") from None
    return write


def _labelled(
    groups: Sequence[tuple[Row, list[Row]]], source: SourceScans | None, request: Request, summary: ExportSummary
) -> Iterator[LabelledVolume]:
    progress = ProgressLines("export", len(groups))
    for done, (volume, labels) in enumerate(groups):
        progress.reached(done)
        try:
            grid = _grid(volume, source, request)
        except VolumeError as error:
            _leave_out(error, volume, request, summary)
            continue
        kept = labels[: request.most]
        summary.volumes += 1
        summary.labels += len(kept)
        summary.capped += len(labels) - len(kept)
        yield LabelledVolume(volume, kept, grid)


def _grid(volume: Row, source: SourceScans | None, request: Request) -> FileGrid:
    if source is None:
        return stored_grid(volume)
    grid = source.grid(volume)
    if request.to in DICOM and not grid.headers:
        raise VolumeError("not_dicom", f"volume {volume['volume_id']}: its scan is NIfTI; export it with --to nifti")
    if request.to == "markups" and grid.nifti and grid.nifti.forms_differ():
        raise VolumeError(
            "forms_differ",
            f"volume {volume['volume_id']}: its sform and qform differ by more than a voxel, so that mm are no one "
            "place; export it with --to nifti, or write one affine into both",
        )
    # Headers are large: only the formats that copy from them keep them.
    return grid if request.to in DICOM else replace(grid, headers=())


def _leave_out(error: VolumeError, volume: Row, request: Request, summary: ExportSummary) -> None:
    if not request.skip_missing:
        raise error
    summary.left_out.append({"volume_id": volume["volume_id"], "reason": error.reason, "message": str(error)})


def _last_export(out: Path) -> set[str]:
    """The files that an export left in the folder: --force puts the new ones in their place, not beside them."""
    if not (out / ABOUT).is_file():
        return set()
    names = {ABOUT, INDEX, LEFT_OUT, coco.FILE, dl_info.FILE}
    if (out / INDEX).is_file():
        with (out / INDEX).open(newline="", encoding="utf-8-sig", errors="replace") as lines:
            listed = {row.get("file") or "" for row in csv.DictReader(lines)}
        names |= {name for name in listed if name.endswith(ENDINGS) and Path(name).name == name}
    return names


def _write_about(folder: Path, request: Request, summary: ExportSummary) -> None:
    about = {
        "made_by": f"harvester {__version__}",
        "made": request.made,
        "format": request.to,
        "merge": request.merge,
        "hard_negatives": request.hard_negatives,
        "volumes": summary.volumes,
        "labels": summary.labels,
        "labels_above_the_cap": summary.capped,
        "volumes_left_out": len(summary.left_out),
        "status": "machine-made, not verified, but for labels whose source is clinical, annotated or reviewed",
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if summary.left_out:
        write_csv(folder / LEFT_OUT, ["volume_id", "reason", "message"], summary.left_out)
