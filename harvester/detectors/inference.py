"""Stored volumes through a fitted detector: boxes slice by slice, linked to tubelets as the generator's are."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from harvester.config.settings import Settings
from harvester.detectors.detector import Detector
from harvester.detectors.training import of_lesions
from harvester.models.device import DeviceSpec
from harvester.models.device_slab import load_to_device
from harvester.models.prefetch import prefetch, readers
from harvester.proposals.detect import Boxes
from harvester.proposals.inference import tubelet_rows
from harvester.storage.location import Location
from harvester.store.slab import GridFrame

SLICES_AT_ONCE: Final = 8


def detect(
    detector: Detector, store: Location, frames: Sequence[GridFrame], settings: Settings, spec: DeviceSpec
) -> Iterator[list[dict[str, Any]]]:
    """Rows of records.TUBELETS of each volume, without the patient; the detector is on the device already.

    Volumes are read ahead of the device.
    """
    detector.model.eval()

    def read(frame: GridFrame) -> Tensor:
        context = detector.context
        return load_to_device(store, frame, -context, frame.shape_zyx[0] + context, spec.device)

    for frame, slab in prefetch(frames, read, readers(spec, settings.compute.readers)):
        yield tubelet_rows(_boxes(detector, slab.result(), settings, spec), frame, settings)


@torch.inference_mode()
def _boxes(detector: Detector, slab_zyx: Tensor, settings: Settings, spec: DeviceSpec) -> Boxes:
    """The boxes of all slices but the context's, of int16 HU."""
    context, hu = detector.context, slab_zyx.float()
    depth = len(hu) - 2 * context
    shown = [((hu - low) / (high - low)).clamp(0, 1) for low, high in detector.windows(settings)]
    found: list[dict[str, Tensor]] = []
    for start in range(0, depth, SLICES_AT_ONCE):
        at = range(start, min(depth, start + SLICES_AT_ONCE))
        images = [torch.cat([window[z : z + 2 * context + 1] for window in shown]) for z in at]
        with spec.autocast():
            found += map(of_lesions, detector.model(images))
    z = np.repeat(np.arange(depth), [len(each["scores"]) for each in found])
    boxes = torch.cat([each["boxes"] for each in found]).cpu().double().numpy() - (0, 0, 1, 1)
    scores = torch.cat([each["scores"] for each in found]).cpu().double().numpy()
    return Boxes(z, boxes.reshape(-1, 4), scores, None, 1)
