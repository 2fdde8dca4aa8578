"""The small backbone at widths and sizes at which torch's own strided 1x1 convolution overruns its memory on a CPU."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from harvester.models.backbones import Residual, build_backbone

STEPS = """
import sys, torch
from harvester.models.backbones import build_backbone
model = build_backbone("small", 9, int(sys.argv[1])).to(memory_format=torch.channels_last)
for _ in range(6):
    images = torch.rand(2, 9, 256, 256).to(memory_format=torch.channels_last)
    sum(each.square().mean() for each in model(images)).backward()
print("lives")
"""


@pytest.mark.parametrize("width", [8, 24])
def test_a_narrow_backbone_learns_on_slices_of_real_size(width: int) -> None:
    # In a process of its own: what it would overrun is the heap.
    done = subprocess.run([sys.executable, "-c", STEPS, str(width)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "lives\n"), done.stderr


def test_a_strided_shortcut_is_the_strided_convolution() -> None:
    torch.manual_seed(0)
    block, x = Residual(32, 64, 2).eval(), torch.rand(2, 32, 17, 24)
    shortcut = block.shortcut
    assert isinstance(shortcut, nn.Sequential)
    strided = nn.Conv2d(32, 64, 1, 2, bias=False)
    strided.load_state_dict(shortcut[0].state_dict())
    torch.testing.assert_close(block(x), torch.relu(block.body(x) + shortcut[1](strided(x))))


def test_maps_lie_at_strides_4_8_and_16() -> None:
    maps = build_backbone("small", 3, 8)(torch.rand(1, 3, 64, 96))
    assert [tuple(each.shape[-2:]) for each in maps] == [(16, 24), (8, 12), (4, 6)]
