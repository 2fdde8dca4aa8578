"""The CT series of an archive, gathered from the headers of their files, and the rules by which one is taken.

Settings: data.archive.dicom and data.archive.max_voxels; decision 0009 says why the rules are as they are.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from harvester.config.data import ArchiveSettings, DicomSettings
from harvester.errors import VolumeError
from harvester.imaging.dicom.assembly import MOST_TILT_DEG, Stack, assemble
from harvester.imaging.dicom.file import MOST_SLICE_BYTES, read_whole, silence_dicom_loggers
from harvester.imaging.dicom.header import Header, Slice

GEOMETRY: Final = ("Rows", "Columns", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept")
SAME_PLACE_SHARE: Final = 0.5
"""Series that overlap by more than this share of the shorter show the same anatomy."""


@dataclass(frozen=True)
class Series:
    """One CT series that may be taken. `first` is the header of one of its slices; span_mm its ends along z."""

    uid: str
    first: Header
    slices: Sequence[Slice]
    gap_mm: float = 0.0
    span_mm: tuple[float, float] = (0.0, 0.0)


@dataclass
class Gathered:
    """The headers of an archive, put together.

    series    what may be taken, in the order of its first file
    objects   what may hold marks
    rejected  files that are refused, by the UID of their series (or by the file, where it has none) and the reason
    folders   the CT series of each folder, as UIDs, refused ones too
    """

    series: list[Series]
    objects: list[Header]
    rejected: Counter[tuple[str, str]]
    folders: dict[str, set[str]]


def gather(headers: Iterable[Header]) -> Gathered:
    """Series by their UID, each as its largest stack of slices alike; the rest of a series is rejected."""
    found: dict[str, list[Slice]] = defaultdict(list)
    first: dict[str, Header] = {}
    gathered = Gathered([], [], Counter(), defaultdict(set))
    for header in headers:
        if header.kind == "slice":
            gathered.folders[PurePosixPath(header.file).parent.as_posix()].add(header.series)
        if header.slice:
            found[header.series].append(header.slice)
            first.setdefault(header.series, replace(header, slice=None))
        elif header.kind == "object":
            gathered.objects.append(header)
        else:
            gathered.rejected[header.series or header.file, header.reason] += 1
    for uid, slices in found.items():
        alike, count = Counter(each.alike for each in slices).most_common(1)[0]
        gathered.series.append(Series(uid, first[uid], [each for each in slices if each.alike == alike]))
        gathered.rejected[uid, "odd_slices"] = len(slices) - count
    return gathered


def checked(series: Series, root: Path, settings: ArchiveSettings) -> Series:
    """The series without copies of its slices, measured. Raises VolumeError with the reason to refuse it."""
    rows, columns = series.slices[0].alike[:2]
    if rows * columns * len(series.slices) > settings.max_voxels:
        raise _too_large(settings.max_voxels)
    single = replace(series, slices=_without_copies(series.slices, root))
    if len(single.slices) < settings.dicom.min_slices:
        raise VolumeError(
            "few_slices",
            f"{len(single.slices)} slices; setting data.archive.dicom.min_slices wants {settings.dicom.min_slices}",
        )
    stack = _stack(single)
    assembled = assemble(stack)
    if abs(stack.normal[2]) < np.cos(np.radians(MOST_TILT_DEG)):
        raise VolumeError("not_axial", "not axial; only axial series are taken")
    if np.prod(assembled.shape, dtype=float) > settings.max_voxels:
        raise _too_large(settings.max_voxels)
    low, high = settings.dicom.slice_spacing_mm
    gap = assembled.spacing_ijk_mm[2]
    if not low <= gap <= high:
        raise VolumeError(
            "bad_spacing", f"slices {gap:.3f} mm apart; data.archive.dicom.slice_spacing_mm is {low} to {high}"
        )
    heights = stack.positions_mm[:, 2]
    return replace(single, gap_mm=gap, span_mm=(float(heights.min()), float(heights.max())))


def chosen(series: Sequence[Series], named: Collection[str], settings: DicomSettings) -> list[Series]:
    """One series of each acquisition: a named one (tables or objects mark it), then an original one, then a soft
    kernel, then the thinnest, then by UID. Every named one is taken."""
    if settings.reconstructions == "all":
        return list(series)
    soft = re.compile(settings.soft_kernels)

    def worth(each: Series) -> tuple[bool, bool, bool, float, str]:
        kernel = soft.fullmatch(each.first.kernel) is not None
        return each.uid not in named, not each.first.original, not kernel, round(each.gap_mm, 2), each.uid

    taken: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for each in sorted(series, key=worth):
        beside = taken[each.first.study, each.first.frame]
        if each.uid in named or not any(_same_acquisition(each, other) for other in beside):
            beside.append(each)
    return [each for group in taken.values() for each in group]


def _same_acquisition(one: Series, other: Series) -> bool:
    """Of one study and frame of reference: overlapping, and of one acquisition or derived from something."""
    overlap = min(one.span_mm[1], other.span_mm[1]) - max(one.span_mm[0], other.span_mm[0])
    shorter = min(each.span_mm[1] - each.span_mm[0] for each in (one, other))
    numbers = ({part.acquisition for part in each.slices} for each in (one, other))  # {""} where they have none
    same = not set.isdisjoint(*numbers) or not (one.first.original and other.first.original)
    return same and overlap > SAME_PLACE_SHARE * shorter


def _too_large(most_voxels: int) -> VolumeError:
    return VolumeError("too_large", f"more voxels than data.archive.max_voxels = {most_voxels}; is a header broken?")


def _stack(series: Series) -> Stack:
    rows, columns, (row_mm, column_mm), orientation = series.slices[0].alike
    right, down = (np.array(part) / (np.linalg.norm(part) or 1) for part in (orientation[:3], orientation[3:]))
    return Stack(
        positions_mm=np.array([each.position_mm for each in series.slices]),
        right=right,
        down=down,
        pixel_mm=(column_mm, row_mm),
        size_px=(columns, rows),
        thickness_mm=series.first.thickness_mm,
        names=["a slice"] * len(series.slices),
    )


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
