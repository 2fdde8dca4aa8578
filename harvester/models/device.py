"""Where and how a network runs: device, precision, memory layout."""

import resource
import socket
from dataclasses import dataclass

import torch
from torch import nn

from harvester.errors import SettingsError


@dataclass(frozen=True)
class DeviceSpec:
    """Where the arithmetic runs and in which precision (torch's autocast)."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def choose(cls, gpu: bool, precision: str) -> "DeviceSpec":
        """precision `auto` is the fast one. Raises SettingsError where a GPU is asked for and torch sees none."""
        if gpu and not torch.cuda.is_available():
            why = "sees no device and driver" if torch.version.cuda else "is built without CUDA"
            raise SettingsError(
                f"a GPU is asked for (compute.gpus_per_replica, compute.train_gpu), but torch {torch.__version__} on "
                f"{socket.gethostname()} {why}: see to its driver, or set them to 0 and false to work on CPUs"
            )
        chosen = fast_precision(gpu) if precision == "auto" else precision
        return cls(torch.device("cuda" if gpu else "cpu"), torch.bfloat16 if chosen == "bfloat16" else torch.float32)

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


def fast_precision(gpu: bool) -> str:
    """bfloat16 on a GPU or, asked of this machine, a CPU with AMX tiles, where it is faster; else float32."""
    return "bfloat16" if gpu or torch.cpu._is_amx_tile_supported() else "float32"


def describe() -> tuple[list[str], str]:
    """The names of the GPUs that torch sees, and the precision that `auto` takes."""
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return names, fast_precision(bool(names))
