"""Label masks to marks: each connected component is a lesion, its box on the slice where it is largest."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from harvester.config.data import ArchiveSettings
from harvester.errors import VolumeError
from harvester.geometry import Array
from harvester.imaging.nifti.affine import same_place
from harvester.imaging.nifti.file import Header, stored_slices
from harvester.imaging.orientation import Orientation
from harvester.records import Mark

MOST_LABELS: Final = 1000
"""A file with more values is a scan or a map of probabilities, not a mask."""
MOST_COMPONENTS: Final = 100_000
"""A file of more pieces is noise."""
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
    boxes = [(*box, kind) for kind, labels in groups for box in _components(_among(labels_zyx, labels), volume_id)]
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


def read_labels(path: Path, header: Header, orientation: Orientation, volume_id: str) -> Array:
    """The mask's values as whole numbers, (z, y, x) as stored, in the least room. Raises VolumeError: bad_mask, and as
    stored_slices does."""
    scaled = (header.slope, header.inter) != (1.0, 0.0)
    narrow = not scaled and header.dtype.kind in "iu" and header.dtype.itemsize <= 2
    labels_zyx = np.empty(orientation.shape_zyx, header.dtype.newbyteorder("=") if narrow else np.int32)
    labels_ijk = orientation.file_array(labels_zyx)
    for k, stored in enumerate(stored_slices(path, header, volume_id)):
        values = stored * header.slope + header.inter if scaled else stored
        if not narrow and not _are_labels(values):
            raise VolumeError("bad_mask", f"volume {volume_id}: the mask has values that are no labels; {WANT}")
        labels_ijk[..., k] = values
    return labels_zyx


def _are_labels(values: Array) -> bool:
    """Whole numbers of at most 32 bits."""
    fit = (values > -(2.0**31)) & (values < 2.0**31)
    return bool(fit.all() and (np.rint(values) == values).all())


def _groups(labels_zyx: Array, volume_id: str, settings: ArchiveSettings) -> list[tuple[str, list[int]]]:
    """Kind and labels of what makes lesions together: all labels, as counts of readers do, or each alone."""
    present: set[int] = set()
    for plane in labels_zyx:
        present |= set(np.unique(plane[plane != 0]).tolist())
        if len(present) > MOST_LABELS or min(present, default=0) < 0:
            raise VolumeError(
                "bad_mask", f"volume {volume_id}: the mask has labels below 0 or more than {MOST_LABELS}; {WANT}"
            )
    found = [label for label in sorted(present) if not settings.mask_labels or label in settings.mask_labels]
    if not settings.mask_split_labels:
        return [("", found)] if found else []
    return [(f"label {label}" if len(settings.mask_labels) > 1 else "", [label]) for label in found]


def _among(labels_zyx: Array, labels: Sequence[int]) -> NDArray[np.bool_]:
    """Where one of the labels is; slice by slice, for np.isin takes many times the room of what it looks through."""
    found = np.empty(labels_zyx.shape, bool)
    for plane, out in zip(labels_zyx, found, strict=True):
        out[...] = np.isin(plane, labels)
    return found


def _components(foreground_zyx: NDArray[np.bool_], volume_id: str) -> Iterator[tuple[int, int, int, int, int]]:
    """(z, y1, x1, y2, x2) of each component on the slice with most of its voxels."""
    around = ndimage.find_objects(foreground_zyx.view(np.uint8))[0]
    numbered, count = ndimage.label(foreground_zyx[around], TOUCHING)
    if count > MOST_COMPONENTS:
        raise VolumeError("bad_mask", f"volume {volume_id}: the mask has {count} components; want one for each lesion")
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
