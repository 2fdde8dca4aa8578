"""Somebody's own archive: a folder of scans and what is known of them.

Scans       .nii and .nii.gz files (*.mask.nii.gz are left out) and DICOM CT series, in folders of any depth.
marks.csv   one row a box, all in the file's own voxels from 0, ends inclusive: `file` (path in the archive of
            the NIfTI file or of the series' folder, or a SeriesInstanceUID), `z`, `x1`, `y1`, `x2`, `y2`; z is
            the index of the file's third axis, in DICOM of the slices ascending along their normal. Optional:
            `clinical` (default 1; 0 for a lesion that the clinic did not mark), `kind`.
volumes.csv optional, one row a scan: `file`, and any of `patient`, `split`, `complete` (1: every lesion is in
            marks.csv). marks.csv may have these three columns instead.
Objects     SR, SEG and RTSTRUCT files that name a DICOM series give its marks where marks.csv gives none; both are
            an error. Which series are taken: settings data.archive.dicom, decision 0009.

Splits go by patient. Where no split is named, a patient all of whose scans are complete belongs to vm (a share
of them, drawn, to vh_test), every other one to vh. Ids are salted hashes; files are named by no message.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harvester.config import ArchiveSettings
from harvester.errors import LabelError, VolumeError
from harvester.records import Mark, Volume
from harvester.volumes import archive_dicom
from harvester.volumes.archive_tables import Known, MarkRow, read_tables
from harvester.volumes.dicom_grid import Laid
from harvester.volumes.dicom_objects import read_object_marks
from harvester.volumes.found import Found, Scan, salted_hash
from harvester.volumes.io_dicom import read_series
from harvester.volumes.io_nifti import read_turned_nifti
from harvester.volumes.locations import Location, Where
from harvester.volumes.orientation import Turn
from harvester.volumes.tree import walk


@dataclass(frozen=True)
class Case:
    """One scan to be stored. `files` lie under the archive's root; `marks` are in the files' own voxels.

    objects        DICOM files under the root that may mark the scan; machine_marks: those of programs count too
    """

    volume_id: str
    patient_id: str
    split: str
    files: list[str]
    bytes: int
    marks: list[MarkRow]
    objects: list[str] = field(default_factory=list)
    machine_marks: bool = False


def scan(root: Path, settings: ArchiveSettings, seed: int, salt: str) -> Found:
    """Every scan under `root` as a Case; none for an empty folder. Raises LabelError for broken tables.

    The same archive, seed and salt give the same cases; a further patient moves nobody's split.
    """
    nifti, looked = _nifti_scans(root), archive_dicom.look(root, walk(root), settings, salt)
    known = read_tables(root, {name: each.key for each in nifti for name in each.names} | looked.names)
    taken = archive_dicom.choose(looked, known.keys(), settings, salt)
    kept = nifti if settings.format != "dicom" else []
    if settings.format != "nifti":
        kept = [*kept, *taken.scans]
    patients = {each.key: known.get(each.key, Known()).patient or each.patient for each in kept}
    splits = _splits(kept, patients, known, settings.vh_test_share, seed)
    cases = (_case(root, each, patients[each.key], splits, known, salt) for each in kept)
    refused = taken.refused if settings.format != "nifti" else []
    return Found(sorted(cases, key=lambda case: case.volume_id), refused)


def read(case: Case, root: Path) -> tuple[Volume, list[Mark]]:
    """The scan of a case and its marks in the stored order. Raises VolumeError (also bad_mark, two_sources,
    not_axial)."""
    files = [root / file for file in case.files]
    if _is_nifti(files[0]):
        volume, turn = read_turned_nifti(files[0], case.volume_id, case.patient_id)
        return volume, [_mark(volume, turn, number, row) for number, row in enumerate(case.marks)]
    series = read_series(files, case.volume_id, case.patient_id)
    marks = [_mark(series.volume, series.laid, number, row) for number, row in enumerate(case.marks)]
    found = read_object_marks(series, [root / file for file in case.objects], case.machine_marks)
    if marks and found:
        raise VolumeError(
            "two_sources",
            f"volume {case.volume_id}: marked both in marks.csv and in DICOM objects; take its rows out of "
            "marks.csv, or set data.archive.dicom.marks=[]",
        )
    return series.volume, marks or found


def salt_of(store: Where) -> str:
    """The secret that makes ids meaningless outside: made once, kept in a file beside the store, not in it."""
    folder = Location.of(store)
    file = folder.parent / f"{folder.name}.salt"
    if not file.is_file():
        if file.on_disk:  # for nobody else's eyes, from its first byte
            Path(str(folder.parent)).mkdir(parents=True, exist_ok=True)
            Path(str(file)).touch(mode=0o600)
            Path(str(file)).write_text(secrets.token_hex(16))
        else:
            file.write_bytes(secrets.token_hex(16).encode())
    return file.read_bytes().decode().strip()


def _nifti_scans(root: Path) -> list[Scan]:
    files = (file for file in sorted(root.rglob("*")) if _is_nifti(file) and file.is_file())
    return [
        _nifti_scan(root, file) for file in files if not file.name.endswith((".mask.nii.gz", ".mask.nii"))
    ]


def _nifti_scan(root: Path, file: Path) -> Scan:
    name = file.relative_to(root).as_posix()
    stem = name.removesuffix(".gz").removesuffix(".nii")
    return Scan(name, stem, [file], {name, stem})


def _is_nifti(file: Path) -> bool:
    return file.name.endswith((".nii", ".nii.gz"))


def _splits(
    scans: Iterable[Scan], patients: Mapping[str, str], known: Mapping[str, Known], share: float, seed: int
) -> dict[str, str]:
    """The split of each patient: the named one, else vm or vh_test if all their scans are complete, else vh."""
    of_patient: dict[str, list[Known]] = {}
    for each in scans:
        of_patient.setdefault(patients[each.key], []).append(known.get(each.key, Known()))
    return {
        patient: _named_split(told) or _drawn_split(all(scan.complete for scan in told), patient, share, seed)
        for patient, told in of_patient.items()
    }


def _named_split(told: Sequence[Known]) -> str:
    """The split that the tables name for the scans of a patient, "" for none. Raises LabelError for two."""
    named = {scan.split for scan in told if scan.split}
    if len(named) > 1:
        raise LabelError(f"a patient's scans are in {' and '.join(sorted(named))}; want one split a patient")
    if named - {"vh"} and not all(scan.split or scan.complete for scan in told):
        raise LabelError(
            f"a patient in split {named.pop()} has scans that are not told to be complete; give each of the "
            "patient's scans the split or complete = 1"
        )
    return named.pop() if named else ""


def _drawn_split(complete: bool, patient: str, share: float, seed: int) -> str:
    if not complete:
        return "vh"
    return "vh_test" if _draw(patient, seed) < share else "vm"


def _draw(patient: str, seed: int) -> float:
    """A number in [0, 1) that hangs on this patient and the seed alone."""
    return int(hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()[:12], 16) / 16**12


def _case(
    root: Path, each: Scan, patient: str, splits: Mapping[str, str], known: Mapping[str, Known], salt: str
) -> Case:
    return Case(
        volume_id="v" + salted_hash(each.key, salt),
        patient_id="p" + salted_hash(f"patient:{patient}", salt),
        split=splits[patient],
        files=[file.relative_to(root).as_posix() for file in each.files],
        bytes=sum(file.stat().st_size for file in each.files),
        marks=known[each.key].marks if each.key in known else [],
        objects=each.objects,
        machine_marks=each.machine_marks,
    )


def _mark(volume: Volume, turn: Turn | Laid, number: int, row: MarkRow) -> Mark:
    columns, rows, slices = turn.shape
    x1, y1, x2, y2 = row["box_xyxy"]
    if not (0 <= row["z"] < slices and 0 <= x1 <= x2 <= columns - 1 and 0 <= y1 <= y2 <= rows - 1):
        raise VolumeError(
            "bad_mark",
            f"volume {volume.volume_id}: the mark in line {row['line']} of marks.csv lies outside the scan of "
            f"{slices} slices, {rows} rows, {columns} columns (z, y, x from 0, x1 <= x2, y1 <= y2); correct it",
        )
    z, x1, y1, x2, y2 = turn.box(row["z"], (x1, y1, x2, y2))
    mark_id = f"{volume.volume_id}-{number}"
    return Mark(volume.volume_id, mark_id, z, x1, y1, x2, y2, row["clinical"], row["kind"])
