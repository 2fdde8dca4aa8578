"""Reads run ahead, and errors arrive where they belong."""

import threading

import torch

from harvester.models.device import DeviceSpec
from harvester.models.prefetch import READERS_OF_A_GPU, prefetch, readers


def test_a_read_runs_while_the_caller_works() -> None:
    begun: list[int] = []
    second = threading.Event()

    def read(item: int) -> int:
        begun.append(item)
        if item == 1:
            second.set()
        return 10 * item

    for item, value in prefetch(range(4), read):
        # The next item's read needs no call of the consumer's: it has begun, or would never.
        assert item or second.wait(60)
        assert value.result() == 10 * item
        assert len(begun) <= item + 2
    assert begun == [0, 1, 2, 3]
    assert list(prefetch([], read)) == []


def test_a_failed_read_is_its_own_items_alone() -> None:
    came = [(item, value.exception() is None) for item, value in prefetch([1, 0, 2], lambda item: 1 / item, count=2)]
    assert came == [(1, True), (0, False), (2, True)]


def test_a_gpu_has_more_readers_unless_a_setting_says_how_many() -> None:
    cpu, gpu = (DeviceSpec(torch.device(name), torch.float32) for name in ("cpu", "cuda"))
    assert (readers(cpu), readers(gpu), readers(cpu, 5), readers(gpu, 1)) == (1, READERS_OF_A_GPU, 5, 1)
