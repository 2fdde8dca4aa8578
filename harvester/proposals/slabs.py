"""Training slabs: a seeded draw of places, the crop and its augmentation, and the targets that belong to it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harvester.config.models import GeneratorSettings
from harvester.geometry import Array
from harvester.imaging.interpolation import Taps
from harvester.models.device_slab import as_tensors, writable
from harvester.proposals.augment import Raw
from harvester.proposals.labels import VolumeLabels
from harvester.proposals.network import CONTEXT
from harvester.proposals.pasting import Bank, paste
from harvester.proposals.targets import SlabLabels, build_targets
from harvester.storage.location import Location
from harvester.store.slab import SIDE_MULTIPLE, GridFrame, Slab, SlabReader, read_slab

Anchor = tuple[GridFrame, int, tuple[float, float], float]
"""A volume, a slice of it, a point (x, y) there, and how far from it a crop's centre may lie, in pixels."""

SCALE_RANGE: Final = (0.8, 1.2)
HU_SHIFT: Final = 20.0
NOISE_VOXELS: Final = 2**21
NOISE_HU: Final = 15.0
KEPT_BYTES: Final = 2 << 30
SAME: Final = (1.0, 1.0, 1.0)
HARD_NEGATIVE_SHARE: Final = 1 / 3
"""Of the slabs that look at a label, those that look at a hard negative, once there are any."""


@dataclass(frozen=True)
class Crop:
    """Where a crop of side (rows, columns) looks: its centre in slab corner coordinates, scale and mirror."""

    centre_xy: tuple[float, float]
    side_yx: tuple[int, int]
    scale: float = 1.0
    flip: bool = False

    def taps(self, slab_zyx: Array) -> tuple[Taps, Taps]:
        """Where the crop's rows and columns come from, linearly interpolated; beyond the slab its edge repeats."""
        _, rows, columns = slab_zyx.shape
        y, x = self._source(1, self.side_yx[0]), self._source(0, self.side_yx[1])
        return Taps.at(y, rows), Taps.at(x, columns)

    def boxes(self, boxes_xyxy: Array) -> Array:
        """(n, 4) inclusive slab boxes in the crop's pixels; they may lie outside it."""
        sign = -self.scale if self.flip else self.scale
        x = (boxes_xyxy[:, [0, 2]] + (0, 1) - self.centre_xy[0]) * sign + self.side_yx[1] / 2
        y = (boxes_xyxy[:, [1, 3]] + (0, 1) - self.centre_xy[1]) * self.scale + self.side_yx[0] / 2
        return np.stack([x.min(1), y.min(1), x.max(1) - 1, y.max(1) - 1], axis=1)

    def _source(self, axis: int, count: int) -> Array:
        sign = -1 if self.flip and axis == 0 else 1
        return self.centre_xy[axis] + sign * (np.arange(count) + 0.5 - count / 2) / self.scale - 0.5


class SlabSampler:
    """Where training slabs lie: a seeded draw of a volume, of its first slice and of a crop. Nothing is read.

    The share settings.marked_slab_share looks at a label, the rest at some place in a volume of background; the crop
    centres on neither. `side` is the crops', in pixels: of whole slices where settings.crop_px is 0.
    """

    def __init__(
        self, frames: Sequence[GridFrame], labels: Mapping[str, VolumeLabels], settings: GeneratorSettings
    ) -> None:
        self.settings = settings
        lesions = [(f, z, box) for f in frames for z, box in labels[f.volume_id].lesions]
        negatives = [(f, z, box) for f in frames for z, box in labels[f.volume_id].negatives]
        self.anchors = [anchors for anchors in (lesions, negatives) if anchors]
        complete = [f for f in frames if labels[f.volume_id].complete]
        # Unmarked slices that weigh anything are background, so they are drawn as a complete volume's are.
        everywhere = not complete or settings.unmarked_slice_weight > 0
        self.background = list(frames) if everywhere else complete
        self.side = settings.crop_px or _common_side([f.shape_zyx for f in frames])

    def draw(self, rng: np.random.Generator) -> tuple[GridFrame, int, Crop]:
        """A volume's frame, the slab's first slice, and the crop."""
        anchored = bool(self.anchors) and rng.random() < self.settings.marked_slab_share
        frame, z, centre_xy, spread = self._at_label(rng) if anchored else self._anywhere(rng)
        depth, rows, columns = frame.shape_zyx
        if not self.settings.crop_px:
            centre_xy, spread = (columns / 2, rows / 2), 0.0
        centre_x, centre_y = rng.uniform(-spread, spread, 2) + centre_xy
        latest = max(0, depth - self.settings.slab_depth)
        z_start = min(max(0, z - int(rng.integers(self.settings.slab_depth))), latest)
        scale, flip = 1.0, False
        if self.settings.augment:
            scale, flip = float(rng.uniform(*SCALE_RANGE)), bool(rng.random() < 0.5)
        return frame, z_start, Crop((centre_x, centre_y), (self.side, self.side), scale, flip)

    def _at_label(self, rng: np.random.Generator) -> Anchor:
        # Hard negatives outnumber lesions many times: the kind is drawn first.
        kind = self.anchors[int(len(self.anchors) > 1 and rng.random() < HARD_NEGATIVE_SHARE)]
        frame, z, box = kind[rng.integers(len(kind))]
        return frame, z, ((box[0] + box[2] + 1) / 2, (box[1] + box[3] + 1) / 2), 0.35 * self.side

    def _anywhere(self, rng: np.random.Generator) -> Anchor:
        frame = self.background[rng.integers(len(self.background))]
        depth, rows, columns = frame.shape_zyx
        return frame, int(rng.integers(depth)), (columns / 2, rows / 2), 0.3 * max(rows, columns)


class SlabDataset(Dataset[tuple[Raw, dict[str, Tensor]]]):
    """Item i is a slab and its targets, the same for the same (seed, i): resumed training sees the same items.

    Volumes that the fold holds out must not be among `frames`. An item is what augment.to_network_input turns into an
    image of (windows, depth + 2 CONTEXT, y, x) with this `noise`, and the maps of build_targets as tensors.
    """

    def __init__(
        self,
        store: Location,
        frames: Sequence[GridFrame],
        labels: Mapping[str, VolumeLabels],
        settings: GeneratorSettings,
        items: int,
        seed: int,
    ) -> None:
        self.store, self.labels, self.settings, self.items, self.seed = store, labels, settings, items, seed
        self.sampler = SlabSampler(frames, labels, settings)
        every = [(frame, labels[frame.volume_id]) for frame in frames]
        self.read = slab_reader(store, frames)
        self.bank = Bank(self.read, [(frame, known) for frame, known in every if known.complete])
        self.noise = np.random.default_rng(seed).standard_normal(NOISE_VOXELS, dtype=np.float32)

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> tuple[Raw, dict[str, Tensor]]:
        rng = np.random.default_rng((self.seed, index))
        frame, z_start, crop = self.sampler.draw(rng)
        depth = self.settings.slab_depth
        slab = self.read(frame, z_start - CONTEXT, z_start + depth + CONTEXT)
        known = self.labels[frame.volume_id].slab(z_start, depth, self.settings.unmarked_slice_weight)
        # Beyond the end the last slice repeats, lesions and all, but their labels do not.
        known.slice_weight[frame.shape_zyx[0] - z_start :] = 0
        if rng.random() < self.settings.paste_lesions:
            slab, known = paste(slab, known, self.bank, crop.centre_xy, rng)
        targets = build_targets(_cropped(known, crop), *crop.side_yx, self.settings.stride, self.settings.target_iou)
        rows, columns = map(as_tensors, crop.taps(slab))
        raw = {"hu": torch.from_numpy(writable(slab)), "rows": rows, "columns": columns}
        if self.settings.augment:
            raw |= _jitter(len(slab) * crop.side_yx[0] * crop.side_yx[1], rng)
        else:
            raw["noise"] = torch.zeros(0, dtype=torch.int64)
        return raw, {name: torch.from_numpy(values) for name, values in targets.items()}


def slab_reader(store: Location, frames: Sequence[GridFrame]) -> SlabReader:
    """read_slab for random reads: volumes finer than the grid stay in memory on it, if all of them fit into KEPT_BYTES.

    To decode and resample a slab takes longer than to learn from it on a CPU, and training comes back to each volume.
    """
    read = partial(read_slab, store)
    if sum(2 * math.prod(frame.shape_zyx) for frame in frames if frame.ratios_zyx != SAME) > KEPT_BYTES:
        return read
    whole = cache(lambda frame: read(frame, 0, frame.shape_zyx[0]))

    def from_memory(frame: GridFrame, z_start: int, z_end: int) -> Slab:
        if frame.ratios_zyx == SAME:
            return read(frame, z_start, z_end)
        slab: Slab = whole(frame)[np.clip(np.arange(z_start, z_end), 0, frame.shape_zyx[0] - 1)]
        return slab

    return from_memory


def _jitter(voxels: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Where a crop's stretch of noise begins, its strength, and a shift, in HU."""
    start = int(rng.integers(NOISE_VOXELS - voxels)) if voxels < NOISE_VOXELS else 0
    noise_hu, shift_hu = np.float32(rng.uniform(0, NOISE_HU)), np.float32(rng.normal(0, HU_SHIFT))
    return {"noise": torch.tensor([start]), "noise_hu": torch.tensor(noise_hu), "shift_hu": torch.tensor(shift_hu)}


def _cropped(known: SlabLabels, crop: Crop) -> SlabLabels:
    lesions, negatives, ignored = (kind.moved(crop.boxes) for kind in (known.lesions, known.negatives, known.ignored))
    return SlabLabels(lesions, negatives, ignored, known.slice_weight)


def _common_side(shapes_zyx: Sequence[tuple[int, int, int]]) -> int:
    longest = max(max(shape[1:]) for shape in shapes_zyx)
    return -(-longest // SIDE_MULTIPLE) * SIDE_MULTIPLE
