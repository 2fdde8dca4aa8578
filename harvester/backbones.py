"""Feature extractors by name. Each turns images into feature maps at strides 4, 8 and 16.

`small` is for CPUs and made to be trained from nothing; the others are torchvision's, whose ImageNet weights
are taken by `weights: imagenet` and whose first convolution is widened to any number of input channels.
"""

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harvester.errors import SettingsError


class Backbone(nn.Module):
    """Stages run in order; `out_channels` lists the channels of the maps at strides 4, 8, 16."""

    def __init__(self, stages: list[nn.Module], out_channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """(n, channels, y, x) to three maps, finest first."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def build_backbone(name: str, channels_in: int, width: int, weights: str) -> Backbone:
    """The backbone `name` for images of `channels_in` channels; `width` is the small one's base width."""
    if name == "small":
        backbone = _small(channels_in, width)
    elif name == "resnet18":
        backbone = _resnet18(channels_in, weights)
    elif name == "densenet121":
        backbone = _densenet121(channels_in, weights)
    else:
        raise SettingsError(f"backbone {name!r}: want small, resnet18 or densenet121")
    if weights and weights != "imagenet":
        _load_file(backbone, Path(weights))
    return backbone


def _small(channels_in: int, width: int) -> Backbone:
    stem = nn.Sequential(
        nn.Conv2d(channels_in, width // 2, 3, 2, 1, bias=False),
        nn.BatchNorm2d(width // 2),
        nn.ReLU(inplace=True),
        Residual(width // 2, width, 2),
        Residual(width, width, 1),
    )
    middle = nn.Sequential(Residual(width, 3 * width // 2, 2), Residual(3 * width // 2, 3 * width // 2, 1))
    deep = nn.Sequential(Residual(3 * width // 2, 2 * width, 2), Residual(2 * width, 2 * width, 1))
    return Backbone([stem, middle, deep], (width, 3 * width // 2, 2 * width))


def _resnet18(channels_in: int, weights: str) -> Backbone:
    # torchvision takes two seconds to import, in every process: only its own backbones pay.
    from torchvision.models import ResNet18_Weights, resnet18

    net = resnet18(weights=ResNet18_Weights.IMAGENET1K_V1 if weights == "imagenet" else None)
    stem = nn.Sequential(_widened(net.conv1, channels_in), net.bn1, net.relu, net.maxpool, net.layer1)
    return Backbone([stem, net.layer2, net.layer3], (64, 128, 256))


def _densenet121(channels_in: int, weights: str) -> Backbone:
    from torchvision.models import DenseNet121_Weights, densenet121

    net = densenet121(weights=DenseNet121_Weights.IMAGENET1K_V1 if weights == "imagenet" else None)
    part = cast(Any, net.features)
    stem = nn.Sequential(
        _widened(part.conv0, channels_in), part.norm0, part.relu0, part.pool0, part.denseblock1
    )
    middle = nn.Sequential(part.transition1, part.denseblock2)
    deep = nn.Sequential(part.transition2, part.denseblock3)
    return Backbone([stem, middle, deep], (256, 512, 1024))


def _widened(conv: nn.Conv2d, channels_in: int) -> nn.Conv2d:
    """The convolution with its kernels repeated over `channels_in` inputs, and scaled so that grey stays grey."""
    wide = nn.Conv2d(channels_in, conv.out_channels, 7, 2, 3, bias=False)
    repeats = -(-channels_in // 3)
    with torch.no_grad():
        wide.weight.copy_(conv.weight.repeat(1, repeats, 1, 1)[:, :channels_in] * (3 / channels_in))
    return wide


def _load_file(backbone: Backbone, path: Path) -> None:
    if not path.is_file():
        raise SettingsError(
            f"weights {str(path)!r}: no such file; want '', 'imagenet' or a .safetensors/.pt file"
        )
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise SettingsError(f"weights {str(path)!r}: do not fit this backbone: {first}") from error
