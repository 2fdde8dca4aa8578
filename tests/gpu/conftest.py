"""Stores as tests/model makes them; without a GPU every test here is skipped."""

import os
from collections.abc import Iterator

import pytest
import torch

from harvester.models.device import DeviceSpec
from tests.model.conftest import frames_of, make_store  # noqa: F401


@pytest.fixture
def spec() -> Iterator[DeviceSpec]:
    """The GPU in full float32: TF32 products would differ from a CPU's in the fourth digit.

    HARVESTER_TEST_DEVICE=cpu rehearses the tests themselves, which proves nothing of a GPU.
    """
    device = torch.device(os.environ.get("HARVESTER_TEST_DEVICE", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield DeviceSpec(device, torch.float32)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def cuda(spec: DeviceSpec) -> DeviceSpec:
    """The same, for what only a GPU has: no rehearsal."""
    if spec.device.type != "cuda":
        pytest.skip("memory of a GPU is what this is about")
    return spec
