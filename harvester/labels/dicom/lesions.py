"""Lesions in DICOM objects, in the pixels of the series that they refer to; one class for what all objects give.

Image-relative coordinates of DICOM have their origin at the outer corner of the first pixel: pixel i reaches from i
to i + 1, and a region from x to y becomes the inclusive box from x to y - 1. Free text is never kept: a lesion's
kind is a word of KINDS, by code.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pydicom

from harvester.errors import LabelError
from harvester.geometry import Array, paired_iou
from harvester.records import Box

KINDS: Final = {
    "39607008": "lung", "T-28000": "lung", "10200004": "liver", "T-62000": "liver", "64033007": "kidney",
    "T-71000": "kidney", "59441001": "node", "T-C4000": "node", "15776009": "pancreas", "T-65000": "pancreas",
    "78961009": "spleen", "T-C3000": "spleen", "23451007": "adrenal", "T-B3000": "adrenal", "272673000": "bone",
    "T-D016E": "bone", "72410000": "mediastinum", "T-D3300": "mediastinum", "818983003": "abdomen",
    "113345001": "abdomen", "T-D4000": "abdomen", "12921003": "pelvis", "T-D6000": "pelvis", "51185008": "chest",
    "T-D3000": "chest", "27925004": "nodule", "M-03010": "nodule", "4147007": "mass", "M-03000": "mass",
}  # fmt: skip
"""Codes (SNOMED CT, or its older ids) of finding sites and findings that become a mark's kind."""
SAME_IOU: Final = 0.5
"""Boxes on one slice that overlap more mark one lesion: two readers, or the same in two objects."""


@dataclass(frozen=True, eq=False)
class ReferredSeries:
    """The series that objects refer to: its n slices, ascending along their normal.

    sops          slice index by SOPInstanceUID
    frame         FrameOfReferenceUID
    origins_mm    (n, 3) ImagePositionPatient
    right, down   (3,) unit vectors along a row and down a column
    pixel_mm      distance between columns, and between rows
    size_px       columns, rows
    """

    sops: Mapping[str, int]
    frame: str
    origins_mm: Array
    right: Array
    down: Array
    pixel_mm: tuple[float, float]
    size_px: tuple[int, int]

    def slice_of(self, point_mm: Array) -> int:
        """The slice in which a point lies. Raises LabelError where it is off the stack by over half a gap."""
        normal = np.cross(self.right, self.down)
        heights = self.origins_mm @ normal
        off = np.abs(heights - float(point_mm @ normal))
        gap = float(np.median(np.diff(heights))) if len(heights) > 1 else np.inf
        k = int(off.argmin())
        if not off[k] <= 0.5 * gap + 0.01:
            raise LabelError("a mark lies outside the slices of its series")
        return k

    def on_slice(self, k: int, points_mm: Array) -> Array:
        """(m, 2) image-relative (column, row) coordinates on slice k of (m, 3) points in mm."""
        axes = np.stack([self.right / self.pixel_mm[0], self.down / self.pixel_mm[1]], axis=1)
        return np.asarray((points_mm - self.origins_mm[k]) @ axes + 0.5)


@dataclass(frozen=True)
class Lesion:
    """One lesion: an inclusive box (x1, y1, x2, y2) on each of its slices, and `key`, where it is largest.

    tracking  the object's own id of the lesion, to find it again in another object; never written anywhere
    """

    boxes: Mapping[int, Box]
    key: int
    kind: str = ""
    tracking: str = ""


Region = tuple[int, Box, float]
"""Part of a lesion: its slice, its box, its area in pixels."""


def lesion_of(regions: Iterable[Region], kind: str = "", tracking: str = "") -> Lesion:
    """The lesion of at least one region: a box round all regions of a slice, the key where their areas add up most."""
    boxes: dict[int, Box] = {}
    areas: dict[int, float] = defaultdict(float)
    for k, box, area in regions:
        old = boxes.get(k, box)
        boxes[k] = (*np.minimum(old[:2], box[:2]).tolist(), *np.maximum(old[2:], box[2:]).tolist())
        areas[k] += area
    return Lesion(boxes, max(sorted(areas), key=lambda k: areas[k]), kind, tracking)


def box_round(points_xy: Array) -> Box:
    """The inclusive box round (m, 2) image-relative points, one pixel wide at least."""
    low, high = points_xy.min(0), points_xy.max(0) - 1
    middle = (low + high) / 2
    low, high = np.minimum(low, middle), np.maximum(high, middle)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def within(box: Box, size_px: tuple[int, int]) -> Box:
    """The box cut at the image's edge. Raises LabelError for one that is not on the image at all."""
    low = np.maximum(box[:2], 0.0)
    high = np.minimum(box[2:], np.array(size_px, np.float64) - 1)
    if not np.isfinite(box).all() or (low > high).any():
        raise LabelError("a mark lies outside the image")
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def outlined(k: int, points_xy: Array, size_px: tuple[int, int]) -> Region:
    """The region of a polygon through (m, 2) image-relative points on slice k. Raises LabelError as `within` does."""
    x, y = points_xy.T
    area = float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
    return k, within(box_round(points_xy), size_px), area


def merged(lesions: Sequence[Lesion]) -> list[Lesion]:
    """Each lesion once: of those with one tracking id, or that overlap on a slice, the one of most slices stays."""
    kept: list[Lesion] = []
    for lesion in sorted(lesions, key=lambda each: (-len(each.boxes), each.key, each.boxes[each.key])):
        if not any(_same(lesion, other) for other in kept):
            kept.append(lesion)
    return sorted(kept, key=lambda each: (each.key, each.boxes[each.key]))


def _same(one: Lesion, other: Lesion) -> bool:
    if one.tracking and one.tracking == other.tracking:
        return True
    shared = one.boxes.keys() & other.boxes.keys()
    return any(paired_iou(np.array(one.boxes[k]), np.array(other.boxes[k])) >= SAME_IOU for k in shared)


def code(item: pydicom.Dataset, sequence: str) -> str:
    """The code value of the first item of a code sequence, "" without one."""
    found = item.get(sequence)
    return str(found[0].get("CodeValue", "")).strip() if found else ""


def kind_of(codes: Iterable[str]) -> str:
    """The first code that KINDS knows, as its word."""
    return next((KINDS[each] for each in codes if each in KINDS), "")


def names_of(reference: pydicom.Dataset) -> Iterator[str]:
    """The SOPInstanceUID that a reference names, and of a file of frames each that it names."""
    uid, numbers = str(reference.get("ReferencedSOPInstanceUID", "")), reference.get("ReferencedFrameNumber")
    yield uid
    listed: Iterable[Any] = [] if numbers is None else [numbers] if isinstance(numbers, int | str) else numbers
    yield from (f"{uid}#{int(number)}" for number in listed)


def files_of(sops: Iterable[str]) -> set[str]:
    """SOPInstanceUIDs of the files that slices are in."""
    return {sop.partition("#")[0] for sop in sops}
