"""A model takes as much at once as its device's memory has room for."""

import logging
from collections.abc import Iterator
from types import TracebackType
from typing import Final

import torch

from harvester.errors import StepError
from harvester.models.device import DeviceSpec
from harvester.models.memory import out_of_memory

logger = logging.getLogger(__name__)

MEMORY_SHARE: Final = 0.5
"""Of what is free, the share that a batch may plan with: fragments and other models need the rest."""


class AutoBatchSize:
    """How many items a model takes at once: on a GPU as many as it has room for, halved when memory runs out.

    size    the count to try next
    most    it never grows beyond this
    """

    def __init__(self, what: str, size: int, most: int = 0) -> None:
        self.what, self.size, self.most = what, max(1, size), most
        self.settled = most <= size

    def spans(self, count: int, spec: DeviceSpec) -> Iterator["Span"]:
        """[0, count) span by span, each to be worked on in a `with`; none for a count of 0.

        Work that runs out of memory is not raised: the span comes again in halves. It must leave nothing behind then.
        """
        start = 0
        while start < count:
            span = Span(start, min(count, start + self.size), self, spec)
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

    def learn(self, spec: DeviceSpec, items: int) -> None:
        """After the first `items` went through a GPU: as many as its free memory has room for, once and for all."""
        if self.settled or spec.device.type != "cuda":
            return
        each = torch.cuda.max_memory_allocated(spec.device) / items
        free, _ = torch.cuda.mem_get_info(spec.device)
        reusable = torch.cuda.memory_reserved(spec.device) - torch.cuda.memory_allocated(spec.device)
        self.size = int(min(self.most, max(items, MEMORY_SHARE * (free + reusable) / each)))
        self.settled = True


class Span:
    """Items [start, stop), done once a `with` on it was left without an error."""

    def __init__(self, start: int, stop: int, batch: AutoBatchSize, spec: DeviceSpec) -> None:
        self.start, self.stop, self.batch, self.spec, self.done = start, stop, batch, spec, False

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        """Whether the error was one of memory, which the batch size has learnt from."""
        if error is None:
            self.done = True
            self.batch.learn(self.spec, self.stop - self.start)
            return False
        if not out_of_memory(error):
            return False
        self.batch.halve(error)
        return True
