"""The proposal generator as a detector like others: our CenterNet with 3D context, from scratch, slice by slice."""

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from harvester.config.settings import Settings
from harvester.detectors.detector import LESION, LOOK_ALIKE, Detector
from harvester.proposals.boxes import SliceBoxes
from harvester.proposals.decoding import best_peaks
from harvester.proposals.losses import generator_losses
from harvester.proposals.network import CONTEXT, Generator
from harvester.proposals.targets import SlabLabels, build_targets

MOST_BOXES: Final = 50
STEPS_FACTOR: Final = 10.0
"""Its steps are short, and it needs more of them: with five times as many some fits found next to nothing, by chance
(docs/decisions/0018)."""
Target = dict[str, Tensor]


class CenterNet(nn.Module):
    """A Generator that is called as torchvision's detectors are; look-alikes are its hard negatives."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings.generator
        self.floor, self.windows = settings.retrain.score_floor, len(settings.grid.windows_hu)
        self.network = Generator(self.settings.model_copy(update={"weights": ""}), settings.grid)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> dict[str, Tensor] | list[Target]:
        """Loss terms in training, else boxes and scores for each image."""
        slabs = torch.stack([torch.unflatten(image, 0, (self.windows, -1)) for image in images])
        outputs = self.network(slabs)
        if self.training:
            maps = [self._maps(target, *slabs.shape[-2:]) for target in targets or []]
            wanted = {name: torch.stack([each[name] for each in maps]).to(slabs.device) for name in maps[0]}
            terms = generator_losses(outputs, wanted, self.settings.suppression)
            weights = self.settings.loss.model_dump()
            return {name: weights[name] * term for name, term in terms.items()}
        flat = {name: out.flatten(0, 1) for name, out in outputs.items()}
        scores, boxes = best_peaks(flat, min(MOST_BOXES, self.settings.top_k), self.settings.stride)
        kept = scores >= self.floor
        return [
            {"boxes": each[keep] + each.new_tensor([0, 0, 1, 1]), "scores": score[keep]}
            for score, each, keep in zip(scores, boxes, kept, strict=True)
        ]

    def _maps(self, target: Target, height: int, width: int) -> Target:
        kinds = [target["boxes"][target["labels"] == kind].cpu().double().numpy() for kind in (LESION, LOOK_ALIKE)]
        lesions, negatives = (SliceBoxes.of((0, box - (0, 0, 1, 1)) for box in boxes) for boxes in kinds)
        labels = SlabLabels(lesions, negatives, SliceBoxes.of(), np.ones(1, np.float32))
        made = build_targets(labels, height, width, self.settings.stride, self.settings.target_iou)
        return {name: torch.from_numpy(values) for name, values in made.items()}


def generator(settings: Settings) -> Detector:
    """The generator of the run's settings, its weights drawn anew."""
    windows, rate = settings.grid.windows_hu, settings.generator.learning_rate
    return Detector(CenterNet(settings), CONTEXT, windows, rate, STEPS_FACTOR)
