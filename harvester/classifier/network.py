"""LPC: global-local multi-view classifier (paper.md, "LPC")."""

import torch
from torch import Tensor, nn

from harvester.classifier.views import DESCRIPTORS, STREAMS
from harvester.config.models import ClassifierSettings, GridSettings
from harvester.models.backbones import build_backbone


class Classifier(nn.Module):
    """A stream for the lesion, a stream for its place; features joined, the maximum over views, one logit.

    The maximum over views can't tell how many of them show the same disc: a small branch of its own looks at the
    tubelet's shape profile (views.shape_profile), and its logit is added (ours).
    """

    def __init__(self, settings: ClassifierSettings, grid: GridSettings) -> None:
        super().__init__()
        channels_in = 3 * len(grid.windows_hu)
        streams = {
            name: build_backbone(
                settings.backbone, channels_in, settings.channels, settings.weights, settings.weights_sha256
            )
            for name in STREAMS
        }
        self.streams = nn.ModuleDict(streams)
        features = sum(stream.out_channels[-1] for stream in streams.values())
        self.logit = nn.Sequential(nn.Dropout(0.3), nn.Linear(features, 1))
        self.shape_profile = nn.Sequential(
            nn.Linear(DESCRIPTORS, 32),
            nn.ReLU(inplace=True),
            nn.Linear(32, 32),
            nn.ReLU(inplace=True),
            nn.Linear(32, 1),
        )

    def forward(self, views: dict[str, Tensor]) -> Tensor:
        """Crops `local` and `global` (n, views, channels, p, p) and `shape_profile` (n, DESCRIPTORS) to logits (n,)."""
        local, wide = (
            torch.unflatten(self.features(name, views[name].flatten(0, 1)), 0, views[name].shape[:2])
            for name in STREAMS
        )
        return self.logits(local, wide, views["shape_profile"])

    def features(self, name: str, crops: Tensor) -> Tensor:
        """What a stream sees in each of m crops (m, channels, p, p): (m, its features)."""
        deepest: Tensor = self.streams[name](crops.contiguous(memory_format=torch.channels_last))[-1]
        return deepest.mean(dim=(-2, -1))

    def logits(self, local: Tensor, wide: Tensor, shape_profile: Tensor) -> Tensor:
        """Features of both streams (n, views, features) and the profile (n, DESCRIPTORS) to logits (n,)."""
        best = torch.cat([local, wide], dim=-1).amax(dim=1)
        total: Tensor = (self.logit(best) + self.shape_profile(shape_profile)).squeeze(-1)
        return total
