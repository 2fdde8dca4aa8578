"""Overlaps of 3D boxes, by the rules of the evaluator published with LENS. `matching.hits` visits them.

A box has inclusive ends on all three axes (a box of one voxel has x1 == x2 and width x2 - x1 + 1); ends may
be fractional. METRICS are the overlaps of a detection with an annotated box of its volume. By iobb a small detection
inside a large lesion counts in full.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.evaluation.matching import Floats, Overlaps, codes, in_order, join, numbers
from harvester.labels.deeplesion.published_tubelets import SIDES_3D

METRICS: Final[dict[str, Callable[[Floats, Floats, Floats], Floats]]] = {
    "iobb": lambda common, detection, annotated: common / detection,
    "iou": lambda common, detection, annotated: common / (detection + annotated - common),
    "iogt": lambda common, detection, annotated: common / annotated,
}
"""Overlap from the volumes of what is common, of the detection and of the annotated box, in voxels."""


def overlaps_3d(detections: pa.Table, boxes: pa.Table, metric: str) -> Overlaps:
    """Pairs of a detection and an annotated box of one volume with overlap > 0; none without rows.

    Both tables have volume_id and SIDES_3D; `metric` is a key of METRICS. Overlaps.mark is the row of `boxes`.
    """
    volume_ids = pc.unique(boxes["volume_id"])
    volume_of_box = codes(boxes["volume_id"], volume_ids)
    by_volume = np.argsort(volume_of_box, kind="stable")
    detection, place = join(codes(detections["volume_id"], volume_ids), volume_of_box[by_volume])
    box = by_volume[place]
    a, b = corners_3d(detections), corners_3d(boxes)
    common = np.ones(len(box))
    for axis in range(3):  # one axis at a time: the pairs of an axis are the largest array here
        low = np.maximum(a[detection, axis], b[box, axis])
        high = np.minimum(a[detection, axis + 3], b[box, axis + 3])
        common *= np.maximum(high - low + 1, 0.0)
    touching = np.flatnonzero(common)
    detection, box, common = detection[touching], box[touching], common[touching]
    return in_order(detection, box, METRICS[metric](common, volumes_vx(a)[detection], volumes_vx(b)[box]))


def corners_3d(table: pa.Table) -> Floats:
    """(n, 6) float64: x1, y1, z1, x2, y2, z2."""
    return np.stack([numbers(table[side]).astype(np.float64) for side in SIDES_3D], axis=-1)


def volumes_vx(boxes: Floats) -> Floats:
    """(n,) volumes in voxels of (n, 6) inclusive boxes."""
    return np.asarray(np.prod(boxes[:, 3:] - boxes[:, :3] + 1, axis=-1))
