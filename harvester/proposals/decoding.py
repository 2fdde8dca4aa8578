"""Heat maps to boxes: peaks, the best of them, and their boxes."""

import torch
from torch import Tensor
from torch.nn import functional

from harvester.proposals.losses import CLAMP
from harvester.proposals.network import STRIDE


def decode(outputs: dict[str, Tensor], top_k: int, score_floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of n slices, (n, channels, rows, columns), to what survives on any slice.

    A peak is a cell that is the largest of its 3x3 neighbourhood; the `top_k` best of a slice above
    `score_floor` are kept. Returns slice indices (m,), boxes_xyxy (m, 4) in grid pixels with inclusive ends,
    and scores (m,), by slice and falling score. Runs on the maps' device; only survivors need leave it.
    """
    scores, cells = _peaks(torch.sigmoid(outputs["heat"].float()).clamp(CLAMP, 1 - CLAMP), top_k)
    # Cells that are no peak have score 0; a floor of 0 does not let them in.
    z, rank = torch.nonzero((scores >= score_floor) & (scores > 0), as_tuple=True)
    cell = cells[z, rank]
    columns = outputs["heat"].shape[-1]
    row, column = cell // columns, cell % columns
    size = outputs["size"].float()[z, :, row, column].clamp(min=1 / STRIDE)
    corner = torch.stack([column, row], dim=1)
    centre = (corner + outputs["offset"].float()[z, :, row, column]) * STRIDE
    half = size * STRIDE / 2
    return z, torch.cat([centre - half, centre + half - 1], dim=1), scores[z, rank]


def _peaks(heat: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    keep = functional.max_pool2d(heat, 3, stride=1, padding=1) == heat
    flat = (heat * keep).flatten(1)
    top = flat.topk(min(top_k, flat.shape[1]), dim=1)
    return top.values, top.indices
