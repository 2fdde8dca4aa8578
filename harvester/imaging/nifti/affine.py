"""Whether a NIfTI's affine (voxel index to RAS+ mm) can be that of a scan with cuboid voxels."""

from typing import Any, Final

import numpy as np
from nibabel.spatialimages import HeaderDataError

from harvester.errors import VolumeError
from harvester.geometry import Array

SPACING_MM: Final = (0.01, 100.0)
"""Least and most distance of two voxels in a scan of a person; outside it, the unit is not mm."""
MOST_SHEAR_DEGREES: Final = 5.0
"""As for tilted gantries (imaging/dicom/assembly.py)."""
SAME_SPACING: Final = 0.01
"""Share by which affine and pixdim may differ."""
SAME_PLACE: Final = 0.1
"""Share of a voxel by which a mask's corners may miss its scan's."""


def checked_affine(raw: Any, form: str = "auto") -> Array:
    """The affine (4, 4) of nibabel's unchecked header: its sform, without one its qform; or the one that is asked for.

    VolumeError's reasons: no_orientation (no sform, no qform), bad_affine (not finite, or a qform that is no
    rotation), bad_spacing (of an axis, not within SPACING_MM), sheared (axes not upright), two_spacings (sform, qform
    and pixdim differ in them, and no form is asked for).
    """
    codes = {name: int(raw[f"{name}_code"]) for name in ("sform", "qform")}
    if not any(codes.values()) or (form in codes and not codes[form]):
        raise VolumeError("no_orientation", "the NIfTI has no sform or qform; write one with its affine")
    try:
        by_sform = form == "sform" or (form == "auto" and codes["sform"])
        affine: Array = np.asarray(raw.get_sform() if by_sform else raw.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        raise VolumeError("bad_affine", "the NIfTI's qform is no rotation; write the scanner's affine") from None
    if not np.isfinite(affine).all():
        raise VolumeError("bad_affine", "the NIfTI's affine has NaN or infinite numbers; write the scanner's")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (spacing < SPACING_MM[0]).any() or (spacing > SPACING_MM[1]).any():
        sides = " x ".join(f"{side:g}" for side in spacing)
        raise VolumeError(
            "bad_spacing",
            f"voxels of {sides} mm by the NIfTI's affine; want {SPACING_MM[0]} to {SPACING_MM[1]} mm a side, "
            "write the scanner's affine",
        )
    ways = affine[:3, :3] / spacing
    if np.abs(ways.T @ ways - np.eye(3)).max() > np.sin(np.radians(MOST_SHEAR_DEGREES)):
        raise VolumeError(
            "sheared",
            f"the NIfTI's axes lean by over {MOST_SHEAR_DEGREES:g} degrees (a tilted gantry, or a broken affine); "
            "resample it to an upright grid",
        )
    if form == "auto":
        _check_pixdim(raw, spacing)
    return affine


def _check_pixdim(raw: Any, spacing_mm: Array) -> None:
    """The qform's spacings are pixdim's: who goes by it sees another scan than who goes by the sform."""
    pixdim = np.abs(np.asarray(raw["pixdim"][1:4], dtype=np.float64))
    if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        return  # nobody can go by it
    if np.abs(pixdim / spacing_mm - 1).max() > SAME_SPACING:
        told = (" x ".join(f"{mm:.4g}" for mm in sides) for sides in (spacing_mm, pixdim))
        raise VolumeError(
            "two_spacings",
            "voxels of {} mm by the NIfTI's affine, {} mm by its pixdim and qform; write the right ones into both, or "
            "say which count: data.archive.nifti_form".format(*told),
        )


def same_place(one_ras: Array, other_ras: Array, shape: tuple[int, int, int], voxels: float = SAME_PLACE) -> bool:
    """Whether two affines put the eight corners of (i, j, k) voxels in one place, within this share of a voxel."""
    corners = np.array(np.meshgrid(*[(0, side) for side in shape], [1.0])).reshape(4, -1)
    apart = np.linalg.norm((one_ras - other_ras)[:3] @ corners, axis=0)
    return bool(apart.max() <= voxels * np.linalg.norm(one_ras[:3, :3], axis=0).min())
