"""Training images: a seeded draw of slices, the same for all label sets, and the boxes that a label set has there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harvester.detectors.detector import LESION, LOOK_ALIKE, Detector
from harvester.geometry import Array
from harvester.models.device_slab import as_tensors, writable
from harvester.proposals.labels import VolumeLabels
from harvester.proposals.slabs import SCALE_RANGE, Crop, slab_reader
from harvester.storage.location import Location
from harvester.store.slab import GridFrame

Item = tuple[dict[str, Any], dict[str, Tensor]]
SEEN: Final = 0.5
"""A box of which a crop shows less than this share of its area is no label there."""
SMALLEST_PX: Final = 1.0


@dataclass(frozen=True, eq=False)
class Archive:
    """The volumes that detectors learn from, and where no slice is drawn.

    unknown   (volume, slice) on which something lies that nobody annotated: it would be taken for background
    """

    store: Location
    frames: Sequence[GridFrame]
    unknown: frozenset[tuple[str, int]] = frozenset()

    def slices(self) -> list[tuple[GridFrame, int]]:
        """All that may be drawn."""
        return [
            (frame, z)
            for frame in self.frames
            for z in range(frame.shape_zyx[0])
            if (frame.volume_id, z) not in self.unknown
        ]


class SliceImages(Dataset[Item]):
    """Item i is a crop around some place of some slice, and its boxes: the place follows from (seed, i) alone.

    What of a slice has no label is background. An item is what proposals/augment.py makes an image of, and a target as
    detector.py says.
    """

    def __init__(
        self,
        archive: Archive,
        labels: Mapping[str, VolumeLabels],
        detector: Detector,
        crop_px: int,
        items: int,
        seed: int,
    ) -> None:
        self.labels, self.context, self.side, self.items, self.seed = labels, detector.context, crop_px, items, seed
        self.places = archive.slices()
        self.read = slab_reader(archive.store, archive.frames)

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> Item:
        rng = np.random.default_rng((self.seed, index))
        frame, z = self.places[rng.integers(len(self.places))]
        slab = self.read(frame, z - self.context, z + self.context + 1)
        crop = self._crop(frame.shape_zyx[1:], rng)
        rows, columns = map(as_tensors, crop.taps(slab))
        raw = {"hu": torch.from_numpy(writable(slab)), "rows": rows, "columns": columns}
        return raw | {"noise": torch.zeros(0, dtype=torch.int64)}, self._target(frame.volume_id, z, crop)

    def _crop(self, sides_yx: Sequence[int], rng: np.random.Generator) -> Crop:
        scale, flip = float(rng.uniform(*SCALE_RANGE)), bool(rng.random() < 0.5)
        y, x = (self._centre(side, scale, rng) for side in sides_yx)
        return Crop((x, y), (self.side, self.side), scale, flip)

    def _centre(self, side: int, scale: float, rng: np.random.Generator) -> float:
        """Somewhere where the crop does not look beyond the slice, or its middle where it must."""
        half = self.side / scale / 2
        return float(rng.uniform(half, side - half)) if side > 2 * half else side / 2

    def _target(self, volume_id: str, z: int, crop: Crop) -> dict[str, Tensor]:
        own = self.labels[volume_id]
        kinds = [(own.lesions.between(z, 1), LESION), (own.negatives.between(z, 1), LOOK_ALIKE)]
        boxes = [_seen(crop.boxes(kind.boxes_xyxy), self.side) for kind, _ in kinds]
        classes = [np.full(len(each), kind) for each, (_, kind) in zip(boxes, kinds, strict=True)]
        return {
            "boxes": torch.from_numpy(np.concatenate(boxes).astype(np.float32)),
            "labels": torch.from_numpy(np.concatenate(classes).astype(np.int64)),
        }


def _seen(boxes_xyxy: Array, side: int) -> Array:
    """Boxes with inclusive ends cut at the crop, from corner to corner, without those that show too little."""
    whole = boxes_xyxy + np.array([0, 0, 1, 1])
    cut = whole.clip(0, side)
    sizes, before = cut[:, 2:] - cut[:, :2], whole[:, 2:] - whole[:, :2]
    kept: Array = cut[(sizes.min(axis=1) >= SMALLEST_PX) & (sizes.prod(axis=1) >= SEEN * before.prod(axis=1))]
    return kept


def collate(items: list[Item]) -> tuple[list[dict[str, Any]], list[dict[str, Tensor]]]:
    """A batch: images and targets side by side."""
    return [raw for raw, _ in items], [target for _, target in items]
