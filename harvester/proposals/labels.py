"""From the ledger to what a slab of the grid teaches: lesions, hard negatives, and where nothing is known."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harvester.geometry import Array
from harvester.labels.ledger import NEAR, UNSURE
from harvester.proposals.boxes import SliceBoxes
from harvester.proposals.targets import SlabLabels
from harvester.records import SIDES, Role
from harvester.store.slab import GridFrame


@dataclass(frozen=True)
class VolumeLabels:
    """All labels of one volume on its grid; the three kinds of boxes as in SlabLabels.

    complete        True where every lesion is marked, so that the rest is background
    """

    lesions: SliceBoxes
    negatives: SliceBoxes
    ignored: SliceBoxes
    complete: bool

    def slab(self, z_start: int, depth: int, unmarked_weight: float) -> SlabLabels:
        """The labels of slices [z_start, z_start + depth), counted from z_start.

        Slices of a partly marked volume without a lesion's label weigh `unmarked_weight`: what shows there
        may be a lesion that nobody marked.
        """
        weight = np.full(depth, 1.0 if self.complete else unmarked_weight, np.float32)
        lesions, negatives, ignored = (
            kind.between(z_start, depth) for kind in (self.lesions, self.negatives, self.ignored)
        )
        weight[lesions.z] = 1.0
        return SlabLabels(lesions, negatives, ignored, weight)


def volume_labels(rows: list[dict[str, Any]], frame: GridFrame, complete: bool) -> VolumeLabels:
    """Ledger rows of one volume on its grid. No rows: a volume that teaches background or nothing."""
    kinds: dict[str, list[tuple[int, Array]]] = {Role.LESION: [], Role.HARD_NEGATIVE: [], Role.IGNORED: []}
    likely: list[float] = []
    for row in rows:
        boxes = frame.boxes_to_grid(np.array([row[side] for side in SIDES], np.float64).T)
        placed = list(zip(frame.slices_to_grid(np.array(row["z"])).tolist(), boxes, strict=True))
        if row["role"] == Role.LESION and len(placed) == 1:
            placed, unsure = _spread(*placed[0], frame)
            kinds[Role.IGNORED] += unsure
        if row["role"] == Role.LESION:
            probability = row.get("probability")  # of harvested ones alone
            likely += [1.0 if probability is None else probability] * len(placed)
        if row["role"] != Role.CALIBRATION:  # says which tubelets not to count, not what is there
            kinds[row["role"]] += placed
    lesions, negatives, ignored = map(SliceBoxes.of, kinds.values())
    return VolumeLabels(replace(lesions, weight=np.array(likely)), negatives, ignored, complete)


def _spread(z: int, box_xyxy: Array, frame: GridFrame) -> tuple[list[tuple[int, Array]], list[tuple[int, Array]]]:
    """A one-slice mark on the slices near it, and the slices further out where it may still show."""
    spacing_z, _, spacing_x = frame.spacing_zyx_mm
    short_mm = (min(box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1]) + 1) * spacing_x
    near, unsure = int(NEAR * short_mm / spacing_z), int(np.ceil(UNSURE * short_mm / spacing_z))
    inside = range(max(0, z - unsure), min(frame.shape_zyx[0], z + unsure + 1))
    holds = [(at, box_xyxy) for at in inside if abs(at - z) <= near]
    return holds, [(at, box_xyxy) for at in inside if abs(at - z) > near]
