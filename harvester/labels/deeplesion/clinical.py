"""Which marks of a full annotation are the archive's own."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from harvester.geometry import iou_matrix
from harvester.records import Placed


def match_marks(marks: Sequence[Placed], others: Sequence[Placed], iou_at_least: float) -> dict[int, int]:
    """index in `marks` -> index in `others` of the pairs that are the same mark; empty where nothing fits.

    Each is in one pair at most: on one slice, with an IoU of at least `iou_at_least`, and so that the pairs' IoUs
    add up to the most.
    """
    if not marks or not others:
        return {}
    z, other_z = (np.array([z for z, _ in placed]) for placed in (marks, others))
    boxes, other_boxes = (np.array([box for _, box in placed], float) for placed in (marks, others))
    iou = iou_matrix(boxes, other_boxes) * (z[:, None] == other_z[None, :])
    rows, columns = linear_sum_assignment(np.where(iou >= iou_at_least, iou, 0), maximize=True)
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if iou[i, j] >= max(iou_at_least, 1e-9)}
