"""LPG: CenterNet with 3D context (paper.md, "LPG").

A slice group is three adjacent slices as channels. Its 2D features are computed once, however many outputs
use them: the output for slice z fuses the features of the groups centred at z - 3, z and z + 3, which is the
nine-slice window of the paper, without recomputing eight ninths of it for the next slice.
"""

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from harvester.config.models import GeneratorSettings, GridSettings
from harvester.models.backbones import STRIDES, build_backbone

GROUP_STEP: Final = 3
"""Slices between the centres of the fused groups."""
GROUPS: Final = (0, GROUP_STEP, 2 * GROUP_STEP)
"""Where the three groups of output slice 0 lie among the groups of a slab."""
CONTEXT: Final = GROUP_STEP + 1
"""Slices that an output needs on each side of its own."""
HEADS: Final = {"heat": 1, "size": 2, "offset": 2}


class Generator(nn.Module):
    """Windowed slabs in; per slice a centre heat map (logits), box sizes and sub-pixel offsets out.

    The maps are at settings.stride pixels a cell; sizes (width, height) and offsets (x, y) are in cells.
    """

    def __init__(self, settings: GeneratorSettings, grid: GridSettings) -> None:
        super().__init__()
        self.finest = STRIDES.index(settings.stride)
        channels_in = 3 * len(grid.windows_hu)
        backbone = build_backbone(
            settings.backbone, channels_in, settings.width, settings.weights, settings.weights_sha256
        )
        self.backbone: nn.Module = backbone
        self.laterals = nn.ModuleList(
            [nn.Conv2d(3 * channels, settings.channels, 1) for channels in backbone.out_channels[self.finest :]]
        )
        self.fused = nn.Sequential(nn.BatchNorm2d(settings.channels), nn.ReLU(inplace=True))
        heads = {name: _head(settings.channels, settings.head_channels, out) for name, out in HEADS.items()}
        # A rare foreground: start near p = 0.1, as focal losses need (CenterNet).
        nn.init.constant_(cast(Tensor, heads["heat"][-1].bias), -2.19)
        self.heads = nn.ModuleDict(heads)

    def forward(self, slab: Tensor) -> dict[str, Tensor]:
        """(batch, windows, depth + 2 CONTEXT, y, x) to maps of (batch, depth, channels, y / stride, x / stride)."""
        depth = slab.shape[2] - 2 * CONTEXT
        needed = sorted({z + step for z in range(depth) for step in GROUPS})
        groups = slice_groups(slab, needed)
        maps = [torch.unflatten(features, 0, groups.shape[:2]) for features in self.features(groups.flatten(0, 1))]
        places = [[needed.index(z + step) for z in range(depth)] for step in GROUPS]
        outputs = self.fuse([stack_groups(features, places).flatten(0, 1) for features in maps])
        return {name: torch.unflatten(out, 0, (len(slab), depth)) for name, out in outputs.items()}

    def features(self, groups: Tensor) -> list[Tensor]:
        """2D features of (n, 3 windows, y, x) slice groups from settings.stride on: the part done once per slice."""
        maps: list[Tensor] = self.backbone(groups)
        return maps[self.finest :]

    def fuse(self, stacked: list[Tensor]) -> dict[str, Tensor]:
        """Features of three groups side by side, (n, 3 channels, ...) per stride, to the heads' maps of n slices."""
        return self.heads_forward(
            top_down([lateral(level) for lateral, level in zip(self.laterals, stacked, strict=True)])
        )

    def fuse_incremental(
        self, maps: list[Tensor], carry: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """As `fuse`, on from the groups before: features of n groups to the maps of the n slices that they complete.

        A lateral is linear in its three groups: each group meets each part of its weights once, and adds to the sums
        of the slices 3 above its centre, its own and 3 below. Also gives the sums that are not complete yet, which
        the next call takes as `carry`; the first one takes None and completes n - 6 slices.
        """
        sums = [
            _added(cast(nn.Conv2d, lateral), level, carry[at] if carry else None)
            for at, (lateral, level) in enumerate(zip(self.laterals, maps, strict=True))
        ]
        done, first = len(maps[0]), 0 if carry else GROUPS[-1]
        outputs = self.heads_forward(top_down([level[first:done] for level in sums]))
        return outputs, [level[done:] for level in sums]

    def heads_forward(self, top: Tensor) -> dict[str, Tensor]:
        """Fused features (n, channels, y / stride, x / stride) to the heads' maps."""
        shared = self.fused(top)
        return {name: head(shared) for name, head in self.heads.items()}


def top_down(levels: list[Tensor]) -> Tensor:
    """Levels of equal channels, finest first, summed at the finest."""
    top = levels[-1]
    for level in reversed(levels[:-1]):
        top = level + functional.interpolate(top, size=level.shape[-2:], mode="nearest")
    return top


def _added(lateral: nn.Conv2d, features: Tensor, carry: Tensor | None) -> Tensor:
    """Sums of n groups' parts for n + 6 slices, (n + 6, channels, y, x), the first 6 of them on what was carried."""
    count, reach, size = len(features), GROUPS[-1], features.shape[-2:]
    # A 1 x 1 convolution of channels that lie last is a matrix product, which can add to what is there.
    cells = features.permute(0, 2, 3, 1).flatten(0, 2)
    weights = lateral.weight.to(features.dtype).flatten(1).chunk(len(GROUPS), dim=1)
    bias = cast(Tensor, lateral.bias).to(features.dtype)
    sums = bias.expand(count + reach, *size, -1).contiguous()
    if carry is not None:
        sums[:reach] = carry.permute(0, 2, 3, 1)
    for step, weight in zip(GROUPS, weights, strict=True):
        sums[reach - step : reach - step + count].flatten(0, 2).addmm_(cells, weight.T)
    return sums.permute(0, 3, 1, 2)


def slice_groups(slab: Tensor, places: Sequence[int] | None = None) -> Tensor:
    """(batch, windows, depth, y, x) to (batch, groups, 3 windows, y, x): each slice with both neighbours.

    All depth - 2 groups, or those at `places`, counted from the first.
    """
    chosen = list(range(slab.shape[2] - 2) if places is None else places)
    parts = [slab[:, :, [spec + step for spec in chosen]] for step in range(3)]
    return torch.cat(parts, dim=1).transpose(1, 2)


def stack_groups(features: Tensor, places: Sequence[Sequence[int]]) -> Tensor:
    """(batch, groups, channels, y, x) to (batch, depth, 3 channels, y, x).

    `places` names, for each of the three groups that an output fuses, where they lie for every output slice.
    """
    return torch.cat([features[:, list(spec)] for spec in places], dim=2)


def group_images(hu_zyx: Tensor, windows_hu: Sequence[tuple[float, float]], dtype: torch.dtype) -> Tensor:
    """(n + 2, y, x) HU to (n, 3 windows, y, x), what slice_groups makes of `windowed`, with channels last."""
    hu = hu_zyx.float()
    shown = [((hu - low).mul_(1 / (high - low)).clamp_(0, 1).to(dtype)) for low, high in windows_hu]
    planes = torch.stack(shown, dim=1)
    # Each group is three slices that lie one after another: a view, of which channels last makes the only copy.
    count, windows, rows, columns = len(planes) - 2, *planes.shape[1:]
    groups = planes.as_strided((count, 3 * windows, rows, columns), planes.stride())
    return groups.contiguous(memory_format=torch.channels_last)


def _head(channels: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, hidden, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, out, 1))
