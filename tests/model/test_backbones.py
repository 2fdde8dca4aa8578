"""Widths and sizes at which torch's own strided 1x1 convolution overruns its memory on a CPU: no backbone has one."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from harvester.models.acceleration import accelerated
from harvester.models.backbones import Residual, build_backbone

WIDTHS = (8, 12, 24, 48)
STEPS = """
import sys, torch
from harvester.config.models import GeneratorSettings, GridSettings
from harvester.models.device import DeviceSpec
from harvester.proposals.network import CONTEXT, Generator
torch.set_num_threads(1)
for precision in ("float32", "bfloat16"):
    spec = DeviceSpec.choose(False, precision)
    for width in map(int, sys.argv[1:]):
        model = spec.move_model(Generator(GeneratorSettings(width=width), GridSettings())).train()
        for step in range(10):
            with spec.autocast():
                maps = model(torch.rand(2, 3, 1 + 2 * CONTEXT, 128, 128))
                loss = sum(each.float().square().mean() for each in maps.values())
            loss.backward()
        print(width, bool(loss.isfinite()))
"""


def test_a_generator_of_any_width_learns_on_slices_of_real_size() -> None:
    # In a process of its own: what it would overrun is the heap.
    given = [sys.executable, "-c", STEPS, *map(str, WIDTHS)]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "".join(f"{width} True\n" for width in WIDTHS) * 2), done.stderr


@pytest.mark.parametrize("backbone", ["small", "resnet18", "resnet50", "densenet121"])
def test_no_backbone_has_a_strided_1x1_convolution(backbone: str) -> None:
    convolutions = [each for each in build_backbone(backbone, 9, 8).modules() if isinstance(each, nn.Conv2d)]
    assert len(convolutions) > 10
    assert [each for each in convolutions if each.kernel_size == (1, 1) and each.stride != (1, 1)] == []


def test_a_strided_shortcut_is_the_strided_convolution() -> None:
    torch.manual_seed(0)
    block, x = Residual(32, 64, 2).eval(), torch.rand(2, 32, 17, 24)
    shortcut = block.shortcut
    assert isinstance(shortcut, nn.Sequential)
    strided = nn.Conv2d(32, 64, 1, 2, bias=False)
    strided.load_state_dict(shortcut[0].state_dict())
    torch.testing.assert_close(block(x), torch.relu(block.body(x) + shortcut[1](strided(x))))


@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_torchvisions_network_answers_as_before_its_batch_norms_folded_too(network: str) -> None:
    torch.manual_seed(0)
    whole = get_model(network)
    ours, images = build_backbone(network, 3, 8).eval(), torch.rand(1, 3, 72, 104)
    parts = [*list(whole.children())[:4], whole.layer1, whole.layer2, whole.layer3]
    values = nn.Sequential(*parts).state_dict().values()
    ours.stages.load_state_dict(dict(zip(ours.stages.state_dict(), values, strict=True)))
    with torch.inference_mode():
        expected = nn.Sequential(*parts).eval()(images)
        torch.testing.assert_close(ours(images)[-1], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(accelerated(ours)(images)[-1], expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in accelerated(ours).modules())


def test_maps_lie_at_strides_2_to_16() -> None:
    maps = build_backbone("small", 3, 8)(torch.rand(1, 3, 64, 96))
    assert [tuple(each.shape[-2:]) for each in maps] == [(32, 48), (16, 24), (8, 12), (4, 6)]
