"""A volume's grid slices on the device that works on them: copied once, as whole HU, two bytes a voxel."""

import torch
from torch import Tensor

from harvester.volumes.locations import Where
from harvester.volumes.slab import GridFrame, read_slab


def read_resident(store: Where, frame: GridFrame, z_start: int, z_end: int, device: torch.device) -> Tensor:
    """read_slab's answer, int16 HU (z, y, x), on the device."""
    return torch.from_numpy(read_slab(store, frame, z_start, z_end)).to(device)
