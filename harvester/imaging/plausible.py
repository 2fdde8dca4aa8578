"""Whether values can be a person's CT in Hounsfield units: what else is grey is no scan to search for lesions.

Shares of voxels are those of a million, evenly spread. Figures in brackets: the least or most in 29 real scans, whole
and their middle ninth.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harvester.config.data import ArchiveSettings
from harvester.errors import VolumeError
from harvester.geometry import Array
from harvester.imaging.hounsfield import HU_RANGE

SAMPLED: Final = 1 << 20
DARK: Final = (-50, 0.001)
"""Air or fat lies below this, in at least this share (0.046). Masks, MR, PET and 8-bit windows have nothing there."""
TISSUE: Final = (-200, 300, 0.01)
"""Soft tissue lies between these, in at least this share (0.24; with the intercept taken off twice, at most 0.008)."""
BONE: Final = (700, -500, 0.25)
"""Bone lies above the first, in at most this share (0.04) of what is above the second; with 1024 added, from 0.38."""
LABELS: Final = (128, 255)
"""So many different values from 0 on, none above the second, look like a label map."""
MASKS: Final = "see data.archive.mask_suffix and mask_folder"
ADVICE: Final = "leave it out, or set data.archive.any_values=true if it is a CT in HU"


def check_count(slices: int, settings: ArchiveSettings) -> None:
    """Raise VolumeError, few_slices, for fewer axial slices than the settings want."""
    if slices < settings.min_slices:
        message = f"{slices} axial slices; setting data.archive.min_slices wants {settings.min_slices}"
        raise VolumeError("few_slices", message)


def check_gap(gap_mm: float, settings: ArchiveSettings) -> None:
    """Raise VolumeError, bad_spacing, for slices closer or farther apart than the settings allow."""
    low, high = settings.slice_spacing_mm
    if not low <= gap_mm <= high:
        message = f"slices {gap_mm:.3f} mm apart; data.archive.slice_spacing_mm is {low} to {high}"
        raise VolumeError("bad_spacing", message)


def check_type(dtype: np.dtype[Any], slope: float, inter: float) -> None:
    """Raise VolumeError, not_hu, for whole numbers of a file that cannot be dark; known before a voxel is read."""
    if dtype.kind in "iu":
        least = min(slope * end + inter for end in (np.iinfo(dtype).min, np.iinfo(dtype).max))
        if least > DARK[0]:
            raise VolumeError(
                "not_hu",
                f"{dtype} with intercept {inter:g} holds no value below {least:g}, and air is -1000 HU: a label map "
                f"(name it as its scan's mask, {MASKS}), or HU + 1024 (write the intercept); {ADVICE}",
            )


def check_hounsfield(hu_zyx: NDArray[np.int16]) -> None:
    """Raise VolumeError for a volume, clipped as in to_hu, whose values are no CT: constant, label_map, not_hu."""
    sample = hu_zyx.ravel()[:: (hu_zyx.size // SAMPLED) | 1]  # an odd step meets every column
    counts = np.bincount(sample.astype(np.int32) - HU_RANGE[0], minlength=HU_RANGE[1] - HU_RANGE[0] + 1)
    reason, fault = _fault(counts / counts.sum())
    if reason:
        raise VolumeError(reason, f"{fault}; {ADVICE}")


def _fault(shares: Array) -> tuple[str, str]:
    """Reason and words; "" for what may be a CT. `shares` by value, from HU_RANGE[0] on."""
    present = np.flatnonzero(shares) + HU_RANGE[0]
    low, high, middle = present[0], present[-1], int(np.searchsorted(shares.cumsum(), 0.5)) + HU_RANGE[0]
    seen = f"values from {low} to {high}, half of them up to {middle}"
    if low == high:
        return "constant", f"each of its voxels is {low}: an empty image"
    if low >= 0 and len(present) <= LABELS[0] and high <= LABELS[1]:
        return "label_map", (
            f"{len(present)} different values, {low} to {high}: a label map (name it as its scan's mask, {MASKS}) or "
            "an image scaled to a range of its own"
        )
    if _share(shares, BONE[0]) > BONE[2] * _share(shares, BONE[1]):
        return "not_hu", f"{seen}: no Hounsfield units, HU + 1024 perhaps (write them as HU, by the intercept)"
    if 1 - _share(shares, DARK[0]) < DARK[1]:
        return "not_hu", f"{seen}: no Hounsfield units, for nothing is air (-1000) or fat (-100): MR, PET, or rescaled"
    if _share(shares, TISSUE[0]) - _share(shares, TISSUE[1]) < TISSUE[2]:
        return "not_hu", f"{seen}: no Hounsfield units, for nothing is soft tissue (0 to 100); is the intercept right?"
    return "", ""


def _share(shares: Array, least: int) -> float:
    """Of values from this on."""
    return float(shares[least - HU_RANGE[0] :].sum())
