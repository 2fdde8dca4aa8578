"""Pictures of real lesions and what a generator proposes there, for real_lesions.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np

from benchmarks.real_scans import Lesion, Rows
from harvester.geometry import iou_matrix
from harvester.records import SIDES, Box, Volume

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

ACROSS: Final = 5
AROUND_MM: Final = 35.0
LUNG, SOFT = (-1350, 150), (-160, 240)
LUNG_SHARE: Final = 0.15


def draw(volumes: Mapping[str, Volume], shown: Sequence[tuple[Lesion, float]], found: Rows, file: Path) -> None:
    """Each lesion on its key slice: its box green, the nearest proposal there blue. No file without lesions."""
    file.unlink(missing_ok=True)
    if not shown:
        return
    across = min(ACROSS, len(shown))
    down = -(-len(shown) // across)
    figure, axes = plt.subplots(down, across, figsize=(2.8 * across, 3.1 * down), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (lesion, when) in zip(axes.flat, shown, strict=False):
        picture(axis, volumes[lesion.scan], lesion, nearest(lesion, found), when)
    figure.savefig(file, dpi=90, bbox_inches="tight")
    plt.close(figure)


def picture(axis: Axes, volume: Volume, lesion: Lesion, near: tuple[float, float, Box] | None, when: float) -> None:
    """One lesion with AROUND_MM round it, in the lung window where its box holds some lung."""
    true, (_, y_mm, x_mm) = lesion.boxes[lesion.key], volume.spacing_zyx_mm
    plane = volume.hu_zyx[lesion.key]
    left, right = true[0] - AROUND_MM / x_mm, true[2] + AROUND_MM / x_mm
    top, bottom = true[1] - AROUND_MM / y_mm, true[3] + AROUND_MM / y_mm
    x1, y1, x2, y2 = (max(0, round(end)) for end in true)
    inside = plane[y1 : y2 + 1, x1 : x2 + 1]
    low, high = LUNG if np.mean((inside > -980) & (inside < -500)) > LUNG_SHARE else SOFT
    axis.imshow(plane, cmap="gray", vmin=low, vmax=high)
    boxes = [("lime", true)] + ([("deepskyblue", near[2])] if near else [])
    for colour, (x1, y1, x2, y2) in boxes:
        axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.2))
    axis.set(xlim=(left, right), ylim=(bottom, top))
    said = f"IoU {near[0]:.2f}, score {near[1]:.2f}" if near else "nothing on this slice"
    rate = f"found at {when:.1f} FP" if np.isfinite(when) else "never found"
    axis.set_title(f"{lesion.scan}, slice {lesion.key}, {rate}\n{said}", fontsize=6)


def nearest(lesion: Lesion, found: Rows) -> tuple[float, float, Box] | None:
    """IoU, score and box of the proposal on the key slice that overlaps most; of those that miss it the closest."""
    true = np.array([lesion.boxes[lesion.key]])
    mine = [row for row in found if row["volume_id"] == lesion.scan and lesion.key in row["z"]]
    if not mine:
        return None
    boxes = np.array([box_at(row, row["z"].index(lesion.key)) for row in mine])
    iou = iou_matrix(boxes, true)[:, 0]
    apart = np.linalg.norm((boxes[:, :2] + boxes[:, 2:] - true[:, :2] - true[:, 2:]) / 2, axis=1)
    best = int(np.lexsort((apart, -iou))[0])
    return float(iou[best]), float(mine[best]["lpg_score"]), box_at(mine[best], mine[best]["z"].index(lesion.key))


def box_at(tubelet: Mapping[str, Any], at: int) -> Box:
    """A tubelet's box, counted from its first slice."""
    x1, y1, x2, y2 = (float(tubelet[side][at]) for side in SIDES)
    return x1, y1, x2, y2
