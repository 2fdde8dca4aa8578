"""Reads run ahead and errors arrive where they belong; batches shrink when memory runs out, with the same answers."""

import logging
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from harvester.config.settings import GeneratorSettings, GridSettings, Settings
from harvester.errors import StepError
from harvester.models.batch_size import BatchSize, in_batches, out_of_memory
from harvester.models.device import Place
from harvester.models.prefetch import ahead
from harvester.proposals import detect as finding
from harvester.proposals.detect import find_boxes, ready
from harvester.proposals.network import CONTEXT, Generator
from harvester.store.slab import GridFrame

FLOAT = Place(torch.device("cpu"), torch.float32)
GRID = GridSettings(spacing_zyx_mm=(2.0, 1.0, 1.0), windows_hu=((-1024.0, 1024.0),))
SETTINGS = Settings(
    grid=GRID,
    generator=GeneratorSettings(channels=16, head_channels=8, body_mask=False, score_floor=0.02, top_k=5),
)
FRAME = GridFrame("v", (9, 64, 64), (2.0, 1.0, 1.0), (2.0, 1.0, 1.0))


def test_a_read_runs_while_the_caller_works() -> None:
    begun: list[int] = []
    second = threading.Event()

    def read(item: int) -> int:
        begun.append(item)
        if item == 1:
            second.set()
        return 10 * item

    for item, value in ahead(range(4), read):
        # The next item's read needs no call of the consumer's: it has begun, or would never.
        assert item or second.wait(10)
        assert value.result() == 10 * item
        assert len(begun) <= item + 2
    assert begun == [0, 1, 2, 3]
    assert list(ahead([], read)) == []


def test_a_failed_read_is_its_own_items_alone() -> None:
    told = [
        (item, value.exception() is None) for item, value in ahead([1, 0, 2], lambda item: 1 / item, count=2)
    ]
    assert told == [(1, True), (0, False), (2, True)]


def test_batches_cover_everything_once() -> None:
    for count in (0, 1, 7, 8, 9):
        parts = list(in_batches(count, BatchSize("things", 4), lambda start, stop: (start, stop)))
        assert [at for start, stop in parts for at in range(start, stop)] == list(range(count))
        assert all(a[1] == b[0] for a, b in pairwise(parts))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_for_good(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    batch, tried = BatchSize("slices", 8), []

    def work(start: int, stop: int) -> list[int]:
        tried.append(stop - start)
        if stop - start > 3:
            raise error
        return list(range(start, stop))

    with caplog.at_level(logging.WARNING):
        parts = list(in_batches(9, batch, work))
    assert [at for part in parts for at in part] == list(range(9))
    assert tried == [8, 4, 2, 2, 2, 2, 1]
    assert batch.size == 2
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory: on with 4 slices at once, not 8",
        "out of memory: on with 2 slices at once, not 4",
    ]


def test_what_does_not_fit_alone_or_is_another_error_is_told() -> None:
    def full(start: int, stop: int) -> None:
        raise torch.OutOfMemoryError("no room")

    def wrong(start: int, stop: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(StepError, match=r"not even one of the slices fits into memory.*max_side_px"):
        list(in_batches(3, BatchSize("slices", 2), full))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(in_batches(3, BatchSize("slices", 2), wrong))
    assert not out_of_memory(RuntimeError("shapes differ"))


def model_and_slab() -> tuple[Generator, torch.Tensor]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    hu = rng.integers(-900, 900, (9 + 2 * CONTEXT, 64, 64), dtype=np.int16)
    return ready(Generator(SETTINGS.generator, GRID), FLOAT), torch.from_numpy(hu)


def test_a_volume_that_runs_out_of_memory_has_the_same_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, slab = model_and_slab()
    expected = find_boxes([model], slab, FRAME, SETTINGS, FLOAT, BatchSize("slices", 9))
    assert len(expected.z) > 20
    real, calls = finding.best_peaks, []

    def little_room(outputs: dict[str, torch.Tensor], top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(outputs["heat"]))
        # Once the features are there, at the last moment: nothing of the failed batch may be left behind.
        if len(outputs["heat"]) > 2:
            raise torch.OutOfMemoryError("no room")
        return real(outputs, top_k)

    monkeypatch.setattr(finding, "best_peaks", little_room)
    got = find_boxes([model], slab, FRAME, SETTINGS, FLOAT, BatchSize("slices", 9))
    assert calls == [9, 4, 2, 2, 2, 2, 1]
    np.testing.assert_array_equal(got.z, expected.z)
    np.testing.assert_allclose(got.boxes_xyxy, expected.boxes_xyxy, atol=1e-4)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-6)


LIMITED = """
import logging, resource, sys, torch
logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from harvester.config import GeneratorSettings, GridSettings, Settings
from harvester.feeding import BatchSize
from harvester.fitting import Place
from harvester.proposals.finding import find_boxes, ready
from harvester.proposals.network import CONTEXT, Generator
from harvester.volumes.slab import GridFrame

grid = GridSettings(windows_hu=((-1024.0, 1024.0),))
settings = Settings(grid=grid, generator=GeneratorSettings(body_mask=False, score_floor=0.02, top_k=5))
torch.manual_seed(0)
place = Place(torch.device("cpu"), torch.float32)
model = ready(Generator(settings.generator, grid), place)
slab = torch.randint(-900, 900, (64 + 2 * CONTEXT, 256, 256), dtype=torch.int16)
frame = GridFrame("v", (64, 256, 256), (2.0, 1.0, 1.0), (2.0, 1.0, 1.0))
free = find_boxes([model], slab, frame, settings, place, BatchSize("slices", 2))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)
tight = find_boxes([model], slab, frame, settings, place, BatchSize("slices", 64))
assert (tight.z == free.z).all() and len(tight.z) > 100
assert abs(tight.boxes_xyxy - free.boxes_xyxy).max() < 1e-3
assert abs(tight.scores - free.scores).max() < 1e-5
print("same boxes")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its own memory as Linux does")
def test_a_process_with_little_memory_goes_on_with_smaller_batches() -> None:
    here = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(here), "160"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "out of memory: on with 32 slices at once, not 64" in done.stdout
    assert done.stdout.endswith("same boxes\n")
