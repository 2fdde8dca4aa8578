"""NIfTI files to Volumes, turned to the stored order by their affine."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harvester.errors import VolumeError
from harvester.imaging.hounsfield import AIR_HU, to_hu
from harvester.imaging.nifti.file import Header, read_header, stored_slices
from harvester.imaging.orientation import Orientation
from harvester.records import Volume


def read_nifti(path: Path, volume_id: str, patient_id: str) -> Volume:
    """A 3D NIfTI as (z, y, x), z to the head, y to the back, x to the patient's left; HU as in to_hu.

    Masks may be read with it too: they come out in the same order. Raises VolumeError: not_finite, and as
    file.read_header does.
    """
    return read_oriented_nifti(path, read_header(path, volume_id), volume_id, patient_id)[0]


def read_oriented_nifti(
    path: Path, header: Header, volume_id: str, patient_id: str, missing_is_air: bool = False
) -> tuple[Volume, Orientation]:
    """The volume of a file with this header, and how the file's voxel order became (x, y, z)."""
    orientation = header.orientation()
    hu_zyx = np.empty(orientation.shape_zyx, np.int16)
    # Slice by slice, and into its place: a scan takes its room in the store and no more.
    hu_kji = orientation.file_array(hu_zyx).T
    lost = sum(
        _slice_hu(slice_ij.T, header, hu_ji, missing_is_air)
        for slice_ij, hu_ji in zip(stored_slices(path, header, volume_id), hu_kji, strict=True)
    )
    if lost:
        raise VolumeError(
            "not_finite",
            f"volume {volume_id}: {lost} voxels are NaN or infinite; write {AIR_HU} (air) there, or set "
            "data.archive.missing_is_air=true if they are NaN as padding",
        )
    return Volume(volume_id, patient_id, hu_zyx, header.spacing_zyx_mm()), orientation


def _slice_hu(stored: NDArray[Any], header: Header, hu: NDArray[np.int16], missing_is_air: bool) -> int:
    """One slice in HU into `hu`; how many of its values are no number."""
    values = stored
    if (header.slope, header.inter) != (1.0, 0.0):
        with np.errstate(over="ignore"):  # becomes infinite, which is counted
            values = stored * np.float64(header.slope) + np.float64(header.inter)
    hu[...] = to_hu(values)
    if values.dtype.kind != "f":
        return 0
    return int(np.count_nonzero(np.isinf(values) if missing_is_air else ~np.isfinite(values)))
