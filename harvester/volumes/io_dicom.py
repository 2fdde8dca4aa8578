"""DICOM CT series to Volumes: ordered by position along the slice normal, in HU, turned to the stored order.

Errors name slices by their InstanceNumber and position, never by path or UID: those may tell who it is.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.misc import is_dicom

from harvester.errors import VolumeError
from harvester.records import Volume
from harvester.volumes.orientation import Turn, to_hu

Array = NDArray[Any]

GAP_TOLERANCE: Final = 0.1
"""Share of the usual gap by which a gap between slices may differ from it."""
SAME_POSITION_MM: Final = 0.01
ALIKE: Final = {"SeriesInstanceUID": "series", "Rows": "rows", "Columns": "columns"}
NEEDED: Final = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
)
BROKEN: Final = (
    AttributeError,
    EOFError,
    InvalidDicomError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_dicom_series(source: Path | Iterable[Path], volume_id: str, patient_id: str) -> Volume:
    """One CT series, a folder or its files in any order, as (z, y, x): z to the head, y to the back, x to the
    patient's left; HU by each slice's own slope and intercept, clipped as in to_hu; spacing from positions.

    VolumeError's reasons: no_slices, unreadable, not_ct, no_pixel_data, no_geometry, mixed_slices,
    mixed_orientations, duplicate_slices, missing_slices, tilted.
    """
    return read_turned_dicom(source, volume_id, patient_id)[0]


def read_turned_dicom(source: Path | Iterable[Path], volume_id: str, patient_id: str) -> tuple[Volume, Turn]:
    """The volume, and how (column, row, slice ascending along the normal) became (x, y, z)."""
    slices = [_load(file, volume_id) for file in series_files(source)]
    ordered, spacing, turn = _arranged(slices, volume_id)
    hu = np.stack([_hu(item, volume_id) for item in ordered])
    turned = np.ascontiguousarray(turn.array(hu.transpose(2, 1, 0)))
    return Volume(volume_id, patient_id, turned, turn.spacing_zyx_mm(spacing)), turn


def series_files(source: Path | Iterable[Path]) -> list[Path]:
    """A folder's DICOM files, or the given files, in name order."""
    if not isinstance(source, Path):
        return sorted(source)
    files = (file for file in source.iterdir() if file.is_file() and file.name != "DICOMDIR")
    return sorted(file for file in files if file.suffix.lower() in (".dcm", ".ima") or is_dicom(file))


def _load(file: Path, volume_id: str) -> pydicom.Dataset:
    try:
        item = pydicom.dcmread(file)
    except BROKEN as error:
        raise VolumeError(
            "unreadable", f"volume {volume_id}: a file is not readable DICOM ({type(error).__name__})"
        ) from None
    if item.get("Modality") != "CT" or "LOCALIZER" in (item.get("ImageType") or ()):
        raise VolumeError(
            "not_ct", f"{_name(item, volume_id)} is {item.get('Modality')}, not an image of a CT series"
        )
    if int(item.get("NumberOfFrames") or 1) != 1:
        raise VolumeError("not_ct", f"{_name(item, volume_id)} has many frames; convert to one file a slice")
    if "PixelData" not in item:
        raise VolumeError(
            "no_pixel_data", f"{_name(item, volume_id)} has no pixel data; is the file cut short?"
        )
    lacking = [tag for tag in NEEDED if item.get(tag) is None]
    if lacking:
        raise VolumeError("no_geometry", f"{_name(item, volume_id)} lacks {', '.join(lacking)}")
    return item


def _arranged(
    slices: list[pydicom.Dataset], volume_id: str
) -> tuple[list[pydicom.Dataset], tuple[float, float, float], Turn]:
    """Slices ascending along the normal, spacing (column, row, slice) in mm, the turn to the stored order."""
    if not slices:
        raise VolumeError("no_slices", f"volume {volume_id}: no DICOM files; give a folder of one CT series")
    _check_alike(slices, volume_id)
    right, down = np.array(slices[0].ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    normal = np.cross(right, down)
    heights = np.array([np.dot(normal, np.array(item.ImagePositionPatient, np.float64)) for item in slices])
    order = np.argsort(heights, kind="stable")
    ordered, heights = [slices[i] for i in order], heights[order]
    gap = _gap_mm(ordered, heights, volume_id)
    _check_tilt(ordered, normal, volume_id)
    row_mm, column_mm = (float(value) for value in slices[0].PixelSpacing)  # PixelSpacing is (row, column)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([right * column_mm, down * row_mm, normal * gap], axis=1)
    affine[:2] *= -1  # DICOM is LPS, the affine RAS
    shape = (int(slices[0].Columns), int(slices[0].Rows), len(slices))
    return ordered, (column_mm, row_mm, gap), Turn.of(affine, shape)


def _check_alike(slices: Sequence[pydicom.Dataset], volume_id: str) -> None:
    first = slices[0]
    for item in slices[1:]:
        for tag, word in ALIKE.items():
            if item.get(tag) != first.get(tag):
                raise VolumeError(
                    "mixed_slices",
                    f"{_name(item, volume_id)} and {_name(first)} differ in {word}; give one series",
                )
        if not np.allclose(
            np.array(item.PixelSpacing, float), np.array(first.PixelSpacing, float), rtol=1e-3
        ):
            raise VolumeError(
                "mixed_slices", f"{_name(item, volume_id)} and {_name(first)} differ in PixelSpacing"
            )
        way, usual = (np.array(s.ImageOrientationPatient, float) for s in (item, first))
        if not np.allclose(way, usual, atol=1e-3):
            raise VolumeError(
                "mixed_orientations", f"{_name(item, volume_id)} and {_name(first)} face different ways"
            )


def _gap_mm(ordered: Sequence[pydicom.Dataset], heights_mm: Array, volume_id: str) -> float:
    """Usual distance between slices; of a single slice its thickness."""
    gaps = np.diff(heights_mm)
    if not len(gaps):
        thickness = float(ordered[0].get("SliceThickness") or 0)
        if thickness <= 0:
            raise VolumeError(
                "no_geometry", f"{_name(ordered[0], volume_id)} stands alone without SliceThickness"
            )
        return thickness
    same = np.flatnonzero(gaps < SAME_POSITION_MM)
    if len(same):
        pair = f"{_name(ordered[same[0]], volume_id)} and {_name(ordered[same[0] + 1])}"
        raise VolumeError(
            "duplicate_slices", f"{pair} lie at one place ({len(same)} such pairs); keep one of each"
        )
    usual = float(np.median(gaps))
    uneven = np.flatnonzero(np.abs(gaps - usual) > GAP_TOLERANCE * usual)
    if len(uneven):
        at = uneven[0]
        raise VolumeError(
            "missing_slices",
            f"{_name(ordered[at], volume_id)} and {_name(ordered[at + 1])} are {gaps[at]:.2f} mm apart, "
            f"others {usual:.2f} mm ({len(uneven)} uneven gaps); complete the series",
        )
    return float(gaps.mean())


def _check_tilt(ordered: Sequence[pydicom.Dataset], normal: Array, volume_id: str) -> None:
    """Refuse stacks that slide sideways by over 5 degrees (a tilted gantry): their voxels are not cuboids."""
    first, last = (np.array(item.ImagePositionPatient, np.float64) for item in (ordered[0], ordered[-1]))
    way = last - first
    length = float(np.linalg.norm(way))
    if length and float(np.dot(way, normal)) < np.cos(np.radians(5)) * length:
        raise VolumeError(
            "tilted", f"volume {volume_id}: slices slide sideways (tilted gantry); resample it upright"
        )


def _hu(item: pydicom.Dataset, volume_id: str) -> Array:
    try:
        stored = item.pixel_array
    except BROKEN as error:
        raise VolumeError("unreadable", f"{_name(item, volume_id)} has broken pixel data: {error}") from error
    if stored.ndim != 2:
        raise VolumeError("not_ct", f"{_name(item, volume_id)} is not one grey slice: shape {stored.shape}")
    return to_hu(
        stored.astype(np.float32) * np.float32(item.RescaleSlope) + np.float32(item.RescaleIntercept)
    )


def _name(item: pydicom.Dataset, volume_id: str = "") -> str:
    where = item.get("ImagePositionPatient")
    at = f" at ({', '.join(f'{float(v):.1f}' for v in where)}) mm" if where else ""
    return (f"volume {volume_id}: " if volume_id else "") + f"slice {item.get('InstanceNumber')}{at}"
