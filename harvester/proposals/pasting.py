"""Copied-in lesions: a lesion of a completely marked volume, blended into another place of like surroundings.

Few patients carry few lesions in few places; a generator trained on them learns the places. Copying the
contrast of a lesion (not its grey values) to where the tissue around has the same level teaches the lesion.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from harvester.geometry import Array
from harvester.proposals.boxes import SliceBoxes
from harvester.proposals.labels import VolumeLabels
from harvester.proposals.network import CONTEXT
from harvester.proposals.targets import SlabLabels
from harvester.store.slab import GridFrame, SlabReader

TRIES: Final = 12
LIKE_HU: Final = 60.0
"""Largest difference between the levels around the lesion and around its new place."""
REACH: Final = 2
"""Slices copied on each side of the key slice."""


class Bank:
    """Lesions that may be copied: where they lie; `read` (slabs.slab_reader) gets their voxels when they are drawn."""

    def __init__(self, read: SlabReader, volumes: Sequence[tuple[GridFrame, VolumeLabels]]) -> None:
        self.read = read
        self.entries = [(frame, z, box) for frame, labels in volumes for z, box in labels.lesions]

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """A lesion's voxels with its surroundings, (2 REACH + 1, h, w) int16 HU, and its contrast mask in [0, 1]."""
        frame, z, box = self.entries[rng.integers(len(self.entries))]
        slab = self.read(frame, z - REACH, z + REACH + 1)
        x1, y1 = np.maximum(np.floor(box[:2]).astype(int), 0)
        x2, y2 = np.ceil(box[2:]).astype(int) + 1
        patch = slab[:, y1:y2, x1:x2]
        return patch, _soft_ellipsoid(patch.shape)


def paste(
    slab_zyx: Array, known: SlabLabels, bank: Bank, centre_xy: tuple[float, float], rng: np.random.Generator
) -> tuple[Array, SlabLabels]:
    """The slab (with CONTEXT slices on both ends) and its labels with one more lesion, or both as they were.

    The place is near `centre_xy`; tried TRIES times, until the tissue is alike and no label is there.
    """
    if not bank.entries:
        return slab_zyx, known
    patch, mask = bank.draw(rng)
    _, height, width = patch.shape
    level = _ring_level(patch[REACH])
    for _ in range(TRIES):
        z = int(rng.integers(len(known.slice_weight)))
        x, y = (int(c) for c in rng.normal(centre_xy, 20) - (width / 2, height / 2))
        box = np.array([x, y, x + width - 1, y + height - 1], np.float64)
        inside = x >= 0 and y >= 0 and x + width <= slab_zyx.shape[2] and y + height <= slab_zyx.shape[1]
        if not inside or _touches(known, box):
            continue
        place = np.s_[z + CONTEXT - REACH : z + CONTEXT + REACH + 1, y : y + height, x : x + width]
        shift = _ring_level(slab_zyx[place][REACH]) - level
        if abs(shift) <= LIKE_HU:
            slab = slab_zyx.astype(np.float32)
            slab[place] += mask * (patch + shift - slab[place])
            return np.rint(slab).astype(np.int16), _with_box(known, z, box)
    return slab_zyx, known


def _with_box(known: SlabLabels, z: int, box: Array) -> SlabLabels:
    """The key slice teaches the box (the rest of that slice no more than before); its neighbours are not known."""
    near = [at for at in range(z - REACH, z + REACH + 1) if at != z and 0 <= at < len(known.slice_weight)]
    return replace(
        known,
        lesions=known.lesions.joined(SliceBoxes.of([(z, box)])),
        ignored=known.ignored.joined(SliceBoxes.of((at, box) for at in near)),
    )


def _touches(known: SlabLabels, box: Array) -> bool:
    others = known.lesions.joined(known.ignored, known.negatives).boxes_xyxy
    apart = (others[:, 0] > box[2]) | (others[:, 2] < box[0]) | (others[:, 1] > box[3]) | (others[:, 3] < box[1])
    return bool((~apart).any())


def _ring_level(plane_yx: Array) -> float:
    """Median HU of a patch's border, two pixels wide."""
    ring = np.ones(plane_yx.shape, bool)
    ring[2:-2, 2:-2] = False
    return float(np.median(plane_yx[ring]))


def _soft_ellipsoid(shape_zyx: tuple[int, ...]) -> Array:
    """1 inside, falling to 0 at the patch's faces: marks are padded, so the border is surroundings."""
    axes = [(np.arange(n) + 0.5) / n * 2 - 1 for n in shape_zyx]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt(z**2 + y**2 + x**2)
    return np.clip((1.0 - radius) / 0.3, 0, 1).astype(np.float32)
