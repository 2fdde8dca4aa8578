"""Label masks to marks: each connected component is a lesion, its box on the slice where it is largest."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from harvester.config.data import ArchiveSettings
from harvester.errors import VolumeError
from harvester.geometry import Array
from harvester.imaging.nifti.affine import same_place
from harvester.imaging.nifti.file import Header
from harvester.records import Mark

MOST_LABELS: Final = 1000
"""A file with more values is a scan or a map of probabilities, not a mask."""
WANT: Final = "want whole numbers, 0 for the background"
TOUCHING: Final = np.ones((3, 3, 3), bool)
"""Voxels that share a face, an edge or a corner are of one component."""


def mask_marks(
    labels_zyx: Array, spacing_zyx_mm: tuple[float, float, float], volume_id: str, settings: ArchiveSettings
) -> tuple[list[Mark], int]:
    """A Mark per component of the mask (z, y, x) as stored, z, y, x ascending; and how many strays were dropped.

    data.archive.mask_labels, mask_split_labels and mask_min_mm say which components are lesions.
    A mark's slice is the one with most of its component's voxels, the lowest of equals. Its kind is "label 2" where
    several labels are named and kept apart, else "". No component gives no mark. Raises VolumeError: bad_mask.
    """
    groups = _groups(labels_zyx, volume_id, settings)
    boxes = [(*box, kind) for kind, labels in groups for box in _components(np.isin(labels_zyx, labels))]
    kept = sorted(box for box in boxes if _longer_mm(box, spacing_zyx_mm) >= settings.mask_min_mm)
    marks = [
        Mark(volume_id, f"{volume_id}-{number}", z, float(x1), float(y1), float(x2), float(y2), True, kind)
        for number, (z, y1, x1, y2, x2, kind) in enumerate(kept)
    ]
    return marks, len(boxes) - len(kept)


def check_fits(mask: Header, scan: Header, volume_id: str) -> None:
    """Raises VolumeError, mask_differs, unless the mask has its scan's shape and lies where the scan lies."""
    if mask.shape != scan.shape or not same_place(mask.affine_ras, scan.affine_ras, scan.shape):
        raise VolumeError(
            "mask_differs",
            f"volume {volume_id}: the mask has {_shape_and_place(mask)}, its scan "
            f"{_shape_and_place(scan)}; resample the mask to the scan",
        )


def whole_labels(stored: Array, header: Header, volume_id: str) -> NDArray[np.int64] | Array:
    """The mask's values as whole numbers. Raises VolumeError: bad_mask."""
    scaled = (header.slope, header.inter) != (1.0, 0.0)
    values = stored * header.slope + header.inter if scaled else stored
    if values.dtype.kind in "iu":
        return values
    whole = np.isfinite(values) & (np.abs(values) < 2**31)
    if not whole.all() or (np.rint(values) != values).any():
        raise VolumeError("bad_mask", f"volume {volume_id}: the mask has values that are no labels; {WANT}")
    return values.astype(np.int64)


def _groups(labels_zyx: Array, volume_id: str, settings: ArchiveSettings) -> list[tuple[str, list[int]]]:
    """Kind and labels of what makes lesions together: all labels, as counts of readers do, or each alone."""
    present = np.unique(labels_zyx[labels_zyx != 0])
    if len(present) > MOST_LABELS or (len(present) and present[0] < 0):
        raise VolumeError(
            "bad_mask", f"volume {volume_id}: the mask has {len(present)} labels from {present[0]} on; {WANT}"
        )
    found = [int(label) for label in present if not settings.mask_labels or label in settings.mask_labels]
    if not settings.mask_split_labels:
        return [("", found)] if found else []
    return [(f"label {label}" if len(settings.mask_labels) > 1 else "", [label]) for label in found]


def _components(foreground_zyx: NDArray[np.bool_]) -> Iterator[tuple[int, int, int, int, int]]:
    """(z, y1, x1, y2, x2) of each component on the slice with most of its voxels."""
    around = ndimage.find_objects(foreground_zyx.astype(np.uint8))[0]
    numbered, _ = ndimage.label(foreground_zyx[around], TOUCHING)
    z0, y0, x0 = (side.start for side in around)
    for number, part in enumerate(ndimage.find_objects(numbered), 1):
        inside = numbered[part] == number
        z = int(inside.sum(axis=(1, 2)).argmax())
        rows, columns = np.flatnonzero(inside[z].any(axis=1)), np.flatnonzero(inside[z].any(axis=0))
        y, x = y0 + part[1].start, x0 + part[2].start
        yield (z0 + part[0].start + z, y + int(rows[0]), x + int(columns[0]), y + int(rows[-1]), x + int(columns[-1]))


def _longer_mm(box: tuple[int, int, int, int, int, str], spacing_zyx_mm: tuple[float, float, float]) -> float:
    _, y1, x1, y2, x2, _ = box
    return max((y2 - y1 + 1) * spacing_zyx_mm[1], (x2 - x1 + 1) * spacing_zyx_mm[2])


def _shape_and_place(header: Header) -> str:
    rows = "; ".join(" ".join(f"{number:.4g}" for number in row) for row in header.affine_ras[:3])
    return f"shape {header.shape} and affine [{rows}]"
