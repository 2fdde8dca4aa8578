"""From the ledger to what a slab of the grid teaches: lesions, hard negatives, and where nothing is known."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harvester.labels.ledger import BOX, NEAR, UNSURE
from harvester.proposals.targets import SlabLabels
from harvester.volumes.slab import GridFrame

Array = NDArray[Any]


@dataclass(frozen=True)
class VolumeLabels:
    """All labels of one volume on its grid: (n,) slices and (n, 4) boxes, inclusive ends.

    complete        True where every lesion is marked, so that the rest is background
    """

    z: Array
    boxes_xyxy: Array
    negative_z: Array
    negative_boxes_xyxy: Array
    ignored_z: Array
    ignored_boxes_xyxy: Array
    complete: bool

    def slab(self, z_start: int, depth: int, unmarked_weight: float) -> SlabLabels:
        """The labels of slices [z_start, z_start + depth), counted from z_start.

        Slices of a partly marked volume without a lesion's label weigh `unmarked_weight`: what shows there
        may be a lesion that nobody marked.
        """
        weight = np.full(depth, 1.0 if self.complete else unmarked_weight, np.float32)
        z, boxes = _between(self.z, self.boxes_xyxy, z_start, depth)
        weight[z] = 1.0
        negative = _between(self.negative_z, self.negative_boxes_xyxy, z_start, depth)
        ignored = _between(self.ignored_z, self.ignored_boxes_xyxy, z_start, depth)
        return SlabLabels(z, boxes, *negative, *ignored, weight)


def volume_labels(rows: list[dict[str, Any]], frame: GridFrame, complete: bool) -> VolumeLabels:
    """Ledger rows of one volume on its grid. No rows: a volume that teaches background or nothing."""
    lesions: list[tuple[int, Array]] = []
    negatives: list[tuple[int, Array]] = []
    ignored: list[tuple[int, Array]] = []
    for row in rows:
        boxes = frame.boxes_to_grid(np.array([row[side] for side in BOX], np.float64).T)
        placed = list(zip(frame.slices_to_grid(np.array(row["z"])).tolist(), boxes, strict=True))
        if row["role"] == "ignored":
            ignored += placed
        elif row["role"] == "hard_negative":
            negatives += placed
        elif len(placed) > 1:
            lesions += placed
        else:
            near, unsure = _spread(*placed[0], frame)
            lesions += near
            ignored += unsure
    return VolumeLabels(*_stack(lesions), *_stack(negatives), *_stack(ignored), complete)


def _spread(
    z: int, box_xyxy: Array, frame: GridFrame
) -> tuple[list[tuple[int, Array]], list[tuple[int, Array]]]:
    """A one-slice mark on the slices near it, and the slices further out where it may still show."""
    spacing_z, _, spacing_x = frame.spacing_zyx_mm
    short_mm = (min(box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1]) + 1) * spacing_x
    near, unsure = int(NEAR * short_mm / spacing_z), int(np.ceil(UNSURE * short_mm / spacing_z))
    inside = range(max(0, z - unsure), min(frame.shape_zyx[0], z + unsure + 1))
    holds = [(at, box_xyxy) for at in inside if abs(at - z) <= near]
    return holds, [(at, box_xyxy) for at in inside if abs(at - z) > near]


def _stack(placed: list[tuple[int, Array]]) -> tuple[Array, Array]:
    if not placed:
        return np.zeros(0, np.int64), np.zeros((0, 4))
    return np.array([z for z, _ in placed]), np.stack([box for _, box in placed])


def _between(z: Array, boxes: Array, z_start: int, depth: int) -> tuple[Array, Array]:
    inside = (z >= z_start) & (z < z_start + depth)
    return z[inside] - z_start, boxes[inside]
