"""DICOM CT series to Volumes: ordered by position along the slice normal, in HU, turned to the stored order.

Errors name slices by their InstanceNumber and position, never by path or UID: those may tell who it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pydicom

from harvester.errors import VolumeError, about_volume
from harvester.geometry import Array
from harvester.imaging.dicom.assembly import AssembledGrid, Stack, assemble
from harvester.imaging.dicom.enhanced import MULTI_FRAME, frames_of, is_enhanced
from harvester.imaging.dicom.file import (
    BROKEN,
    MOST_FILE_BYTES,
    MOST_SLICE_BYTES,
    is_dicom_file,
    read_header,
    read_whole,
    readable,
    silence_dicom_loggers,
    stored_class,
)
from harvester.imaging.dicom.header import NEAR, near
from harvester.imaging.dicom.pixels import check_size, decoded_frames, hu_of, hu_plane
from harvester.records import Volume

MOST_VOXELS: Final = 1 << 31
"""Of a series as assembled: 4 GiB of int16. data.archive.max_voxels refuses sooner, by the headers alone."""
ALIKE: Final = {"SeriesInstanceUID": "series", "Rows": "rows", "Columns": "columns"}
NEEDED: Final = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """A series as read: its volume, where its slices lie in it, and the slices' headers in the order of `stack`."""

    volume: Volume
    stack: Stack
    assembled: AssembledGrid
    headers: Sequence[pydicom.Dataset]


def read_dicom_series(source: Path | Iterable[Path], volume_id: str, patient_id: str) -> Volume:
    """One CT series, a folder or its files in any order, as (z, y, x): z to the head, y to the back, x to the
    patient's left; HU by each slice's own slope and intercept, clipped as in to_hu; spacing from positions.

    VolumeError's reasons: no_slices, unreadable, too_large, not_ct, no_pixel_data, no_geometry, bad_spacing,
    not_hu, mixed_slices, mixed_orientations, duplicate_slices, missing_slices, uneven_slices, tilted.
    """
    return read_series(source, volume_id, patient_id).volume


def read_series(source: Path | Iterable[Path], volume_id: str, patient_id: str) -> DicomSeries:
    """The series with all that is needed to place marks in it. Raises VolumeError as read_dicom_series does."""
    headers: list[pydicom.Dataset] = []
    planes: list[Array] = []
    with silence_dicom_loggers(), about_volume(volume_id):
        for item, plane in _slices(series_files(source)):
            if headers:
                _check_alike(item, headers[0])
            planes.append(plane)
            if len(planes) * planes[0].size > MOST_VOXELS:
                raise VolumeError("too_large", f"more than {MOST_VOXELS} voxels; cut the series")
            headers.append(item)
        if not headers:
            raise VolumeError("no_slices", "no DICOM files; give a folder of one CT series")
        stack = stack_of(headers)
        assembled = assemble(stack)
        if np.prod(assembled.shape, dtype=float) > MOST_VOXELS:
            raise VolumeError("too_large", f"more than {MOST_VOXELS} voxels; cut the series")
    volume = Volume(volume_id, patient_id, assembled.array(planes), assembled.spacing_zyx_mm)
    return DicomSeries(volume, stack, assembled, headers)


def _slices(files: Iterable[Path]) -> Iterator[tuple[pydicom.Dataset, Array]]:
    """Each slice's header, without its pixels, and its HU; of an enhanced CT each frame's."""
    for file in files:
        item = read_whole(file, MOST_FILE_BYTES if stored_class(file) in MULTI_FRAME else MOST_SLICE_BYTES)
        name = _name(item)
        if is_enhanced(item):
            yield from _frames(item)
            continue
        with readable(f"{name} has a broken header"):
            _check_kind(item, name)
        plane = hu_plane(item, name)
        del item.PixelData
        yield item, plane


def _frames(item: pydicom.Dataset) -> Iterator[tuple[pydicom.Dataset, Array]]:
    check_size(item, 2 * MOST_VOXELS, "an enhanced CT")
    with readable("an enhanced CT has a broken header"):
        frames = frames_of(item)
        for frame in frames:
            _check_kind(frame, _name(frame), pixels=False)
    with readable("an enhanced CT has broken pixel data"):
        for frame, stored in zip(frames, decoded_frames(item), strict=True):
            yield frame, hu_of(frame, stored)


def read_series_grid(files: Iterable[Path], volume_id: str) -> tuple[list[pydicom.Dataset], AssembledGrid]:
    """The headers of a series' files, in any order, without pixels; and the grid that read_series lays them in.

    Raises VolumeError: unreadable, no_geometry, and as `assemble` does.
    """
    with silence_dicom_loggers(), about_volume(volume_id):
        with readable():
            read = [read_header(file) for file in files]
            headers = [each for item in read for each in (frames_of(item) if is_enhanced(item) else [item])]
        for header in headers:
            _check_alike(header, headers[0])
        return headers, assemble(stack_of(headers))


def series_files(source: Path | Iterable[Path]) -> list[Path]:
    """A folder's DICOM files, or the given files, in name order."""
    if not isinstance(source, Path):
        return sorted(source)
    files = (file for file in source.iterdir() if file.is_file() and file.name != "DICOMDIR")
    return sorted(file for file in files if file.suffix.lower() in (".dcm", ".ima") or is_dicom_file(file))


def stack_of(headers: Sequence[pydicom.Dataset]) -> Stack:
    """The slices' places as their headers give them. Raises VolumeError no_geometry for what are no numbers."""
    first = headers[0]
    try:
        right, down = np.array(first.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        row_mm, column_mm = (float(value) for value in first.PixelSpacing)  # PixelSpacing is (row, column)
        return Stack(
            positions_mm=np.array([list(item.ImagePositionPatient) for item in headers], np.float64).reshape(
                len(headers), 3
            ),
            right=right,
            down=down,
            pixel_mm=(column_mm, row_mm),
            size_px=(int(first.Columns), int(first.Rows)),
            thickness_mm=float(first.get("SliceThickness") or 0),
            names=[_name(item) for item in headers],
        )
    except BROKEN:
        raise VolumeError(
            "no_geometry", "positions, orientation or PixelSpacing are no numbers; export the series again"
        ) from None


def _check_kind(item: pydicom.Dataset, name: str, pixels: bool = True) -> None:
    if item.get("Modality") != "CT" or "LOCALIZER" in (item.get("ImageType") or ()):
        raise VolumeError("not_ct", f"{name} is not an image of a CT series")
    if int(item.get("NumberOfFrames") or 1) != 1:
        raise VolumeError("not_ct", f"{name} has many frames; convert to one file per slice")
    if pixels and "PixelData" not in item:
        raise VolumeError("no_pixel_data", f"{name} has no pixel data; is the file cut short?")
    lacking = [tag for tag in NEEDED if item.get(tag) is None]
    if lacking:
        raise VolumeError("no_geometry", f"{name} lacks {', '.join(lacking)}")
    if item.get("RescaleType") not in (None, "", "HU", "US"):
        raise VolumeError("not_hu", f"{name} holds no Hounsfield units (RescaleType); leave the series out")


def _check_alike(item: pydicom.Dataset, first: pydicom.Dataset) -> None:
    pair = f"{_name(item)} and {_name(first)}"
    for tag, word in ALIKE.items():
        if item.get(tag) != first.get(tag):
            raise VolumeError("mixed_slices", f"{pair} differ in {word}; give one series")
    try:
        # Each was near one of them (Slice.alike): of two on either side of it, within twice as much.
        alike = [
            near([float(part) for part in item[tag].value], [float(part) for part in first[tag].value], 2 * NEAR)
            for tag in ("PixelSpacing", "ImageOrientationPatient")
        ]
    except BROKEN:
        raise VolumeError("no_geometry", f"{pair}: no numbers in PixelSpacing or orientation") from None
    if not alike[0]:
        raise VolumeError("mixed_slices", f"{pair} differ in PixelSpacing; give one series")
    if not alike[1]:
        raise VolumeError("mixed_orientations", f"{pair} face different ways; give one series")


def _name(item: pydicom.Dataset) -> str:
    """How a message names a slice: its number and place, if they are numbers."""
    try:
        number = f"slice {int(item.InstanceNumber)}"
    except BROKEN:
        number = "a slice"
    try:
        at = f" at ({', '.join(f'{float(v):.1f}' for v in item.ImagePositionPatient)}) mm"
    except BROKEN:
        at = ""
    return number + at
