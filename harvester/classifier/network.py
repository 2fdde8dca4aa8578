"""LPC: global-local multi-view classifier (paper.md, "LPC")."""

import torch
from torch import Tensor, nn

from harvester.backbones import build_backbone
from harvester.classifier.views import DESCRIPTORS
from harvester.config import ClassifierSettings, GridSettings


class Classifier(nn.Module):
    """A stream for the lesion, a stream for its place; features joined, the maximum over views, one logit.

    The maximum over views can't tell how many of them show the same disc: a small branch of its own looks at the
    tubelet's course (views.describe), and its logit is added (ours).
    """

    def __init__(self, settings: ClassifierSettings, grid: GridSettings) -> None:
        super().__init__()
        channels_in = 3 * len(grid.windows_hu)
        self.streams = nn.ModuleDict(
            {
                name: build_backbone(settings.backbone, channels_in, settings.channels, settings.weights)
                for name in ("local", "global")
            }
        )
        features = sum(stream.out_channels[-1] for stream in self.streams.values())  # type: ignore[index, misc]
        self.logit = nn.Sequential(nn.Dropout(0.3), nn.Linear(features, 1))
        self.course = nn.Sequential(
            nn.Linear(DESCRIPTORS, 32),
            nn.ReLU(inplace=True),
            nn.Linear(32, 32),
            nn.ReLU(inplace=True),
            nn.Linear(32, 1),
        )

    def forward(self, views: dict[str, Tensor]) -> Tensor:
        """`local` and `global` crops (n, views, channels, p, p), and `course` (n, DESCRIPTORS) to logits (n,)."""
        joined = torch.cat([self._stream(name, views[name]) for name in ("local", "global")], dim=-1)
        best = joined.amax(dim=1)
        logits: Tensor = (self.logit(best) + self.course(views["course"])).squeeze(-1)
        return logits

    def _stream(self, name: str, crops: Tensor) -> Tensor:
        deepest = self.streams[name](crops.flatten(0, 1).contiguous(memory_format=torch.channels_last))[-1]
        features: Tensor = deepest.mean(dim=(-2, -1)).unflatten(0, crops.shape[:2])
        return features
