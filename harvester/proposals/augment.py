"""From a slab of HU to what the network sees, on the device that trains: cut, made noisy, windowed.

The items of a data loader carry HU as they are stored, two bytes per voxel, and what was drawn for them; the arithmetic
over voxels is the device's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from harvester.models.device_slab import mixed

Raw = dict[str, Any]
"""hu (z, y, x) int16; rows, columns: taps of the crop (device_slab.as_tensors); noise: where its stretch begins, or
empty; noise_hu, shift_hu: of what strength, and a shift."""


def to_network_input(raw: Raw, noise: Tensor, windows_hu: Sequence[tuple[float, float]]) -> Tensor:
    """(windows, z, y, x) float32 in [0, 1]; `noise` is a long draw of standard deviation 1, on the same device."""
    cut = mixed(mixed(raw["hu"], raw["rows"], 1), raw["columns"], 2)
    hu = cut.float()
    if len(raw["noise"]):
        # Drawing fresh noise for every voxel took a tenth of a training step: a stretch of one long draw serves.
        at = raw["noise"] + torch.arange(hu.numel(), device=hu.device)
        hu = hu + noise[at % len(noise)].view_as(hu) * raw["noise_hu"] + raw["shift_hu"]
    return torch.stack([((hu - low) * (1 / (high - low))).clamp(0, 1) for low, high in windows_hu])


def collate(items: list[tuple[Raw, dict[str, Tensor]]]) -> tuple[list[Raw], dict[str, Tensor]]:
    """A batch: raw slabs of different sizes side by side, targets stacked."""
    return [raw for raw, _ in items], default_collate([targets for _, targets in items])
