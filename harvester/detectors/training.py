"""Fit a detector to a label set: plain PyTorch, no Ray."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from harvester.config.settings import Settings
from harvester.detectors.detector import LESION, Detector
from harvester.detectors.images import Archive, SliceImages, collate
from harvester.errors import NoExamplesError
from harvester.models.device import DeviceSpec
from harvester.models.fit import Fit, FoldTask, TrainSchedule
from harvester.proposals.augment import Raw, to_network_input
from harvester.proposals.labels import VolumeLabels

Batch = tuple[list[Raw], list[dict[str, Tensor]]]


def fit_detector(
    task: FoldTask, settings: Settings, detector: Detector, archive: Archive, labels: Mapping[str, VolumeLabels]
) -> list[dict[str, float]]:
    """Fit the detector in place, and give its losses step by step. Raises NoExamplesError where nothing is labelled."""
    if not any(len(own.lesions) for own in labels.values()):
        raise NoExamplesError(f"{task.name}: no label of a lesion in the {len(archive.frames)} training volumes")
    own = settings.retrain
    spec = DeviceSpec.choose(task.gpu, settings.compute.precision)
    rate = detector.learning_rate or own.learning_rate
    steps = max(1, round(own.steps * detector.steps_factor))
    schedule = TrainSchedule(steps, own.batch_images, rate, own.weight_decay, rate_setting="retrain.learning_rate")
    images = SliceImages(archive, labels, detector, own.crop_px, steps * own.batch_images, task.seed)
    windows, nothing = detector.windows(settings), torch.zeros(1, device=spec.device)

    def losses_of(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        raws, targets = batch
        shown = [to_network_input(raw, nothing, windows).flatten(0, 1) for raw in raws]
        losses: dict[str, Tensor] = network(shown, targets)
        return losses

    return Fit(detector.model, schedule, spec, task).run(images, losses_of, collate)


def of_lesions(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a detector found, without boxes of other classes."""
    if "labels" not in found:
        return found
    kept = found["labels"] == LESION
    return {name: values[kept] for name, values in found.items()}
