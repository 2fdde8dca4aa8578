"""Training slabs: a seeded draw of places, the crop and its augmentation, and the targets that belong to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from harvester.config.settings import GeneratorSettings, GridSettings
from harvester.imaging.interpolation import Taps
from harvester.models.device_slab import as_tensors, writable
from harvester.proposals.augment import Raw
from harvester.proposals.labels import VolumeLabels
from harvester.proposals.network import CONTEXT, STRIDE
from harvester.proposals.pasting import Bank, paste
from harvester.proposals.targets import SlabLabels, build_targets
from harvester.storage.location import Where
from harvester.store.slab import SIDE_MULTIPLE, GridFrame, read_slab

Array = NDArray[Any]

SCALE_RANGE: Final = (0.8, 1.2)
HU_SHIFT: Final = 20.0
NOISE_VOXELS: Final = 2**21
NOISE_HU: Final = 15.0
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


class Slabs(Dataset[tuple[Raw, dict[str, Tensor]]]):
    """Item i is a slab and its targets, the same for the same (seed, i): resumed training sees the same items.

    Volumes that the fold holds out must not be among `frames`. An item is what images.show turns into an image of
    (windows, depth + 2 CONTEXT, y, x) with this `noise`, and the maps of build_targets as tensors.
    """

    def __init__(
        self,
        store: Where,
        frames: Sequence[GridFrame],
        labels: Mapping[str, VolumeLabels],
        settings: GeneratorSettings,
        grid: GridSettings,
        items: int,
        seed: int,
    ) -> None:
        self.store, self.frames, self.labels = store, {f.volume_id: f for f in frames}, labels
        self.settings, self.grid, self.items, self.seed = settings, grid, items, seed
        lesions, negatives = (
            [(f.volume_id, z, box) for f in frames for z, box in getattr(labels[f.volume_id], kind)]
            for kind in ("lesions", "negatives")
        )
        self.anchors = [anchors for anchors in (lesions, negatives) if anchors]
        complete = [f.volume_id for f in frames if labels[f.volume_id].complete]
        # Unmarked slices that weigh anything are background, so they are drawn as a complete volume's are.
        everywhere = not complete or settings.unmarked_slice_weight > 0
        self.background = [f.volume_id for f in frames] if everywhere else complete
        self.bank = Bank(store, [(self.frames[v], labels[v]) for v in complete])
        self.noise = np.random.default_rng(seed).standard_normal(NOISE_VOXELS, dtype=np.float32)
        self.side = settings.crop_px or _common_side([f.shape_zyx for f in frames])

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> tuple[Raw, dict[str, Tensor]]:
        rng = np.random.default_rng((self.seed, index))
        volume_id, z_start, crop = self._draw(rng)
        depth = self.settings.slab_depth
        slab = read_slab(self.store, self.frames[volume_id], z_start - CONTEXT, z_start + depth + CONTEXT)
        known = self.labels[volume_id].slab(z_start, depth, self.settings.unmarked_slice_weight)
        # Beyond the end the last slice repeats, lesions and all, but their labels do not.
        known.slice_weight[self.frames[volume_id].shape_zyx[0] - z_start :] = 0
        if rng.random() < self.settings.paste_lesions:
            slab, known = paste(slab, known, self.bank, crop.centre_xy, rng)
        rows, columns = map(as_tensors, crop.taps(slab))
        raw = {
            "hu": torch.from_numpy(writable(slab)),
            "rows": rows,
            "columns": columns,
            **self._jitter(len(slab), crop, rng),
        }
        targets = build_targets(_cropped(known, crop), *crop.side_yx)
        return raw, {name: torch.from_numpy(values) for name, values in targets.items()}

    def _draw(self, rng: np.random.Generator) -> tuple[str, int, Crop]:
        """A label to look at, or a place in a volume of background; the crop does not centre on either."""
        anchored = bool(self.anchors) and rng.random() < self.settings.marked_slab_share
        if anchored:
            # Hard negatives outnumber lesions many times: the kind is drawn first.
            kind = self.anchors[int(len(self.anchors) > 1 and rng.random() < HARD_NEGATIVE_SHARE)]
            volume_id, z, box = kind[rng.integers(len(kind))]
            centre = ((box[0] + box[2] + 1) / 2, (box[1] + box[3] + 1) / 2)
            spread = 0.35 * self.side
        else:
            volume_id = self.background[rng.integers(len(self.background))]
            depth, rows, columns = self.frames[volume_id].shape_zyx
            z, centre, spread = int(rng.integers(depth)), (columns / 2, rows / 2), 0.3 * max(rows, columns)
        centre_x, centre_y = rng.uniform(-spread, spread, 2) + centre
        if not self.settings.crop_px:
            _, rows, columns = self.frames[volume_id].shape_zyx
            centre_x, centre_y = columns / 2, rows / 2
        latest = max(0, self.frames[volume_id].shape_zyx[0] - self.settings.slab_depth)
        z_start = min(max(0, z - int(rng.integers(self.settings.slab_depth))), latest)
        scale, flip = 1.0, False
        if self.settings.augment:
            scale, flip = float(rng.uniform(*SCALE_RANGE)), bool(rng.random() < 0.5)
        return volume_id, z_start, Crop((centre_x, centre_y), (self.side, self.side), scale, flip)

    def _jitter(self, depth: int, crop: Crop, rng: np.random.Generator) -> dict[str, Tensor]:
        """Where the crop's stretch of noise begins, its strength, and a shift, in HU; no stretch: neither."""
        if not self.settings.augment:
            return {"noise": torch.zeros(0, dtype=torch.int64)}
        voxels = depth * crop.side_yx[0] * crop.side_yx[1]
        start = int(rng.integers(len(self.noise) - voxels)) if voxels < len(self.noise) else 0
        noise_hu, shift_hu = np.float32(rng.uniform(0, NOISE_HU)), np.float32(rng.normal(0, HU_SHIFT))
        return {
            "noise": torch.tensor([start]),
            "noise_hu": torch.tensor(noise_hu),
            "shift_hu": torch.tensor(shift_hu),
        }


def _cropped(known: SlabLabels, crop: Crop) -> SlabLabels:
    lesions, negatives, ignored = (
        kind.moved(crop.boxes) for kind in (known.lesions, known.negatives, known.ignored)
    )
    return SlabLabels(lesions, negatives, ignored, known.slice_weight)


def _common_side(shapes_zyx: Sequence[tuple[int, int, int]]) -> int:
    longest = max(max(shape[1:]) for shape in shapes_zyx)
    return -(-longest // SIDE_MULTIPLE) * SIDE_MULTIPLE if longest >= STRIDE else SIDE_MULTIPLE
