"""Boxes, IoU, and the one legend of axis order, box ends and frames.

Axis order      arrays are (z, y, x); points and boxes are named x first: (x1, y1, x2, y2).
z               slice index from 0, ascending along the patient's inferior-to-superior axis as stored.
Box ends        pixel indices, both ends inclusive: a one-pixel box has x1 == x2 and width x2 - x1 + 1
                (the convention of DeepLesion and of its published evaluators). Ends may be fractional.
Frames          `px` is the volume's own (native) voxel grid; `grid` is the network's grid, which has
                another spacing but the same outer corner; `mm` has its origin at that outer corner:
                pixel i covers [i * spacing, (i + 1) * spacing).
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SAME_SPACING: Final = 0.01
"""Spacings that differ by less than this share are taken as equal: no resampling."""


def box_areas(boxes_xyxy: Array) -> Array:
    """Areas of (..., 4) inclusive boxes in square pixels, shape (...)."""
    return np.asarray((boxes_xyxy[..., 2] - boxes_xyxy[..., 0] + 1) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1] + 1))


def intersections(a_xyxy: Array, b_xyxy: Array) -> Array:
    """Common areas of (n, 4) inclusive boxes with (n, 4) others, pair by pair (broadcasts); (n,), 0 where apart."""
    width = np.minimum(a_xyxy[..., 2], b_xyxy[..., 2]) - np.maximum(a_xyxy[..., 0], b_xyxy[..., 0]) + 1
    height = np.minimum(a_xyxy[..., 3], b_xyxy[..., 3]) - np.maximum(a_xyxy[..., 1], b_xyxy[..., 1]) + 1
    return np.asarray(np.maximum(width, 0.0) * np.maximum(height, 0.0))


def paired_iou(a_xyxy: Array, b_xyxy: Array) -> Array:
    """IoU of the same pairs; shape (n,), 0 where apart."""
    inter = intersections(a_xyxy, b_xyxy)
    return np.asarray(inter / (box_areas(a_xyxy) + box_areas(b_xyxy) - inter))


def iou_matrix(a_xyxy: Array, b_xyxy: Array) -> Array:
    """IoU of every one of (n, 4) inclusive boxes with every one of (m, 4); shape (n, m)."""
    a_xyxy, b_xyxy = (boxes.astype(np.float64, copy=False) for boxes in (a_xyxy, b_xyxy))
    a, b = a_xyxy.T[:, :, None], b_xyxy.T[:, None, :]
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    sides += 1
    inter = np.multiply(*np.maximum(sides, 0.0, out=sides))
    union = box_areas(a_xyxy)[:, None] + box_areas(b_xyxy)
    union -= inter
    return np.asarray(np.divide(inter, union, out=union))


def scale_boxes(boxes_xyxy: Array, ratio_x: float, ratio_y: float) -> Array:
    """Move (..., 4) inclusive boxes to a frame whose pixels are 1 / ratio as large; outer corners coincide.

    `ratio` is source spacing / target spacing, so grid -> px takes grid_spacing / px_spacing.
    """
    low = boxes_xyxy[..., :2] * (ratio_x, ratio_y)
    high = (boxes_xyxy[..., 2:] + 1) * (ratio_x, ratio_y) - 1
    return np.concatenate([low, high], axis=-1)


def scale_slices(z: Array, ratio_z: float) -> Array:
    """Slice indices moved to a frame with slices 1 / ratio as thick, as fractional indices of slice centres."""
    return (np.asarray(z, dtype=np.float64) + 0.5) * ratio_z - 0.5


def boxes_to_mm(boxes_xyxy_px: Array, spacing_x_mm: float, spacing_y_mm: float) -> Array:
    """Outer edges of (..., 4) inclusive pixel boxes in mm from the volume's outer corner."""
    spacing = np.array([spacing_x_mm, spacing_y_mm, spacing_x_mm, spacing_y_mm])
    return np.asarray((boxes_xyxy_px + np.array([0, 0, 1, 1])) * spacing)
