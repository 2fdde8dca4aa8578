"""The NIfTI files of somebody's archive: which are scans, which their label masks, and which are refused.

A mask is a file whose name ends in data.archive.mask_suffix (a.mask.nii.gz of a.nii.gz) or that lies in a folder
named data.archive.mask_folder (masks/a.nii.gz of a.nii.gz or images/a.nii.gz), or in one of the Medical Decathlon's and
nnU-Net's (labelsTr/a.nii.gz of imagesTr/a.nii.gz or imagesTr/a_0000.nii.gz). Every other .nii and .nii.gz is a scan.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.marks import WITH_MASKS, stored_marks
from harvester.datasets.archive.masks import check_fits, mask_marks, read_labels
from harvester.datasets.archive.tables import MarkRow, ScanFiles
from harvester.datasets.discovery import salted_hash
from harvester.datasets.file_walk import FileList
from harvester.errors import VolumeError, about_volume
from harvester.imaging.nifti.duplicates import twins
from harvester.imaging.nifti.file import Header, read_header
from harvester.imaging.nifti.reader import read_oriented_nifti
from harvester.imaging.plausible import check_count, check_gap, check_type
from harvester.imaging.slice_map import SliceMap
from harvester.records import Mark, Reject, Volume

logger = logging.getLogger(__name__)

PUBLISHED: Final = {"labelsTr": "imagesTr", "labelsTs": "imagesTs"}
"""Folders of label maps and their scans, as the Medical Decathlon and nnU-Net have them."""
FIRST: Final = "_0000"
MOST_OBLONG: Final = 2.0
"""Longest pixel of an axial slice over its shortest; thick slices along another axis are longer."""
CHANNEL: Final = re.compile(r"(.+)_00(?!00)\d\d")
"""nnU-Net's ending of a case's first channel, and those of the others."""
ALL_LESIONS: Final = (
    "%d label maps in labelsTr or labelsTs: every label but 0 counts as lesions; where some are organs, say which are "
    "lesions by data.archive.mask_labels"
)
OF_STRUCTURES: Final = "segmentations"
"""TotalSegmentator's folder of label maps, one for each structure, beside the scan."""
STRUCTURES: Final = (
    "label maps of structures in folders called segmentations (TotalSegmentator): they mark no lesions. Where some do, "
    "put them into data.archive.mask_folder"
)
OTHER_CHANNEL: Final = "a further channel of a case (nnU-Net); the first, _0000, is taken. Move it to be a scan"
LINK: Final = "a symbolic link; not followed, put the file itself there"
NO_PERMISSION: Final = "a folder that may not be read; let this user read it"
LONE_MASK: Final = (
    "a label mask by its name or folder, but no scan is called so; rename it, or see data.archive.mask_suffix and "
    "mask_folder"
)

TWO_PLACES: Final = (
    "%d NIfTI scans have an sform and a qform that differ by more than a voxel: axes and spacing are taken from the "
    "sform, other programs may take the qform's; write one affine into both if that is wrong"
)


def is_nifti(name: str) -> bool:
    """Whether a file is NIfTI by its name."""
    return name.lower().endswith((".nii", ".nii.gz"))


@dataclass(frozen=True)
class ScanIndex:
    """The NIfTI scans of an archive by their files' names, with their masks; and what is refused."""

    scans: Sequence[ScanFiles]
    rejects: Sequence[Reject]

    @property
    def names(self) -> dict[str, str]:
        """The key of each name by which tables may call a scan; "" for a name that several scans have."""
        counts = Counter(name for each in self.scans for name in each.names)
        return {name: each.key if counts[name] == 1 else "" for each in self.scans for name in each.names}


def index(root: Path, listed: FileList, settings: ArchiveSettings, salt: str) -> ScanIndex:
    """The scans under `root` with their masks; links, folders that may not be read and masks without a scan are
    refused. No file is opened.

    Hidden files (their name or a folder's begins with a dot) are left out: they are somebody's tools'.
    """
    names = [name for name in listed.files if is_nifti(name) and not _is_hidden(name)]
    masks = {name: stems for name in names if (stems := _scans_of_mask(_stem(name), settings))}
    others = _other_channels({_stem(name): name for name in names if name not in masks}, masks)
    folders = {PurePosixPath(name).parent.as_posix() for name in names}
    structures = [name for name in names if name not in masks and _is_of_structures(name, folders)]
    left = {*masks, *others, *structures}
    scans = _scans_by_stem(root, [name for name in names if name not in left])
    lone = _give_masks(root, masks, scans)
    rejects = [_reject(name, "link", LINK, salt) for name in listed.links if not _is_hidden(name)]
    rejects += [_reject(name, "no_permission", NO_PERMISSION, salt) for name in listed.unreadable]
    rejects += [_reject(name, "other_channel", OTHER_CHANNEL, salt) for name in others]
    if structures:
        message = f"{len(structures)} files: {STRUCTURES}"
        rejects.append(Reject(salted_hash("structures", salt), "structures", message, tuple(structures)))
    published = sum(not set(PurePosixPath(name).parts).isdisjoint(PUBLISHED) for name in masks)
    if published and settings.marks in WITH_MASKS and not settings.mask_labels:
        logger.warning(ALL_LESIONS, published)
    if settings.marks in WITH_MASKS:
        rejects += [_reject(name, "mask_without_scan", LONE_MASK, salt) for name in lone]
    return ScanIndex([each for group in scans.values() for each in group], rejects)


def _scans_by_stem(root: Path, names: Iterable[str]) -> dict[str, list[ScanFiles]]:
    """a.nii and a.nii.gz are two scans of one stem."""
    scans: dict[str, list[ScanFiles]] = {}
    for name in names:
        stem = _stem(name)
        names = {name, stem, stem + name[len(stem) :].lower()}  # a.nii.gz is meant by a.NII.GZ
        scans.setdefault(stem, []).append(ScanFiles(name, stem, [root / name], names))
    return scans


def _other_channels(scans: Mapping[str, str], masks: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of scans, by stem, that are further channels of a case whose mask belongs to the first."""
    of_masks = {stem for stems in masks.values() for stem in stems[1::2] if stem in scans}
    found = ((name, CHANNEL.fullmatch(stem)) for stem, name in scans.items())
    return [name for name, channel in found if channel and channel.group(1) + FIRST in of_masks]


def _is_of_structures(name: str, folders: Collection[str]) -> bool:
    """Whether a file lies in a folder of structures, beside which there is a scan; `folders` have files."""
    folder = PurePosixPath(name).parent
    return folder.name == OF_STRUCTURES and folder.parent.as_posix() in folders


def _give_masks(root: Path, masks: Mapping[str, Sequence[str]], scans: Mapping[str, Sequence[ScanFiles]]) -> list[str]:
    """Each mask to the scans of the first stem that there is; the names of those without."""
    lone = []
    for name, stems in masks.items():
        theirs = next((scans[stem] for stem in stems if stem in scans), [])
        for each in theirs:
            each.masks.append(root / name)
        lone += [] if theirs else [name]
    return lone


def read_marked(
    path: Path, mask: Path | None, rows: Sequence[MarkRow], volume_id: str, patient_id: str, settings: ArchiveSettings
) -> tuple[Volume, list[Mark]]:
    """A scan and its marks as stored, from its mask where it has one, else from the tables' rows.

    Raises VolumeError as read_nifti, stored_marks, mask_header and mask_marks do.
    """
    header = scan_header(path, volume_id, settings)
    volume, orientation = read_oriented_nifti(path, header, volume_id, patient_id, settings.missing_is_air)
    if not mask:
        return volume, stored_marks(volume, SliceMap.of(orientation), rows)
    header = mask_header(mask, header, volume_id, settings)
    with _of_mask():
        labels = read_labels(mask, header, orientation, volume_id)
    marks, strays = mask_marks(labels, volume.spacing_zyx_mm, volume_id, settings)
    if strays:
        logger.info("volume %s: %d components of its mask are strays, dropped", volume_id, strays)
    return volume, marks


@contextmanager
def _of_mask() -> Iterator[None]:
    """Faults of a file in here are its scan's mask's."""
    try:
        yield
    except VolumeError as error:
        raise VolumeError("bad_mask", f"{error} (this is its label mask)") from None


def _scans_of_mask(stem: str, settings: ArchiveSettings) -> list[str]:
    """The scans, by stem, that a file would be the mask of; none where it is a scan itself."""
    parts = list(PurePosixPath(stem).parts)
    for at, folder in enumerate(parts[:-1]):
        beside: list[list[str]] = [[], ["images"]] if folder == settings.mask_folder else []
        beside += [[PUBLISHED[folder]]] if folder in PUBLISHED else []
        if beside:
            last = _without(parts[-1], settings.mask_suffix)
            scans = ["/".join([*parts[:at], *put, *parts[at + 1 : -1], last]) for put in beside]
            return [scan + channel for scan in scans for channel in ("", FIRST)]
    bare = _without(stem, settings.mask_suffix)
    return [bare] if bare != stem else []


def _without(stem: str, suffix: str) -> str:
    """The stem without the suffix, which may be in capitals."""
    return stem[: -len(suffix)] if stem.lower().endswith(suffix.lower()) else stem


def _stem(name: str) -> str:
    return name[: -len(".nii.gz")] if name.lower().endswith(".gz") else name[: -len(".nii")]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _reject(name: str, reason: str, message: str, salt: str) -> Reject:
    return Reject(salted_hash(name, salt), reason, message, (name,))


def check_scans(
    scans: Iterable[ScanFiles], settings: ArchiveSettings, salt: str
) -> tuple[list[ScanFiles], list[Reject]]:
    """The scans that may be stored, and why the others may not. Nothing is raised for a bad file.

    DICOM series among them were checked by their headers.
    """
    listed = list(scans)
    checked: dict[str, tuple[ScanFiles, Header]] = {}
    rejects = []
    for each in (scan for scan in listed if is_nifti(scan.key)):
        volume_id = "v" + salted_hash(each.key, salt)
        try:
            header = scan_header(each.files[0], volume_id, settings)
            with about_volume(volume_id):
                _check_slices(header, settings)
                if not settings.any_values:
                    check_type(header.dtype, header.slope, header.inter)
            if each.masks and settings.marks in WITH_MASKS:
                mask_header(each.masks[0], header, volume_id, settings)
            checked[each.key] = (each, header)
        except VolumeError as error:
            rejects.append(Reject(salted_hash(each.key, salt), error.reason, str(error), (each.key,)))
    two_places = sum(header.forms_differ() for _, header in checked.values())
    if two_places:
        logger.warning(TWO_PLACES, two_places)
    for group in twins({key: (each.files[0], header) for key, (each, header) in checked.items()}):
        for key in _surplus([checked[key][0] for key in group]):
            rejects.append(_twin(key, len(group), salt))
            del checked[key]
    return [each for each in listed if each.key in checked or not is_nifti(each.key)], rejects


def scan_header(path: Path, volume_id: str, settings: ArchiveSettings) -> Header:
    """The header of a file as the settings say. Raises VolumeError as read_header does."""
    return read_header(path, volume_id, settings.max_voxels, settings.nifti_form)


def mask_header(path: Path, scan: Header, volume_id: str, settings: ArchiveSettings) -> Header:
    """The header of a scan's label mask. Raises VolumeError: bad_mask, mask_differs."""
    with _of_mask():
        header = scan_header(path, volume_id, settings)
    check_fits(header, scan, volume_id)
    return header


def _check_slices(header: Header, settings: ArchiveSettings) -> None:
    """What is asked of a DICOM series, too. Raises VolumeError: few_slices, bad_spacing, not_axial."""
    (depth, _, _), (gap, *in_plane) = header.orientation().shape_zyx, header.spacing_zyx_mm()
    check_count(depth, settings)
    if max(in_plane) > MOST_OBLONG * min(in_plane):
        sides = " x ".join(f"{mm:g}" for mm in in_plane)
        raise VolumeError("not_axial", f"pixels of {sides} mm in the axial plane: a coronal or sagittal scan")
    check_gap(gap, settings)


def _surplus(twins_found: list[ScanFiles]) -> list[str]:
    """Which scans of the same voxels to refuse: all but one, or all where the tables say different things of them."""
    about = {each.key: _said(each) for each in twins_found}
    said = [key for key in about if about[key] != _said(ScanFiles("", "", [], set()))]
    if any(about[key] != about[said[0]] for key in said):
        return list(about)
    keep = (said or list(about))[0]
    return [key for key in about if key != keep]


def _said(scan: ScanFiles) -> tuple[object, ...]:
    known = scan.known
    marks = [{**mark, "where": ""} for mark in known.marks]
    return known.patient, known.split, known.complete, marks, bool(scan.masks)


def _twin(key: str, count: int, salt: str) -> Reject:
    return Reject(
        salted_hash(key, salt),
        "duplicate",
        f"volume v{salted_hash(key, salt)}: {count} files of the archive hold these same voxels, and one scan may not "
        "be in two splits; keep one of them, with its rows and its mask",
        (key,),
    )
