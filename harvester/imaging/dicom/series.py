"""The CT series of an archive, gathered from the headers of their files, and the rules by which one is taken.

Settings: data.archive.dicom and data.archive.max_voxels; decision 0009 says why the rules are as they are.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from harvester.config.data import ArchiveSettings, DicomSettings
from harvester.errors import VolumeError
from harvester.geometry import Array
from harvester.imaging.dicom.assembly import MOST_TILT_DEG, SAME_POSITION_MM, Stack, assemble
from harvester.imaging.dicom.file import MOST_SLICE_BYTES, read_whole, silence_dicom_loggers
from harvester.imaging.dicom.header import Header, Slice
from harvester.imaging.plausible import check_count, check_gap

GEOMETRY: Final = ("Rows", "Columns", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept")
Owner = tuple[str, str, str, str]
"""Series, patient, study and frame of reference, by their ids: files that differ in one are of several scans."""
SAME_PLACE_SHARE: Final = 0.5
"""Series that overlap by more than this share of the shorter show the same anatomy."""


@dataclass(frozen=True)
class Series:
    """One CT series that may be taken, or one of the scans that a series holds.

    key      names it: the SeriesInstanceUID; of one of several scans with "#" and a word behind it
    first    the header of one of its slices
    odd      slices of the same series that do not belong to its stack and are left out
    skipped  where those lie, in the order of all its files along the slices' normal
    span_mm  its ends along z
    """

    key: str
    uid: str
    first: Header
    slices: Sequence[Slice]
    odd: Sequence[Slice] = ()
    skipped: tuple[int, ...] = ()
    gap_mm: float = 0.0
    span_mm: tuple[float, float] = (0.0, 0.0)


@dataclass
class Gathered:
    """The headers of an archive, put together.

    series    what may be taken, in the order of its first file
    objects   what may hold marks
    rejected  files that are refused, by the key of their series (or by the file, where it has none) and the reason
    folders   the CT series of each folder, as UIDs, refused ones too
    """

    series: list[Series]
    objects: list[Header]
    rejected: dict[tuple[str, str], list[str]]
    folders: dict[str, set[str]]


def gather(headers: Iterable[Header]) -> Gathered:
    """Series by their UID, patient, study and frame of reference, each as its largest stack of slices alike."""
    found: dict[str, dict[Owner, list[Slice]]] = defaultdict(lambda: defaultdict(list))
    first: dict[Owner, Header] = {}
    gathered = Gathered([], [], defaultdict(list), defaultdict(set))
    for header in headers:
        if header.kind == "slice":
            gathered.folders[folder_of(header.file)].add(header.series)
        if header.slices:
            owner = (header.series, header.patient, header.study, header.frame)
            found[header.series][owner] += header.slices
            first.setdefault(owner, replace(header, slices=()))
        elif header.kind in ("object", "unread"):
            gathered.objects.append(header)
        else:
            gathered.rejected[header.series or header.file, header.reason].append(header.file)
    for uid, owners in found.items():
        for number, owner in enumerate(sorted(owners), 1):
            stacks = _stacks(owners[owner])
            odd = [each for stack in stacks[1:] for each in stack]
            key = uid if len(owners) == 1 else f"{uid}#{number}"
            gathered.series.append(Series(key, uid, first[owner], stacks[0], odd))
            gathered.rejected[key, "odd_slices"] = sorted({each.file for each in odd})
    return gathered


def folder_of(file: str) -> str:
    """The folder of a file under the archive's root."""
    return PurePosixPath(file).parent.as_posix()


def _stacks(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Slices that are alike, the most of them first."""
    stacks: list[list[Slice]] = []
    for each in slices:
        stack = next((stack for stack in stacks if each.alike(stack[0])), None)
        if stack is None:
            stacks.append(stack := [])
        stack.append(each)
    return sorted(stacks, key=len, reverse=True)


def scans_of(
    series: Series, root: Path, settings: ArchiveSettings
) -> tuple[list[Series], list[tuple[Series, VolumeError]]]:
    """The scans that a series holds, checked, and what of it is refused, with why.

    One, as a rule. Several passes or phases in one series, which show the same places or lie between each other's
    slices, are scans of their own: by AcquisitionNumber; where that leaves two slices at one place, by AcquisitionTime.
    """
    try:
        _refuse_large(series, settings.max_voxels)
        single = replace(series, slices=_without_copies(series.slices, root))
    except VolumeError as error:
        return [], [(series, error)]
    whole = _tried([single], settings)
    if whole[0] and sum(count > 1 for count in Counter(each.acquisition for each in single.slices).values()) < 2:
        return whole  # no two passes can lie between each other
    for told in (_by_number,) if whole[0] else (_by_number, _by_time):
        parts = [
            replace(single, key=f"{series.key}#{name}", slices=pack, odd=()) for name, pack in _parts(single, told)
        ]
        good, bad = _tried(parts, settings)
        if good and not (bad and whole[0]):
            return good, bad
    return whole


def _parts(
    series: Series, told: Callable[[Sequence[Slice]], list[tuple[str, list[Slice]]]]
) -> list[tuple[str, list[Slice]]]:
    """The scans of a series as they are told apart; none where it is one, or lies in files of several slices."""
    in_files = len({each.file for each in series.slices}) == len(series.slices)
    parts = told(series.slices) if in_files else []
    return parts if len(parts) > 1 else []


def _tried(parts: Iterable[Series], settings: ArchiveSettings) -> tuple[list[Series], list[tuple[Series, VolumeError]]]:
    good, bad = [], []
    for each in parts:
        try:
            good.append(checked(each, settings))
        except VolumeError as error:
            bad.append((each, error))
    return good, bad


def _by_number(slices: Sequence[Slice]) -> list[tuple[str, list[Slice]]]:
    counts = Counter(each.acquisition for each in slices)
    if len(counts) == 1:
        return []
    packs = _packs(slices, lambda each: (len(each.acquisition), each.acquisition))
    return [(pack[0].acquisition or "0", pack) for pack in packs]


def _by_time(slices: Sequence[Slice]) -> list[tuple[str, list[Slice]]]:
    timed = all(isfinite(each.time_s) for each in slices)
    packs = _packs(slices, lambda each: each.time_s) if timed else []
    return [(f"t{number}", pack) for number, pack in enumerate(packs, 1)]


def _packs(slices: Sequence[Slice], told: Callable[[Slice], Any]) -> list[list[Slice]]:
    """Slices that are `told` apart, one group after another, each put to the first groups beside which it lies.

    So the steps of one pass stay together, also where each slice is told from every other, and a second pass begins
    where the first one has been.
    """
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    groups: dict[Any, list[Slice]] = defaultdict(list)
    for each in sorted(slices, key=told):
        groups[told(each)].append(each)
    packs: list[tuple[list[Slice], Array]] = []
    for group in groups.values():
        heights = np.sort([normal @ each.position_mm for each in group])
        for number, (pack, known) in enumerate(packs):
            if not _over_each_other(known, heights):
                packs[number] = ([*pack, *group], np.sort(np.append(known, heights)))
                break
        else:
            packs.append((group, heights))
    return [pack for pack, _ in packs]


def _over_each_other(one: Array, other: Array) -> bool:
    """Whether slices at ascending heights share a place, or show the same length of the body."""
    at = np.searchsorted(one, other)
    beside = np.stack([one[np.clip(at - 1, 0, None)], one[np.clip(at, None, len(one) - 1)]])
    if np.abs(beside - other).min() < SAME_POSITION_MM:
        return True
    overlap = min(one[-1], other[-1]) - max(one[0], other[0])
    return bool(overlap > SAME_PLACE_SHARE * min(one[-1] - one[0], other[-1] - other[0]) > 0)


def checked(series: Series, settings: ArchiveSettings) -> Series:
    """The series, without copies of its slices, measured. Raises VolumeError with the reason to refuse it."""
    if not {each.file for each in series.odd}.isdisjoint(each.file for each in series.slices):
        raise VolumeError("multi_frame", "several stacks of slices in one file; write a file of each, or one per slice")
    check_count(len(series.slices), settings)
    stack = _stack(series)
    if len(series.slices) > 1 and np.ptp(stack.positions_mm, axis=0).max() < SAME_POSITION_MM:
        raise VolumeError(
            "no_geometry", "ImagePositionPatient is the same in all slices, it does not move; export the series again"
        )
    assembled = assemble(stack)
    if abs(stack.normal[2]) < np.cos(np.radians(MOST_TILT_DEG)):
        raise VolumeError("not_axial", "not axial; only axial series are taken")
    if np.prod(assembled.shape, dtype=float) > settings.max_voxels:
        raise _too_large(settings.max_voxels)
    gap = assembled.spacing_ijk_mm[2]
    check_gap(gap, settings)
    heights = stack.positions_mm[:, 2]
    span, kept = (float(heights.min()), float(heights.max())), {each.sop for each in series.slices}
    skipped = tuple(at for at, each in enumerate(in_order(series)) if each.sop not in kept)
    return replace(series, skipped=skipped, gap_mm=gap, span_mm=span)


def in_order(series: Series) -> list[Slice]:
    """All files of the series, those that are left out too, ascending along its slices' normal: tables count them so,
    as a viewer shows them."""
    kept = {each.sop for each in series.slices}
    every = [*series.slices, *{each.sop: each for each in series.odd if each.sop not in kept}.values()]
    normal = np.cross(series.slices[0].orientation[:3], series.slices[0].orientation[3:])
    return sorted(every, key=lambda each: float(normal @ each.position_mm))


def chosen(series: Sequence[Series], named: Collection[str], settings: DicomSettings) -> list[Series]:
    """One series of each acquisition: a named one (tables or objects mark it), then an original one, then a soft
    kernel, then the thinnest, then by key. Every named one (by its key) is taken."""
    if settings.reconstructions == "all":
        return list(series)
    soft = re.compile(settings.soft_kernels)

    def worth(each: Series) -> tuple[bool, bool, bool, float, str]:
        kernel = soft.fullmatch(each.first.kernel) is not None
        return each.key not in named, not each.first.original, not kernel, round(each.gap_mm, 2), each.key

    taken: dict[tuple[str, ...], list[Series]] = defaultdict(list)
    for each in sorted(series, key=worth):
        beside = taken[each.first.patient, each.first.study, each.first.frame]
        if each.key in named or not any(_same_acquisition(each, other) for other in beside):
            beside.append(each)
    return [each for group in taken.values() for each in group]


def _same_acquisition(one: Series, other: Series) -> bool:
    """Of one study and frame of reference: overlapping, and of one acquisition or derived from something."""
    overlap = min(one.span_mm[1], other.span_mm[1]) - max(one.span_mm[0], other.span_mm[0])
    shorter = min(each.span_mm[1] - each.span_mm[0] for each in (one, other))
    numbers = ({part.acquisition for part in each.slices} for each in (one, other))  # {""} where they have none
    same = not set.isdisjoint(*numbers) and _at_one_time(one, other)
    derived = not (one.first.original and other.first.original)
    return (same or derived) and overlap > SAME_PLACE_SHARE * shorter


def _at_one_time(one: Series, other: Series) -> bool:
    """Whether the times of acquisition overlap, where both tell them: some scanners number every phase 1."""
    times = [[each.time_s for each in series.slices if isfinite(each.time_s)] for series in (one, other)]
    return not all(times) or max(map(min, times)) <= min(map(max, times))


def _too_large(most_voxels: int) -> VolumeError:
    return VolumeError("too_large", f"more voxels than data.archive.max_voxels = {most_voxels}; is a header broken?")


def _refuse_large(series: Series, most_voxels: int) -> None:
    rows, columns = series.slices[0].size_px
    if rows * columns * len(series.slices) > most_voxels:
        raise _too_large(most_voxels)


def _stack(series: Series) -> Stack:
    of_all = series.slices[0]
    (rows, columns), (row_mm, column_mm), orientation = of_all.size_px, of_all.spacing_mm, of_all.orientation
    right, down = (np.array(part) / (np.linalg.norm(part) or 1) for part in (orientation[:3], orientation[3:]))
    return Stack(
        positions_mm=np.array([each.position_mm for each in series.slices]),
        right=right,
        down=down,
        pixel_mm=(column_mm, row_mm),
        size_px=(columns, rows),
        thickness_mm=series.first.thickness_mm,
        names=[_placed(each) for each in series.slices],
    )


def _placed(each: Slice) -> str:
    """How a message names a slice: by its place."""
    return f"the slice at ({', '.join(f'{mm:.1f}' for mm in each.position_mm)}) mm"


def _without_copies(slices: Sequence[Slice], root: Path) -> list[Slice]:
    """One slice per SOPInstanceUID. Raises VolumeError duplicate_uids where two have one UID and other pixels."""
    by_sop: dict[str, list[Slice]] = defaultdict(list)
    for each in slices:
        by_sop[each.sop].append(each)
    for copies in by_sop.values():
        if len({_fingerprint(root / each.file) for each in copies} if len(copies) > 1 else ()) > 1:
            raise VolumeError(
                "duplicate_uids",
                "two files have one SOPInstanceUID and differ in pixels or place; keep the right one of each",
            )
    return [copies[0] for copies in by_sop.values()]


def _fingerprint(file: Path) -> str:
    """Of the stored pixels and what gives them place and value; a header exported again differs elsewhere."""
    with silence_dicom_loggers():
        item = read_whole(file, MOST_SLICE_BYTES)
    places = [str(item.get(tag)) for tag in GEOMETRY]
    return hashlib.sha256(repr(places).encode() + bytes(item.get("PixelData") or b"")).hexdigest()
