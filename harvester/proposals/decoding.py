"""Heat maps to boxes: peaks, the best of them, and their boxes."""

import torch
from torch import Tensor
from torch.nn import functional

from harvester.proposals.losses import CLAMP


def best_peaks(outputs: dict[str, Tensor], top_k: int, stride: int) -> tuple[Tensor, Tensor]:
    """Scores (n, k), falling, and boxes_xyxy (n, k, 4) in grid pixels with inclusive ends, of every slice's maps.

    A peak is a cell that is the largest of its 3x3 neighbourhood; cells that are none come with score 0. k is
    `top_k`, or all cells of a small map; `stride` is pixels per cell. Runs on the maps' device and never waits for it.
    """
    heat = torch.sigmoid(outputs["heat"].float()).clamp(CLAMP, 1 - CLAMP)
    keep = functional.max_pool2d(heat, 3, stride=1, padding=1) == heat
    flat = (heat * keep).flatten(1)
    scores, cells = flat.topk(min(top_k, flat.shape[1]), dim=1)
    columns = heat.shape[-1]
    corner = torch.stack([cells % columns, cells // columns], dim=2)
    size, offset = (_at(outputs[name], cells) for name in ("size", "offset"))
    centre = (corner + offset) * stride
    half = size.clamp(min=1 / stride) * stride / 2
    return scores, torch.cat([centre - half, centre + half - 1], dim=2)


def above(scores: Tensor, boxes_xyxy: Tensor, score_floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of best_peaks what scores `score_floor` or more: slices (m,), boxes_xyxy (m, 4), scores (m,), by slice."""
    # Cells that are no peak have score 0; a floor of 0 does not let them in.
    z, rank = torch.nonzero((scores >= score_floor) & (scores > 0), as_tuple=True)
    return z, boxes_xyxy[z, rank], scores[z, rank]


def _at(values: Tensor, cells: Tensor) -> Tensor:
    """(n, channels, rows, columns) at (n, k) flat cells: (n, k, channels)."""
    flat = values.float().flatten(2)
    return flat.gather(2, cells[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
