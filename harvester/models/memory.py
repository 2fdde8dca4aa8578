"""How Python and the libraries under a network say that there was no memory."""

import errno
import re
from typing import Final

import torch

WORDINGS: Final = re.compile(
    r"out of memory"  # CUDA, HIP, NCCL, NNPACK
    r"|not enough memory"  # PyTorch's CPU allocator, MKL, LAPACKE
    r"|(?:can't|cannot|could not|couldn't|unable to|failed to) (?:allocate|mmap|malloc) [\w ]*(?:memory|bytes)"
    r"|failed to cuda \w*alloc"  # NCCL
    r"|alloc(?:ation)?_failed"  # cuBLAS, cuDNN, cuFFT, cuSOLVER, cuSPARSE
    r"|bad_alloc"  # C++
    r"|could not (?:create|execute) a (?:primitive|memory(?! descriptor))",
    re.IGNORECASE,
)
"""The last line is oneDNN's, which does not say why. It is taken for memory, though what it does not support reads the
same: who halves a batch until one alone fails ends with an error that names this one."""


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no room: MemoryError, ENOMEM, or a RuntimeError that says so in its words."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return isinstance(error, torch.OutOfMemoryError) or bool(WORDINGS.search(str(error)))
    return isinstance(error, MemoryError)
