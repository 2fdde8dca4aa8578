"""NIfTI files to Volumes, turned to the stored order by their affine."""

import zlib
from pathlib import Path
from typing import Any, Final

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from harvester.errors import VolumeError
from harvester.records import Volume
from harvester.volumes.orientation import Turn, to_hu

BROKEN: Final = (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError)


def read_nifti(path: Path, volume_id: str, patient_id: str) -> Volume:
    """A 3D NIfTI as (z, y, x), z to the head, y to the back, x to the patient's left; HU as in to_hu.

    Masks may be read with it too: they come out in the same order. Raises VolumeError: unreadable, not_3d,
    no_orientation.
    """
    return read_turned_nifti(path, volume_id, patient_id)[0]


def read_turned_nifti(path: Path, volume_id: str, patient_id: str) -> tuple[Volume, Turn]:
    """The volume, and how the file's voxel order became (x, y, z)."""
    image, turn = _open(path, volume_id)
    try:
        values = np.asarray(image.dataobj).reshape(turn.shape)
    except BROKEN as error:
        raise VolumeError("unreadable", f"volume {volume_id}: NIfTI data broken ({_kind(error)})") from None
    spacing = turn.spacing_zyx_mm(np.linalg.norm(image.affine[:3, :3], axis=0).tolist())
    return Volume(volume_id, patient_id, to_hu(turn.array(values)), spacing), turn


def _open(path: Path, volume_id: str) -> tuple[Any, Turn]:
    try:
        image: Any = nibabel.load(path)
    except BROKEN as error:
        raise VolumeError("unreadable", f"volume {volume_id}: not a NIfTI file ({_kind(error)})") from None
    shape = image.shape
    if len(shape) < 3 or any(side != 1 for side in shape[3:]) or 0 in shape:
        raise VolumeError(
            "not_3d", f"volume {volume_id}: want a 3D NIfTI, got shape {shape}; split the series"
        )
    codes = [int(image.header[code]) for code in ("sform_code", "qform_code") if code in image.header]
    if not any(codes) or not np.isfinite(image.affine).all() or not np.linalg.det(image.affine):
        raise VolumeError(
            "no_orientation",
            f"volume {volume_id}: the NIfTI has no sform or qform; write one with its affine",
        )
    return image, Turn.of(image.affine, (int(shape[0]), int(shape[1]), int(shape[2])))


def _kind(error: Exception) -> str:
    """The error's class alone: its text names the path, and paths may tell a patient's name."""
    return type(error).__name__
