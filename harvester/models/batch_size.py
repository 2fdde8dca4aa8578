"""A model takes as much at once as its device's memory has room for."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from harvester.errors import StepError
from harvester.models.memory import out_of_memory

logger = logging.getLogger(__name__)

MEMORY_SHARE: Final = 0.5
"""Of what is free, the share that a batch may plan with: fragments and other models need the rest."""


class AutoBatchSize:
    """How many items a model takes at once: on a GPU as many as it has room for, halved when memory runs out.

    size    the count to try next
    most    it never grows beyond this, by what is free on `gpu` once a first batch went through it
    """

    def __init__(self, what: str, size: int, most: int = 0, gpu: torch.device | None = None) -> None:
        self.what, self.size, self.most, self.gpu = what, max(1, size), most, gpu
        self.settled = gpu is None or most <= size

    def spans(self, count: int) -> Iterator["Span"]:
        """[0, count) span by span, each to be worked on in a `with`; none for a count of 0.

        Work that runs out of memory is not raised: the span comes again in halves. It must leave nothing behind then.
        """
        start = 0
        while start < count:
            span = Span(start, min(count, start + self.size), self)
            yield span
            start = span.stop if span.done else start

    def halve(self, error: BaseException) -> None:
        """Try half as many, for good. Raises StepError where one alone does not fit."""
        if self.size == 1:
            raise StepError(
                f"not even one of the {self.what} fits into memory; take a smaller grid.max_side_px, a smaller "
                "network, or fewer replicas on a device (compute.gpus_per_replica); what failed: "
                f"{str(error).split(chr(10), 1)[0][:160] or type(error).__name__}"
            ) from error
        self.size //= 2
        self.settled = True
        logger.warning("out of memory: on with %d %s at once, not %d", self.size, self.what, 2 * self.size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def learn(self, items: int) -> None:
        """After the first `items` went through a GPU: as many as its free memory has room for, once and for all."""
        if self.settled:
            return
        each = torch.cuda.max_memory_allocated(self.gpu) / items
        free, _ = torch.cuda.mem_get_info(self.gpu)
        reusable = torch.cuda.memory_reserved(self.gpu) - torch.cuda.memory_allocated(self.gpu)
        self.size = int(min(self.most, max(items, MEMORY_SHARE * (free + reusable) / each)))
        self.settled = True


@dataclass
class Span:
    """Items [start, stop), done once a `with` on it was left without an error."""

    start: int
    stop: int
    batch: AutoBatchSize
    done: bool = False

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        """Whether the error was one of memory, which the batch size has learnt from."""
        self.done = error is None
        if error is None:
            self.batch.learn(self.stop - self.start)
        elif out_of_memory(error):
            self.batch.halve(error)
            return True
        return False
