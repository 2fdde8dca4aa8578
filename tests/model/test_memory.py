"""Each library's way to say that there was no memory is known, and no other error is taken for it."""

import errno
import mmap

import numpy as np
import pyarrow as pa
import pytest
import torch

from harvester.errors import StepError
from harvester.models.memory import out_of_memory

NO_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.72 GiB",
    "HIP out of memory. Tried to allocate 20.00 MiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "18874368 bytes. Error code 12 (Cannot allocate memory)",
    "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 4096",
    "unable to mmap 4096 bytes from file </weights.safetensors>: Cannot allocate memory (12)",
    "unable to allocate shared memory(shm) for file </torch_7_3>: Cannot allocate memory (12)",
    "$ Torch: unable to mmap memory: you tried to mmap 64GB.",
    "could not create a primitive",
    "could not create a primitive descriptor for the convolution forward propagation primitive. Run workload with "
    "environment variable ONEDNN_VERBOSE=all to get additional diagnostic information.",
    "could not execute a primitive",
    "could not create a memory object",
    "MKL FFT error: Intel oneMKL DFTI ERROR: Not enough memory to allocate",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "NCCL error in: NCCLUtils.hpp:268, unhandled cuda error\nncclUnhandledCudaError: Call to CUDA function failed.\n"
    "Last error:\nCuda failure 2 'out of memory'",
    "NCCL error: unhandled cuda error\nLast error:\nFailed to CUDA calloc async 6291456 bytes",
    "std::bad_alloc",
)  # fmt: skip
OTHERWISE = (
    "shapes differ",
    "CUDA error: an illegal memory access was encountered",
    "required rank 4 tensor to use channels_last memory format",
    "Trying to create tensor with negative dimension -1: [-1]",
    "Storage size calculation overflowed with sizes=[4611686018427387904]",
    "some elements of the input tensor and the written-to tensor refer to a single memory location",
    "could not create a memory descriptor from blob",
    "could not create a temporary file",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    "NCCL error: unhandled cuda error\nLast error:\nCuda failure 1 'invalid argument'",
    "MKL FFT error: Intel oneMKL DFTI ERROR: Inconsistent configuration parameters",
    "Given groups=1, weight of size [8, 3, 3, 3], expected input[1, 4, 8, 8] to have 3 channels",
    "can't start new thread",
)  # fmt: skip


@pytest.mark.parametrize("words", NO_MEMORY)
def test_a_librarys_words_for_no_memory_are_known(words: str) -> None:
    assert out_of_memory(RuntimeError(words))


@pytest.mark.parametrize("words", OTHERWISE)
def test_another_error_is_not_taken_for_memory(words: str) -> None:
    assert not out_of_memory(RuntimeError(words))


def test_onednns_words_may_mean_what_it_does_not_support() -> None:
    primitive = RuntimeError("could not create a primitive descriptor for the matmul primitive")
    assert out_of_memory(primitive)
    assert not out_of_memory(primitive, unclear=False)
    assert out_of_memory(RuntimeError("std::bad_alloc"), unclear=False)


def test_classes_that_mean_no_memory_need_no_words() -> None:
    for error in (MemoryError(), torch.OutOfMemoryError("full"), pa.ArrowMemoryError("malloc of size 64 failed")):
        assert out_of_memory(error)
    assert out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not out_of_memory(OSError(errno.ENOSPC, "No space left on device"))
    assert not out_of_memory(ValueError("out of memory"))
    assert not out_of_memory(KeyError("std::bad_alloc"))


def test_what_libraries_raise_today_is_known() -> None:
    too_much = 2**60
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(too_much, np.uint8)
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(too_much, dtype=torch.uint8)
    with pytest.raises((OSError, MemoryError)) as of_mmap:
        mmap.mmap(-1, too_much)
    with pytest.raises(MemoryError) as of_arrow:
        pa.allocate_buffer(too_much)
    assert [out_of_memory(raised.value) for raised in (of_numpy, of_torch, of_mmap, of_arrow)] == [True] * 4


def raised_while_handling(first: Exception, second: Exception, hidden: bool = False) -> Exception:
    """The second error, as Python leaves it when it is raised in an `except` for the first."""
    second.__context__, second.__suppress_context__ = first, hidden
    return second


def test_what_fails_while_no_memory_is_handled_is_no_memory() -> None:
    # torch.fx imports torch._dynamo to say where a RuntimeError came from, and that import finds no memory either.
    none = RuntimeError(NO_MEMORY[3])
    assert out_of_memory(raised_while_handling(none, SystemError("error return without exception set")))
    assert out_of_memory(raised_while_handling(MemoryError(), KeyError("x")))
    assert not out_of_memory(raised_while_handling(none, KeyError("x"), hidden=True))
    assert not out_of_memory(raised_while_handling(ValueError("x"), KeyError("y")))
    # An error of ours says all that there is to say.
    assert not out_of_memory(raised_while_handling(none, StepError("not even one fits")))


def test_a_library_that_finds_no_room_when_it_is_loaded_is_no_memory() -> None:
    assert out_of_memory(ImportError("libx.so: failed to map segment from shared object: Cannot allocate memory"))
    assert not out_of_memory(ImportError("No module named 'x'"))
