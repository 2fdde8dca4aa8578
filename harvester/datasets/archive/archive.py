"""Somebody's own archive: a folder of scans and what is known of them.

Scans       .nii and .nii.gz files (nifti.py) and DICOM CT series, in folders of any depth.
marks.csv   one row per box, all in the file's own voxels from 0, ends inclusive: `file` (path in the archive of
            the NIfTI file or of the series' folder, or a SeriesInstanceUID), `z`, `x1`, `y1`, `x2`, `y2`; z is
            the index of the file's third axis, in DICOM of the series' files ascending along their normal; where
            `file` is one slice's file or SOPInstanceUID, z is empty. Optional:
            `clinical` (1 for a lesion that the clinic had marked, 0 for one that only who marked everything found;
            default 1), `kind`, `lesion` (rows of a scan with the same word are one lesion on several slices, its mark
            is the largest box).
marks.json  or annotations.json: the same as COCO (coco.py).
masks       label masks of NIfTI scans, a.mask.nii.gz or masks/a.nii.gz (masks.py): a component per lesion.
volumes.csv optional, one row per scan: `file`, and any of `patient`, `split`, `complete` (1: every lesion of it is
            marked). marks.csv may have these three columns instead.
Objects     SR, SEG and RTSTRUCT files that name a DICOM series give its marks. Which series are taken: settings
            data.archive.dicom, decision 0009.

Where nothing says which lesions of a completely marked scan the clinic had marked (masks, objects, tables without
`clinical`), that is drawn once all volumes are stored (settings data.archive.clinical_marks, labels/clinical.py).

A scan has marks of one kind; data.archive.marks says which, where there are several. Splits go by patient. Where
no split is named, a patient all of whose scans are complete belongs to vm (a share of them, drawn, to vh_test),
every other one to vh. Ids are salted hashes; files are named by no message.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from harvester.config.data import ArchiveSettings
from harvester.config.settings import Settings
from harvester.datasets.archive import dicom as archive_dicom
from harvester.datasets.archive import nifti as archive_nifti
from harvester.datasets.archive.coco import read_coco
from harvester.datasets.archive.marks import (
    WITH_MASKS,
    WITH_OBJECTS,
    is_unflagged,
    marked_once,
    refuse_doubtful,
    renumbered,
    stored_marks,
)
from harvester.datasets.archive.nifti import check_scans, is_nifti
from harvester.datasets.archive.splits import Assigned, assign
from harvester.datasets.archive.tables import MarkRow, ScanFiles, ScanNames, read_tables
from harvester.datasets.discovery import LOOKS, Dataset, Discovery, LoadedVolume, contents_of, root_of, salted_hash
from harvester.datasets.file_walk import list_files
from harvester.errors import VolumeError, about_volume
from harvester.imaging.dicom.mark_objects import read_object_marks
from harvester.imaging.dicom.reader import read_series
from harvester.imaging.plausible import check_hounsfield
from harvester.labels.dicom.rules import MarkRules
from harvester.records import Mark, Split, Volume

logger = logging.getLogger(__name__)

MANY_OF_A_PATIENT: Final = 4
"""Scans: few people have more."""
DEFAULTS: Final = ArchiveSettings()


@dataclass(frozen=True)
class ArchiveCase:
    """One scan to be stored. `files`, `mask` ("" for none) and `objects` lie under the archive's root.

    marks         in the files' own voxels
    split_origin  given by the tables, or drawn
    objects       DICOM files that may mark the scan
    skipped       which of the scan's slices, as marks count them, are left out
    contents      of all these files, at the look (contents_of)
    """

    volume_id: str
    patient_id: str
    split: str
    files: list[str]
    bytes: int
    marks: list[MarkRow]
    mask: str = ""
    split_origin: str = "drawn"
    objects: list[str] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    contents: str = ""


def dataset(settings: Settings, source: Path | None) -> Dataset:
    """Somebody's own scans, as `discover` finds and `read` reads them."""
    root, own = root_of(source), settings.data.archive
    return Dataset(
        partial(discover, root, own, settings.seed), lambda case: LoadedVolume(*read(ArchiveCase(**case), root, own))
    )


def discover(root: Path, settings: ArchiveSettings, seed: int, salt: str) -> Discovery:
    """Every scan under `root` as an ArchiveCase; none for an empty folder. Raises LabelError for broken tables.

    The same archive, seed and salt give the same cases; a further patient moves nobody's split.
    """
    files = list_files(root)
    nifti, dicom = (each.index(root, files, settings, salt) for each in (archive_nifti, archive_dicom))
    names = ScanNames(nifti.names | dicom.names, dicom.slice_of)
    known = read_tables(root, names, settings.marks)
    if settings.marks in ("auto", "coco"):
        read_coco(root, names, known)
    scans, rejects = dicom.take(known, settings, salt) if settings.format != "nifti" else ([], [])
    if settings.format != "dicom":
        scans, rejects = [*nifti.scans, *scans], [*nifti.rejects, *rejects]
    for each in scans:
        each.known = known.get(each.key, each.known)
        each.patient = each.known.patient or each.patient
        if each.doubtful:
            each.known = replace(each.known, complete=False)
    # Before scans are refused: one that is mended later moves nobody's split.
    splits = assign(scans, settings.vh_test_share, seed)
    _warn_of_patients(scans)
    _warn_of_one_patient(scans)
    for check in (refuse_doubtful, marked_once, check_scans):
        scans, bad = check(scans, settings, salt)
        rejects += bad
    with ThreadPoolExecutor(LOOKS) as pool:
        cases = list(pool.map(lambda each: _case(root, each, splits[each.patient], settings, salt), scans))
    # A link, or a folder that may not be read, is met by every format's search.
    once = {(row.source_hash, row.reason): row for row in rejects}
    silent = [case for case in cases if is_unflagged(case.split, case.marks, settings)]
    # A scan without lesions says nothing of flags: where all that have some are flagged, none is drawn.
    drawn = any(case.marks or case.mask or case.objects for case in silent)
    unflagged = frozenset(case.volume_id for case in silent if drawn)
    _warn_of_unseen(cases)
    return Discovery(sorted(cases, key=lambda case: case.volume_id), list(once.values()), unflagged)


def _warn_of_patients(scans: Sequence[ScanFiles]) -> None:
    without = sum(is_nifti(each.key) and not each.known.patient for each in scans)
    if without > 1:
        logger.warning(
            "%d NIfTI scans have no patient in volumes.csv: each counts as a patient of its own, so name those who "
            "have several scans, or a patient may be in two splits",
            without,
        )


def _warn_of_one_patient(scans: Sequence[ScanFiles]) -> None:
    """Anonymisers that write one word for everybody make one patient of an archive, and nothing can be proven of it."""
    unnamed = Counter(each.patient for each in scans if not each.known.patient)
    (patient, count), *_ = unnamed.most_common(1) or [("", 0)]
    if patient and count >= MANY_OF_A_PATIENT and 2 * count > len(scans):
        logger.warning(
            "%d of %d scans have one PatientID: if an anonymiser wrote it for everybody, say in volumes.csv who is who "
            "(`file`, `patient`), or all of them count as one patient",
            count,
            len(scans),
        )


def _warn_of_unseen(cases: Sequence[ArchiveCase]) -> None:
    unseen = sum(row["clinical"] is False for case in cases if case.split == Split.VH for row in case.marks)
    if unseen:
        logger.warning(
            "%d marks with clinical = 0 are left out: their scans are in vh, of which clinical marks alone are known; "
            "give clinical = 1, or complete = 1 where every lesion is marked",
            unseen,
        )


def read(case: ArchiveCase, root: Path, settings: ArchiveSettings = DEFAULTS) -> tuple[Volume, list[Mark]]:
    """The scan of a case and its marks in the stored order.

    Raises VolumeError (also bad_mark, two_sources, not_axial; constant, label_map, not_hu).
    """
    volume, marks = _read(case, root, settings)
    if not settings.any_values:
        with about_volume(case.volume_id):
            check_hounsfield(volume.hu_zyx)
    return volume, marks


def _read(case: ArchiveCase, root: Path, settings: ArchiveSettings) -> tuple[Volume, list[Mark]]:
    files = [root / file for file in case.files]
    if is_nifti(case.files[0]):
        mask = root / case.mask if case.mask else None
        return archive_nifti.read_marked(files[0], mask, case.marks, case.volume_id, case.patient_id, settings)
    series = read_series(files, case.volume_id, case.patient_id)
    marks = stored_marks(series.volume, series.assembled.slices, renumbered(case.marks, case.skipped, case.volume_id))
    rules = MarkRules.of(settings.dicom)
    found = read_object_marks(series, [root / file for file in case.objects], rules)
    if marks and found:
        raise VolumeError(
            "two_sources",
            f"volume {case.volume_id}: marked both in a table and in DICOM objects; say which count: "
            "data.archive.marks = csv, coco or objects",
        )
    return series.volume, marks or found


def _case(root: Path, each: ScanFiles, assigned: Assigned, settings: ArchiveSettings, salt: str) -> ArchiveCase:
    mask = each.masks[:1] if settings.marks in WITH_MASKS else []
    objects = each.objects if settings.marks in WITH_OBJECTS else []
    return ArchiveCase(
        volume_id="v" + salted_hash(each.key, salt),
        patient_id="p" + salted_hash(f"patient:{each.patient}", salt),
        split=assigned.split,
        files=[file.relative_to(root).as_posix() for file in each.files],
        bytes=sum(file.stat().st_size for file in [*each.files, *mask]),
        marks=each.known.marks,
        mask="".join(file.relative_to(root).as_posix() for file in mask),
        split_origin=assigned.origin,
        objects=objects,
        skipped=each.skipped,
        contents=contents_of(each.files, [*mask, *(root / file for file in objects)]),
    )
