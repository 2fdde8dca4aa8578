"""Tubelets of a volume to probabilities."""

from pathlib import Path
from typing import Any

import torch

from harvester.classifier.network import Classifier
from harvester.classifier.views import Tubelets, cut_views
from harvester.config import Settings
from harvester.fitting import Place
from harvester.volumes.locations import Where
from harvester.volumes.slab import GridFrame


def load_classifier(weights: Path, settings: Settings, place: Place) -> Classifier:
    """A fitted classifier from its safetensors file, ready to score."""
    from safetensors.torch import load_file

    model = Classifier(settings.classifier.model_copy(update={"weights": ""}), settings.grid)
    model.load_state_dict(load_file(weights))
    place.settle(model).eval()
    return model


@torch.inference_mode()
def classify_volume(
    model: Classifier,
    store: Where,
    frame: GridFrame,
    rows: list[dict[str, Any]],
    settings: Settings,
    place: Place,
    chunk: int = 32,
) -> list[float]:
    """The probability of being a lesion of each tubelet (rows of records.TUBELETS, one volume); [] for none."""
    if not rows:
        return []
    tubelets = Tubelets.of(rows, frame)
    crops = cut_views(store, frame, tubelets, settings.classifier, settings.grid, place.device)
    scores: list[float] = []
    for start in range(0, len(rows), chunk):
        with place.autocast():
            logits = model({name: crop[start : start + chunk] for name, crop in crops.items()})
        scores += torch.sigmoid(logits.float()).cpu().tolist()
    return scores
