"""Keeping a device busy: reads run ahead of it, and it takes as much at once as its memory has room for."""

import logging
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import torch

from harvester.errors import StepError
from harvester.models.device import Place

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

MEMORY_SHARE: Final = 0.5
"""Of what is free, the share that a batch may plan with: fragments and other models need the rest."""
READERS_OF_A_GPU: Final = 3
SAID_BY_THE_CPU: Final = ("can't allocate memory", "not enough memory")
"""PyTorch's CPU allocator raises a plain RuntimeError; its text tells it from others."""


class BatchSize:
    """How many items a model takes at once: on a GPU as many as it has room for, halved when memory runs out.

    size    the count to try next
    most    it never grows beyond this
    """

    def __init__(self, what: str, size: int, most: int = 0) -> None:
        self.what, self.size, self.most = what, max(1, size), most
        self.settled = most <= size

    def halve(self, error: BaseException) -> None:
        """Try half as many, for good. Raises StepError where one alone does not fit."""
        if self.size == 1:
            raise StepError(
                f"not even one of the {self.what} fits into memory; take a smaller grid.max_side_px, a smaller "
                "network, or fewer replicas on a device (compute.gpus_per_replica)"
            ) from error
        self.size //= 2
        self.settled = True
        logger.warning("out of memory: on with %d %s at once, not %d", self.size, self.what, 2 * self.size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def learn(self, place: Place, items: int) -> None:
        """After the first `items` went through a GPU: as many as its free memory has room for, once and for all."""
        if self.settled or place.device.type != "cuda":
            return
        each = torch.cuda.max_memory_allocated(place.device) / items
        free, _ = torch.cuda.mem_get_info(place.device)
        reusable = torch.cuda.memory_reserved(place.device) - torch.cuda.memory_allocated(place.device)
        self.size = int(min(self.most, max(items, MEMORY_SHARE * (free + reusable) / each)))
        self.settled = True


def in_batches(count: int, batch: BatchSize, work: Callable[[int, int], R]) -> Iterator[R]:
    """work(start, stop) over [0, count) in batches; one that runs out of memory is done again in halves.

    `work` must leave nothing behind when it fails. Nothing to do yields nothing.
    """
    start = 0
    while start < count:
        stop = min(count, start + batch.size)
        try:
            result = work(start, stop)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            batch.halve(error)
            continue
        yield result
        start = stop


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no room, as PyTorch and Python say it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID_BY_THE_CPU)
