"""Where and how a network runs: device, precision, memory layout."""

import resource
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class DeviceSpec:
    """Where the arithmetic runs and in which precision (torch's autocast)."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def choose(cls, gpu: bool, precision: str) -> "DeviceSpec":
        """precision `auto`: bfloat16 on a GPU or a CPU with AMX tiles, where it is faster; else float32."""
        device = torch.device("cuda" if gpu and torch.cuda.is_available() else "cpu")
        if precision == "auto":
            fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
            precision = "bfloat16" if fast else "float32"
        return cls(device, torch.bfloat16 if precision == "bfloat16" else torch.float32)

    def autocast(self) -> torch.autocast:
        """The context for forward passes and losses."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def move_model(self, model: nn.Module) -> nn.Module:
        """The model itself, moved to the device with channels last, the layout convolutions are fastest in."""
        return model.to(self.device).to(memory_format=torch.channels_last)

    def memory_mib(self) -> float:
        """The most memory so far: what tensors held on the GPU, or this process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def describe() -> tuple[list[str], str]:
    """The names of the GPUs that torch sees, and the precision that `auto` takes."""
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return names, str(DeviceSpec.choose(bool(names), "auto").dtype).removeprefix("torch.")
