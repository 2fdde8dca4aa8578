"""Heat maps to boxes: peaks, the best of them, and their boxes.

The centre of a large lesion may be in any of several cells, between which the heat is shared out: what a peak scores is
the heat of all cells that would give nearly its box.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from harvester.proposals.losses import CLAMP

SHIFT: Final = 1 - (2 / 3) ** 0.5
"""By this share of its side a square can move both ways and keep an IoU of 0.5 with itself."""
FARTHEST: Final = 4
"""In cells."""
BACKGROUND: Final = 0.35
"""Heat up to here is everywhere, and a window of many cells would be full of it: only what is above counts."""


def best_peaks(outputs: dict[str, Tensor], top_k: int, stride: int) -> tuple[Tensor, Tensor]:
    """Scores (n, k), falling, and boxes_xyxy (n, k, 4) in grid pixels with inclusive ends, of every slice's maps.

    A peak is a cell that is the largest of its 3x3 neighbourhood; cells that are none come with score 0. Its score is
    the chance that the centre is there or in a cell near by (`shared_heat`; ours). k is `top_k`, or all cells of a
    small map; `stride` is pixels per cell. Runs on the maps' device and never waits for it.
    """
    heat = torch.sigmoid(outputs["heat"].float()).clamp(CLAMP, 1 - CLAMP)
    keep = functional.max_pool2d(heat, 3, stride=1, padding=1) == heat
    flat = (shared_heat(heat, outputs["size"].float()) * keep).flatten(1)
    scores, cells = flat.topk(min(top_k, flat.shape[1]), dim=1)
    columns = heat.shape[-1]
    corner = torch.stack([cells % columns, cells // columns], dim=2)
    size, offset = (_at(outputs[name], cells) for name in ("size", "offset"))
    centre = (corner + offset) * stride
    half = size.clamp(min=1 / stride) * stride / 2
    return scores, torch.cat([centre - half, centre + half - 1], dim=2)


def shared_heat(heat: Tensor, size: Tensor) -> Tensor:
    """1 - (1 - p) times the product of 1 - (p' - BACKGROUND) over the cells near by whose heat p' is more than that.

    heat (n, 1, rows, columns), size (n, 2, rows, columns) in cells; near by: at most SHIFT of the box's longest side.
    Never less than the heat, and below 1 by CLAMP.
    """
    near = torch.log1p(-(heat - BACKGROUND).clamp(min=0))
    reach, others = SHIFT * size.amax(1, keepdim=True), torch.zeros_like(heat)
    for cells in range(1, FARTHEST + 1):
        side = 2 * cells + 1
        window = functional.avg_pool2d(near, side, stride=1, padding=cells) * side**2 - near
        others = torch.where(reach >= cells, window, others)
    return (1 - (1 - heat) * torch.exp(others)).clamp(max=1 - CLAMP)


def above(scores: Tensor, boxes_xyxy: Tensor, score_floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of best_peaks what scores `score_floor` or more: slices (m,), boxes_xyxy (m, 4), scores (m,), by slice."""
    # Cells that are no peak have score 0; a floor of 0 does not let them in.
    z, rank = torch.nonzero((scores >= score_floor) & (scores > 0), as_tuple=True)
    return z, boxes_xyxy[z, rank], scores[z, rank]


def _at(values: Tensor, cells: Tensor) -> Tensor:
    """(n, channels, rows, columns) at (n, k) flat cells: (n, k, channels)."""
    flat = values.float().flatten(2)
    return flat.gather(2, cells[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
