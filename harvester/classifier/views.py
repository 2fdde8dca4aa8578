"""What the classifier looks at: axial views along a tubelet, each a local and a global crop.

Views are spread evenly from MARGIN slices below the tubelet to MARGIN above it: where a lesion has ended and a
vessel goes on. A view shows its slice with both neighbours, in every window.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from harvester.config.settings import ClassifierSettings, GridSettings
from harvester.geometry import Array
from harvester.imaging.hounsfield import AIR_HU
from harvester.models.device_slab import load_to_device
from harvester.records import SIDES
from harvester.storage.location import Location
from harvester.store.slab import GridFrame

MARGIN: Final = 2
DESCRIPTORS: Final = 6
STREAMS: Final = ("local", "global")
Jitter = tuple[float, float, float]
"""By which shares of a box's sides its crops are shifted (x, y), and how they are scaled."""
STILL: Final = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Tubelets:
    """Tubelets of one volume on its grid: per tubelet its slices (ascending), boxes (inclusive ends) and scores."""

    z: list[Array]
    boxes_xyxy: list[Array]
    scores: list[Array]

    @classmethod
    def of(cls, rows: list[dict[str, Any]], frame: GridFrame) -> "Tubelets":
        """From rows of records.TUBELETS."""
        z, boxes, scores = [], [], []
        for row in rows:
            slices, first = np.unique(frame.slices_to_grid(np.array(row["z"])), return_index=True)
            own = np.array([row[side] for side in SIDES], np.float64).T
            z.append(slices)
            boxes.append(frame.boxes_to_grid(own[first]))
            scores.append(np.array(row["slice_score"], np.float64)[first])
        return cls(z, boxes, scores)


def view_places(tubelets: Tubelets, views: int, depth: int) -> tuple[Array, Array]:
    """Slices (n, views) and boxes (n, views, 4) to look at; a box beyond an end is the end's."""
    ends = ((z[0] - MARGIN, z[-1] + MARGIN) for z in tubelets.z)
    wanted = np.stack([np.rint(np.linspace(*own, views)).astype(np.int64) for own in ends])
    nearest = (np.abs(at[:, None] - z).argmin(1) for at, z in zip(wanted, tubelets.z, strict=True))
    boxes = [own[at] for own, at in zip(tubelets.boxes_xyxy, nearest, strict=True)]
    return np.clip(wanted, 0, depth - 1), np.stack(boxes)


@dataclass(frozen=True)
class VolumeViews:
    """What the n tubelets of a volume look at.

    rows        the tubelets, as in records.TUBELETS
    hu_zyx      int16 HU of the slices from `first` on, on the device
    z, boxes    (n, views) slices of the volume, (n, views, 4) boxes on the grid
    """

    frame: GridFrame
    rows: list[dict[str, Any]]
    tubelets: Tubelets
    hu_zyx: Tensor
    first: int
    z: Array
    boxes_xyxy: Array


def load_views(
    store: Location, frame: GridFrame, rows: list[dict[str, Any]], views: int, device: torch.device
) -> VolumeViews:
    """The slices that the views of one volume's tubelets (records.TUBELETS) need, alone decoded, on the device.

    No tubelets: an error of the caller.
    """
    tubelets = Tubelets.of(rows, frame)
    z, boxes = view_places(tubelets, views, frame.shape_zyx[0])
    first, last = slices_needed(z)
    return VolumeViews(frame, rows, tubelets, load_to_device(store, frame, first, last, device), first, z, boxes)


def cut_views(
    views: VolumeViews, settings: ClassifierSettings, grid: GridSettings, jitter: Jitter = STILL
) -> dict[str, Tensor]:
    """Crops of all tubelets at once: `local` (n, views, 3 windows, p, p) and `global` likewise, in [0, 1].

    `shape_profile` (n, DESCRIPTORS) comes with them: the tubelet's size, length, and the generator's scores along it.
    """
    crops = {"shape_profile": torch.from_numpy(shape_profile(views.tubelets, views.frame)).to(views.hu_zyx.device)}
    for name in STREAMS:
        corners = view_corners(name, views.boxes_xyxy, settings, views.frame, jitter).reshape(-1, 4)
        cut = cut_crops(views.hu_zyx, views.z.ravel() - views.first, corners, pixels(name, settings), grid)
        crops[name] = torch.unflatten(cut, 0, views.z.shape)
    return crops


def slices_needed(z: Array) -> tuple[int, int]:
    """From the first slice that views at these slices show to behind the last one."""
    return int(z.min()) - 1, int(z.max()) + 2


def pixels(name: str, settings: ClassifierSettings) -> int:
    """Side of a stream's crops."""
    return settings.local_px if name == "local" else settings.global_px


def view_corners(
    name: str, boxes_xyxy: Array, settings: ClassifierSettings, frame: GridFrame, jitter: Jitter = STILL
) -> Array:
    """Corners x1, y1, x2, y2 (.., 4) on the grid, of what a stream sees of each box; a square around its centre.

    With settings.global_mm = 0 the global stream sees the whole slice, wherever the box is.
    """
    if name == "global" and not settings.global_mm:
        _, rows, columns = frame.shape_zyx
        return np.broadcast_to(np.array([0.0, 0.0, columns, rows]), boxes_xyxy.shape)
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2] + 1
    centre = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:] + 1) / 2 + sides * np.array(jitter[:2])
    sides = sides * jitter[2]
    if name == "local":
        extent = sides.max(-1, keepdims=True) * settings.local_scale
    else:
        extent = np.full_like(sides[..., :1], settings.global_mm / frame.spacing_zyx_mm[2])
    return np.concatenate([centre - extent / 2, centre + extent / 2], axis=-1)


def cut_crops(hu_zyx: Tensor, z: Array, corners: Array, side: int, grid: GridSettings) -> Tensor:
    """(m, 3 windows, side, side) in [0, 1]: the slices z - 1, z and z + 1 of int16 HU between m corners.

    z counts from the slab's first slice and must leave a slice at both ends. Only slices that are looked at become
    floats.
    """
    # torchvision takes two seconds to import, in every process: only those that cut views pay.
    from torchvision.ops import roi_align

    first, last = slices_needed(z)
    # roi_align reads 0 beyond the slice: make that air.
    hu = hu_zyx[first:last].float()[:, None] - AIR_HU
    index = (z[:, None] - first + np.array([-1, 0, 1])).reshape(-1, 1)
    rois = np.concatenate([index, np.repeat(corners, 3, axis=0)], axis=1).astype(np.float32)
    cut: Tensor = roi_align(hu, torch.from_numpy(rois).to(hu.device), side, sampling_ratio=1, aligned=True)
    crops = torch.unflatten(cut[:, 0] + AIR_HU, 0, (-1, 3))
    return torch.cat([((crops - low) / (high - low)).clamp(0, 1) for low, high in grid.windows_hu], dim=1)


def shape_profile(tubelets: Tubelets, frame: GridFrame) -> Array:
    """(n, DESCRIPTORS) float32: what the crops can't show.

    log2 of the widest side over 16 mm; log2 of the length along z over that side; the generator's logit at its
    highest, on average, and on both end slices. A lesion is about as long as it is wide and fades at its ends; a
    vessel that runs through the slices is many times longer and does not.
    """
    sides = [(boxes[:, 2:] - boxes[:, :2] + 1).max() for boxes in tubelets.boxes_xyxy]
    width_mm = np.array(sides) * frame.spacing_zyx_mm[2]
    length_mm = np.array([z[-1] - z[0] + 1 for z in tubelets.z]) * frame.spacing_zyx_mm[0]
    logits = [np.log(p / (1 - p)) for p in (np.clip(s, 1e-4, 1 - 1e-4) for s in tubelets.scores)]
    along = np.array([(own.max(), own.mean(), own[0], own[-1]) for own in logits])
    shape = np.stack([np.log2(width_mm / 16), np.log2(length_mm / width_mm)], axis=1)
    return np.concatenate([shape, along], axis=1).astype(np.float32)
