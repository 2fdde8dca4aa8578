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
    r"|bad_alloc",  # C++
    re.IGNORECASE,
)
OF_ONEDNN: Final = re.compile(r"could not (?:create|execute) a (?:primitive|memory(?! descriptor))")
"""It does not say why: the same words tell what it does not support."""


def out_of_memory(error: BaseException, unclear: bool = True) -> bool:
    """Whether a device or the machine had no room: MemoryError, ENOMEM, or a RuntimeError that says so in its words.

    unclear     whether oneDNN's words count. Who halves a batch takes them for memory, and where one item alone fails
                ends with an error that names this one.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        text = str(error)
        said = WORDINGS.search(text) or (unclear and OF_ONEDNN.search(text))
        return isinstance(error, torch.OutOfMemoryError) or bool(said)
    return isinstance(error, MemoryError)
