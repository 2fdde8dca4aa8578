"""How Python and the libraries under a network say that there was no memory. Loads no torch: preparation asks too."""

import errno
import re
from typing import Final

from harvester.errors import HarvesterError, StepError, StoreError

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

    So does what fails while such an error is handled: torch.fx imports half of torch to tell where one came from.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, HarvesterError):
        if _says_so(seen, unclear):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


def _says_so(error: BaseException, unclear: bool) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError | ImportError):  # a shared library takes room as well
        text = str(error)
        said = WORDINGS.search(text) or (unclear and OF_ONEDNN.search(text))
        return type(error).__name__ == "OutOfMemoryError" or bool(said)  # torch's own
    return isinstance(error, MemoryError)


def require_memory(volume_id: str, error: Exception | None) -> None:
    """Raise StepError where a volume failed for want of memory, perhaps while the store was read: not its own fault."""
    cause = error.__cause__ if isinstance(error, StoreError) else error
    if cause and out_of_memory(cause, unclear=False):
        raise StepError(
            f"volume {volume_id}: no memory was left ({type(cause).__name__}); take fewer replicas per machine "
            "(compute.replicas, compute.memory_gib_per_replica), then start the same command again: what is finished "
            "is kept"
        ) from error
