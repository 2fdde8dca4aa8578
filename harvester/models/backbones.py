"""Feature extractors by name. Each turns images into feature maps at strides 2, 4, 8 and 16.

`small` is for CPUs and made to be trained from nothing; the others are torchvision's, cut after stride 16, whose
published weights (pretrained.py) are loaded before the cut and before the first convolution is widened to any
number of input channels.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from harvester.errors import SettingsError
from harvester.models.pretrained import CLASSIFIER, IMAGENET, Pretrained, read_pretrained

STRIDES: Final = (2, 4, 8, 16)
"""Pixels of the image per cell of each map."""


class Backbone(nn.Module):
    """Stages run in order; `out_channels` lists the channels of the maps at STRIDES."""

    def __init__(self, stages: list[nn.Module], out_channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """(n, channels, y, x) to four maps, finest first."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps


class Shortcut(nn.Sequential):
    """A 1x1 convolution and its batch norm, of every `stride`-th cell.

    The cells are taken before the convolution, which has no stride: torch 2.15's own with one, on a CPU with few
    channels last, writes beyond its memory. The values are the same, bit for bit with channels last.
    """

    def __init__(self, stride: int, convolution: nn.Module, norm: nn.Module) -> None:
        super().__init__(convolution, norm)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, y, x) to (n, channels_out, y / stride, x / stride)."""
        convolution, norm = self
        shrunk: Tensor = norm(convolution(x[..., :: self.stride, :: self.stride]))
        return shrunk


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
            convolution = nn.Conv2d(channels_in, channels_out, 1, bias=False)
            self.shortcut = Shortcut(stride, convolution, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def build_backbone(name: str, channels_in: int, width: int, weights: str = "", weights_sha256: str = "") -> Backbone:
    """The backbone `name` for images of `channels_in` channels; `width` is the small one's base width."""
    if name != "small" and name not in CUTS:
        raise SettingsError(f"backbone {name!r}: want small, {' or '.join(CUTS)}")
    # Nobody publishes weights of the small one: `imagenet` leaves it as it is.
    asked = "" if (name, weights) == ("small", IMAGENET) else weights
    pretrained = read_pretrained(name, asked, weights_sha256)
    whole = pretrained if pretrained and pretrained.whole and name in CUTS else None
    backbone = _small(channels_in, width) if name == "small" else CUTS[name](_torchvision(name, whole), channels_in)
    if pretrained and not whole:
        pretrained.into(backbone)
    return backbone


def _small(channels_in: int, width: int) -> Backbone:
    stem = nn.Sequential(
        nn.Conv2d(channels_in, width // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU(inplace=True)
    )
    fine = nn.Sequential(Residual(width // 2, width, 2), Residual(width, width, 1))
    middle = nn.Sequential(Residual(width, 3 * width // 2, 2), Residual(3 * width // 2, 3 * width // 2, 1))
    deep = nn.Sequential(Residual(3 * width // 2, 2 * width, 2), Residual(2 * width, 2 * width, 1))
    return Backbone([stem, fine, middle, deep], (width // 2, width, 3 * width // 2, 2 * width))


def _torchvision(name: str, pretrained: Pretrained | None) -> Any:
    """torchvision's network without the layer that tells ImageNet's classes."""
    # torchvision takes two seconds to import, in every process: only its own backbones pay.
    from torchvision.models import get_model

    network = get_model(name)
    setattr(network, CLASSIFIER[name], nn.Identity())
    if pretrained:
        pretrained.into(network)
    return network


def _resnet(network: Any, channels_in: int) -> Backbone:
    stem = nn.Sequential(_widened(network.conv1, channels_in), network.bn1, network.relu)
    fine = nn.Sequential(network.maxpool, network.layer1)
    for first in (network.layer2[0], network.layer3[0]):
        convolution, norm = first.downsample
        convolution.stride = (1, 1)
        first.downsample = Shortcut(2, convolution, norm)
    widths = [layer[0].downsample[1].num_features for layer in (network.layer2, network.layer3)]
    return Backbone([stem, fine, network.layer2, network.layer3], (64, widths[0] // 2, *widths))


def _densenet121(network: Any, channels_in: int) -> Backbone:
    part = network.features
    stem = nn.Sequential(_widened(part.conv0, channels_in), part.norm0, part.relu0)
    fine = nn.Sequential(part.pool0, part.denseblock1)
    middle = nn.Sequential(part.transition1, part.denseblock2)
    deep = nn.Sequential(part.transition2, part.denseblock3)
    return Backbone([stem, fine, middle, deep], (64, 256, 512, 1024))


CUTS: Final = {"resnet18": _resnet, "resnet50": _resnet, "densenet121": _densenet121}


def _widened(conv: nn.Conv2d, channels_in: int) -> nn.Conv2d:
    """The convolution with its kernels repeated over `channels_in` inputs, and scaled so that grey stays grey."""
    wide = nn.Conv2d(channels_in, conv.out_channels, 7, 2, 3, bias=False)
    repeats = -(-channels_in // 3)
    with torch.no_grad():
        wide.weight.copy_(conv.weight.repeat(1, repeats, 1, 1)[:, :channels_in] * (3 / channels_in))
    return wide
