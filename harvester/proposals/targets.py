"""What the generator should answer on one slab: heat maps, sizes, offsets, and where the answer counts."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from harvester.geometry import Array
from harvester.proposals.boxes import SliceBoxes

PUBLISHED_IOU: Final = 0.7
"""CenterNet's, and so the paper's."""


@dataclass(frozen=True)
class SlabLabels:
    """Boxes on a slab of `depth` slices, in slab pixels.

    lesions, negatives  what is one, as far as their weight says, what is surely none (hard negatives)
    ignored             regions where nothing is known
    slice_weight        (depth,): 1 where what is not a lesion is background, less where that is not sure
    """

    lesions: SliceBoxes
    negatives: SliceBoxes
    ignored: SliceBoxes
    slice_weight: Array


def build_targets(
    labels: SlabLabels, height: int, width: int, stride: int, min_iou: float = PUBLISHED_IOU
) -> dict[str, Array]:
    """Maps of (depth, channels, height / stride, width / stride), float32.

    heat      Y+: a Gaussian per lesion, 1 at its centre's cell, the maximum where they overlap; it ends where a box
              moved so far has `min_iou` with itself (gaussian_radius)
    negative  Y-: the same for hard negatives, 0 wherever Y+ > 0
    size, offset  in cells; centre is 1 where a lesion has its centre, else 0
    weight    weight of each cell in the heat loss: a lesion's own cells have the lesion's
    """
    depth, rows, columns = len(labels.slice_weight), height // stride, width // stride
    channels = {"heat": 1, "negative": 1, "size": 2, "offset": 2, "centre": 1}
    maps = {name: np.zeros((depth, n, rows, columns), np.float32) for name, n in channels.items()}
    known = np.ones((depth, 1, rows, columns), np.float32)
    for z, box in labels.ignored:
        _clear(known[z, 0], box, stride)
    certainty = np.zeros_like(known)
    for (z, box), weight in zip(labels.lesions, labels.lesions.weights, strict=True):
        own = place(maps, z, box, stride, min_iou)
        np.maximum(certainty[z, 0], weight * own, out=certainty[z, 0])
    for z, box in labels.negatives:
        splat(maps["negative"][z, 0], box, stride, min_iou)
    maps["negative"][maps["heat"] > 0] = 0
    # A label is knowledge: its own cells count even on a slice that is otherwise unknown. But a hard negative
    # where a lesion may still show is none.
    around = np.maximum(known * labels.slice_weight[:, None, None, None], (maps["negative"] > 0) * known)
    maps["weight"] = np.where(maps["heat"] > 0, certainty, around)
    return maps


def centre_cell(box_xyxy: Array, stride: int) -> tuple[int, int, float, float]:
    """Column, row, and sub-cell offsets (x, y) of a box's centre on a map of `stride` pixels a cell."""
    x = (box_xyxy[0] + box_xyxy[2] + 1) / 2 / stride
    y = (box_xyxy[1] + box_xyxy[3] + 1) / 2 / stride
    return int(np.floor(x)), int(np.floor(y)), float(x % 1), float(y % 1)


def gaussian_radius(width: float, height: float, min_iou: float = PUBLISHED_IOU) -> float:
    """Largest r such that a box shifted by (r, r) keeps `min_iou` with itself, in the unit of the sides.

    (w - r)(h - r) = 2 iou / (1 + iou) w h, solved for the smaller root.
    """
    share = 2 * min_iou / (1 + min_iou)
    total = width + height
    return float((total - np.sqrt(total**2 - 4 * (1 - share) * width * height)) / 2)


def splat(heat_yx: Array, box_xyxy: Array, stride: int, min_iou: float = PUBLISHED_IOU) -> bool:
    """Write the box's Gaussian into (rows, columns), keeping the maximum; False for a centre outside: nothing."""
    column, row, _, _ = centre_cell(box_xyxy, stride)
    rows, columns = heat_yx.shape
    if not (0 <= column < columns and 0 <= row < rows):
        return False
    width, height = (box_xyxy[2] - box_xyxy[0] + 1) / stride, (box_xyxy[3] - box_xyxy[1] + 1) / stride
    reach = int(max(0, gaussian_radius(width, height, min_iou)))
    sigma = (2 * reach + 1) / 6
    top, bottom = max(0, row - reach), min(rows, row + reach + 1)
    left, right = max(0, column - reach), min(columns, column + reach + 1)
    dy, dx = np.ogrid[top - row : bottom - row, left - column : right - column]
    bump = np.exp(-(dx**2 + dy**2) / (2 * sigma**2)).astype(np.float32)
    np.maximum(heat_yx[top:bottom, left:right], bump, out=heat_yx[top:bottom, left:right])
    return True


def place(maps: dict[str, Array], z: int, box_xyxy: Array, stride: int, min_iou: float) -> Array:
    """Write a lesion into the maps; gives (rows, columns) bool, its own cells."""
    column, row, offset_x, offset_y = centre_cell(box_xyxy, stride)
    own = np.zeros_like(maps["heat"][z, 0])
    if not splat(own, box_xyxy, stride, min_iou):
        return np.asarray(own > 0)
    np.maximum(maps["heat"][z, 0], own, out=maps["heat"][z, 0])
    sides = (np.array([box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1]]) + 1) / stride
    maps["size"][z, :, row, column] = sides
    maps["offset"][z, :, row, column] = offset_x, offset_y
    maps["centre"][z, 0, row, column] = 1
    return np.asarray(own > 0)


def _clear(weight_yx: Array, box_xyxy: Array, stride: int) -> None:
    left, top = np.floor(box_xyxy[:2] / stride).astype(int).clip(0)
    right, bottom = np.ceil((box_xyxy[2:] + 1) / stride).astype(int).clip(0)
    weight_yx[top:bottom, left:right] = 0
