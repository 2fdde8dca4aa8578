"""Scans of $HARVESTER_DATA/ct with lesions that people outlined, and two that were read as normal.

Eleven patients: tumours, nodules and nodes as masks or boxes, one scan each. Four are crops round a sarcoma.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import ndimage

from harvester.datasets.insertion.backgrounds import MASK_MARGIN_MM, Background
from harvester.datasets.insertion.insertion import BOX_PAD_MM
from harvester.imaging.dicom.reader import read_dicom_series
from harvester.imaging.nifti.reader import read_nifti
from harvester.records import MARKS, SIDES, Box, MarkTable, Volume

SCANS: Final = {
    "lung_dx_a0001": 1, "lung_1": 1, "lung_2": 1, "chest_lidc1": 2, "chest_lidc0002": 1, "chest_nsclcrg_r01001": 1,
    "chest_4dlung113": 1, "sts_008": 1, "sts_019": 1, "sts_025": 1, "sts_042": 1,
}  # fmt: skip
"""Scans with lesions, and the value of the mask from which a voxel is one: of chest_lidc1 that of two readers of four.
The masks of chest_lidc0002, chest_nsclcrg_r01001 and chest_4dlung113 hold the boxes of the JSON files beside them."""
NORMAL: Final = ("chest_covmd_normal001", "chest_covmd_normal002")
EVERY: Final = (*SCANS, *NORMAL)
WHOLE: Final = tuple(scan for scan in EVERY if not scan.startswith("sts_"))
"""Scans whose disease is known where it is not avoided: what else is found there is false."""

Rows = list[dict[str, Any]]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Lesion:
    """One lesion of a scan: its box on each of its slices, in the scan's pixels, grown by BOX_PAD_MM as in training."""

    scan: str
    boxes: Mapping[int, Box]

    @property
    def key(self) -> int:
        """The slice where its box is largest; of several the lowest."""
        return max(sorted(self.boxes), key=lambda z: _area(self.boxes[z]))

    def holds(self, z: int, box: Box) -> bool:
        """Whether the middle of a box on slice z lies in the lesion's box there."""
        if z not in self.boxes:
            return False
        (x1, y1, x2, y2), (left, top, right, bottom) = self.boxes[z], box
        return x1 <= (left + right) / 2 <= x2 and y1 <= (top + bottom) / 2 <= y2


def read_scan(folder: Path, scan: str, patient: str) -> Volume:
    """A scan by its name."""
    series = folder / scan
    if series.is_dir():
        return read_dicom_series(series, scan, patient)
    return read_nifti(folder / f"{scan}.nii.gz", scan, patient)


def lesions_of(folder: Path, volume: Volume) -> list[Lesion]:
    """A radiologist's boxes, or the connected parts of the mask; none of a normal scan."""
    scan, boxes = volume.volume_id, folder / f"{volume.volume_id}.boxes.json"
    if scan not in SCANS:
        return []
    if boxes.exists():
        listed = {row["z"]: row["box_xyxy"] for row in json.loads(boxes.read_text())["boxes"]}
        return [grown(scan, listed, volume.spacing_zyx_mm)]
    mask = read_nifti(folder / f"{scan}.mask.nii.gz", scan, scan).hu_zyx >= SCANS[scan]
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return [grown(scan, slice_boxes(parts == part + 1), volume.spacing_zyx_mm) for part in range(count)]


def slice_boxes(mask_zyx: NDArray[np.bool_]) -> dict[int, Box]:
    """The box round a mask on each slice that has some of it, inclusive ends."""
    places = {int(z): np.nonzero(mask_zyx[z]) for z in np.flatnonzero(mask_zyx.any(axis=(1, 2)))}
    return {z: (float(x.min()), float(y.min()), float(x.max()), float(y.max())) for z, (y, x) in places.items()}


def grown(scan: str, boxes: Mapping[int, Sequence[float]], spacing_zyx_mm: Spacing) -> Lesion:
    """The lesion of tight boxes by slice."""
    x, y = BOX_PAD_MM / spacing_zyx_mm[2], BOX_PAD_MM / spacing_zyx_mm[1]
    return Lesion(scan, {z: (b[0] - x, b[1] - y, b[2] + x, b[3] + y) for z, b in boxes.items()})


def left_out(volume: Volume, lesions: Sequence[Lesion], background: Background | None) -> Rows:
    """Rows of records.IGNORE: what the list of backgrounds avoids, and MASK_MARGIN_MM round the scan's lesions."""
    spacing = np.array(volume.spacing_zyx_mm)
    avoided = background.avoid_mm if background else ()
    # Ends in mm are edges: a voxel counts if its centre is inside.
    places = [np.reshape(region, (3, 2)).T / spacing - 0.5 for region in avoided]
    for lesion in lesions:
        x1, y1, x2, y2 = np.array([*lesion.boxes.values()]).T
        ends = [[min(lesion.boxes), y1.min(), x1.min()], [max(lesion.boxes), y2.max(), x2.max()]]
        places.append(np.array(ends) + np.outer([-1, 1], MASK_MARGIN_MM / spacing))
    return [_region(volume.volume_id, *low, *high) for low, high in places]


def _region(scan: str, z1: float, y1: float, x1: float, z2: float, y2: float, x2: float) -> dict[str, Any]:
    slices = {"volume_id": scan, "z1": int(np.ceil(z1)), "z2": int(np.floor(z2))}
    return slices | {"x1": float(x1), "y1": float(y1), "x2": float(x2), "y2": float(y2)}


def marks_of(lesions: Sequence[Lesion]) -> MarkTable:
    """One mark for each lesion: its box on its key slice."""
    rows = [
        {"volume_id": each.scan, "mark_id": str(m), "z": each.key, "clinical": False, "kind": ""}
        | dict(zip(SIDES, each.boxes[each.key], strict=True))
        for m, each in enumerate(lesions)
    ]
    return MarkTable(pa.Table.from_pylist(rows, MARKS))


def _area(box: Box) -> float:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
