"""Batches shrink when memory runs out, with the same answers."""

import logging
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from harvester.config.models import GeneratorSettings, GridSettings
from harvester.config.settings import Settings
from harvester.errors import StepError
from harvester.models.batch_size import AutoBatchSize
from harvester.models.device import DeviceSpec
from harvester.proposals import detect
from harvester.proposals.detect import find_boxes, prepare_for_inference
from harvester.proposals.network import CONTEXT, Generator
from harvester.store.slab import GridFrame
from tests.model import little_memory

FLOAT = DeviceSpec(torch.device("cpu"), torch.float32)
GRID = GridSettings(spacing_zyx_mm=(2.0, 1.0, 1.0), windows_hu=((-1024.0, 1024.0),))
SETTINGS = Settings(
    grid=GRID, generator=GeneratorSettings(channels=16, head_channels=8, body_mask=False, score_floor=0.02, top_k=5)
)
FRAME = GridFrame("v", (9, 64, 64), (2.0, 1.0, 1.0), (2.0, 1.0, 1.0))


def test_spans_cover_everything_once() -> None:
    for count in (0, 1, 7, 8, 9):
        parts = []
        for span in AutoBatchSize("things", 4).spans(count):
            with span:
                parts.append((span.start, span.stop))
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
def test_a_batch_that_does_not_fit_is_halved_for_good(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    batch, tried = AutoBatchSize("slices", 8), []

    done: list[int] = []
    with caplog.at_level(logging.WARNING):
        for span in batch.spans(9):
            with span:
                tried.append(span.stop - span.start)
                if span.stop - span.start > 3:
                    raise error
                done += range(span.start, span.stop)
    assert done == list(range(9))
    assert tried == [8, 4, 2, 2, 2, 2, 1]
    assert batch.size == 2
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory: on with 4 slices at once, not 8",
        "out of memory: on with 2 slices at once, not 4",
    ]


@pytest.mark.parametrize(
    ("error", "named"), [(torch.OutOfMemoryError("no room\nand more"), "no room"), (MemoryError(), "MemoryError")]
)
def test_what_does_not_fit_alone_is_told_with_its_cause(error: BaseException, named: str) -> None:
    def work() -> None:
        for span in AutoBatchSize("slices", 2).spans(3):
            with span:
                raise error

    words = rf"not even one of the slices fits into memory.*max_side_px.*what failed: {named}$"
    with pytest.raises(StepError, match=words) as raised:
        work()
    assert raised.value.__cause__ is error


def test_another_error_is_raised_as_it_is() -> None:
    batch = AutoBatchSize("slices", 2)
    with pytest.raises(RuntimeError, match="shapes differ"), next(batch.spans(1)):
        raise RuntimeError("shapes differ")
    assert batch.size == 2


def model_and_slab() -> tuple[Generator, torch.Tensor]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    hu = rng.integers(-900, 900, (9 + 2 * CONTEXT, 64, 64), dtype=np.int16)
    return prepare_for_inference(Generator(SETTINGS.generator, GRID), FLOAT), torch.from_numpy(hu)


def test_a_volume_that_runs_out_of_memory_has_the_same_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, slab = model_and_slab()
    expected = find_boxes([model], slab, FRAME, SETTINGS, FLOAT, AutoBatchSize("slices", 9))
    assert len(expected.z) > 20
    real, calls = detect.best_peaks, []

    def little_room(outputs: dict[str, torch.Tensor], *given: int) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(outputs["heat"]))
        # Once the features are there, at the last moment: nothing of the failed batch may be left behind.
        if len(outputs["heat"]) > 2:
            raise torch.OutOfMemoryError("no room")
        return real(outputs, *given)

    monkeypatch.setattr(detect, "best_peaks", little_room)
    got = find_boxes([model], slab, FRAME, SETTINGS, FLOAT, AutoBatchSize("slices", 9))
    assert calls == [9, 4, 2, 2, 2, 2, 1]
    np.testing.assert_array_equal(got.z, expected.z)
    np.testing.assert_allclose(got.boxes_xyxy, expected.boxes_xyxy, atol=1e-4)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-6)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its own memory as Linux does")
def test_a_process_with_little_memory_goes_on_with_smaller_batches() -> None:
    # Less and less: who says that there is none, PyTorch or oneDNN, hangs on the limit and on the processor.
    limits = ("160", "120", "60")
    done = subprocess.run(
        [sys.executable, little_memory.__file__, *limits],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("out of memory: on with 32 slices at once, not 64") == len(limits)
    assert done.stdout.count("same boxes\n") == len(limits), done.stdout


def test_a_batch_grows_once_by_what_a_first_one_took_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 slices took 8 MiB; 40 MiB are free, 8 more are reserved and unused: half of them hold 24 slices."""
    mib = 2**20
    taken = {"max_memory_allocated": 8 * mib, "memory_reserved": 10 * mib, "memory_allocated": 2 * mib}
    for name, size in taken.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, size=size: size)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (40 * mib, 80 * mib))

    def lengths(batch: AutoBatchSize, count: int) -> list[int]:
        came = []
        for span in batch.spans(count):
            with span:
                came.append(span.stop - span.start)
        return came

    gpu = torch.device("cuda")
    assert lengths(AutoBatchSize("slices", 8, 128, gpu), 60) == [8, 24, 24, 4]
    assert lengths(AutoBatchSize("slices", 8, 16, gpu), 60) == [8, 16, 16, 16, 4]
    assert lengths(AutoBatchSize("slices", 8, 0, gpu), 20) == [8, 8, 4]
    assert lengths(AutoBatchSize("slices", 8, 128), 20) == [8, 8, 4]
