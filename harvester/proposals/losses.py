"""CenterNet's loss as named terms, with the hard negative suppression loss (HNSL).

    L = heat * L_heat + size * L_size + offset * L_offset       (weights: GeneratorSettings.loss)

Hard negatives get a Gaussian map of their own, Y-. `signed` (default, our reading; the paper does not print
the formula) makes the target Y = Y+ - Y- and keeps the form of L_heat, whose weight (1 - Y)^4 of a background
cell then rises from at most 1 to 16 at a hard negative's centre. `additive` adds suppression.weight * Y- to the weight
instead. `off`, or no hard negatives, is CenterNet's loss exactly.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from harvester.config.models import SuppressionSettings
from harvester.models.data_parallel import ALONE, Ranks

ALPHA: Final = 2
BETA: Final = 4
CLAMP: Final = 1e-4
"""Probabilities are kept in [CLAMP, 1 - CLAMP], so that no logarithm runs away."""


def generator_losses(
    outputs: dict[str, Tensor], targets: dict[str, Tensor], suppression: SuppressionSettings, ranks: Ranks = ALONE
) -> dict[str, Tensor]:
    """Unweighted scalar terms heat, size and offset; maps as Generator and build_targets make them.

    All are divided by the number of centres, all ranks' where they share the batch: the sum over them is the loss.
    """
    centre = targets["centre"]
    count = ranks.all_reduce(centre.sum()).clamp(min=1)
    losses = {"heat": heat_loss(outputs["heat"].float(), targets, suppression) / count}
    for name in ("size", "offset"):
        gap = functional.l1_loss(outputs[name].float(), targets[name], reduction="none")
        losses[name] = (gap * centre).sum() / count
    return losses


def heat_loss(logits: Tensor, targets: dict[str, Tensor], suppression: SuppressionSettings) -> Tensor:
    """Penalty-reduced focal loss summed over cells, each times targets["weight"]; not divided by m."""
    p = torch.sigmoid(logits).clamp(CLAMP, 1 - CLAMP)
    is_centre = targets["centre"] > 0
    positive = (1 - p) ** ALPHA * torch.log(p)
    background = background_weight(targets["heat"], targets["negative"], suppression)
    negative = background * p**ALPHA * torch.log(1 - p)
    return -(torch.where(is_centre, positive, negative) * targets["weight"]).sum()


def background_weight(heat: Tensor, negative: Tensor, suppression: SuppressionSettings) -> Tensor:
    """Weight of each background cell: (1 - Y)^4 with Y in [-1, 1] where signed."""
    if suppression.mode == "signed":
        return (1 - (heat - negative)) ** BETA
    plain = (1 - heat) ** BETA
    return plain + suppression.weight * negative if suppression.mode == "additive" else plain
