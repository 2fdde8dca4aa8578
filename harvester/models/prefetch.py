"""Reads run ahead of the device that waits for them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:  # which loads torch
    from harvester.models.device import DeviceSpec

T = TypeVar("T")
R = TypeVar("R")

READERS_OF_A_GPU: Final = 3


def readers(spec: "DeviceSpec", setting: int | None = None) -> int:
    """How many volumes are read ahead: a core decodes about 1,500 slices of 512 x 512 per second, a GPU takes more."""
    return setting or (READERS_OF_A_GPU if spec.device.type == "cuda" else 1)


def prefetch(items: Iterable[T], read: Callable[[T], R], count: int = 1) -> Iterator[tuple[T, Future[R]]]:
    """Each item with its read, at most `count` of which run or wait ahead, a thread each, while the caller works.

    A read that fails raises where the caller asks its future for the result.
    """
    with ThreadPoolExecutor(count) as reader:
        started: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            started.append((item, reader.submit(read, item)))
            if len(started) > count:
                yield started.popleft()
        yield from started
