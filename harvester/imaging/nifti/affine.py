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
SAME_PLACE: Final = 0.1
"""Share of a voxel by which a mask's corners may miss its scan's."""


def checked_affine(raw: Any) -> Array:
    """The affine (4, 4) of nibabel's unchecked header.

    VolumeError's reasons: no_orientation (no sform, no qform), bad_affine (not finite, or a qform that is no
    rotation), bad_spacing (of an axis, not within SPACING_MM), sheared (axes not upright).
    """
    if not int(raw["sform_code"]) and not int(raw["qform_code"]):
        raise VolumeError("no_orientation", "the NIfTI has no sform or qform; write one with its affine")
    try:
        affine: Array = np.asarray(raw.get_best_affine(), dtype=np.float64)
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
    return affine


def same_place(one_ras: Array, other_ras: Array, shape: tuple[int, int, int], voxels: float = SAME_PLACE) -> bool:
    """Whether two affines put the eight corners of (i, j, k) voxels in one place, within this share of a voxel."""
    corners = np.array(np.meshgrid(*[(0, side) for side in shape], [1.0])).reshape(4, -1)
    apart = np.linalg.norm((one_ras - other_ras)[:3] @ corners, axis=0)
    return bool(apart.max() <= voxels * np.linalg.norm(one_ras[:3, :3], axis=0).min())
