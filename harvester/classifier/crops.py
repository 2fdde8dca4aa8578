"""Crops of a volume, sampled from its own pixels on the device: trilinear, the mean of a few samples a pixel.

HU stay two bytes per voxel; only what is looked at becomes floats. Along z the end slices repeat, beyond a slice's
edges there is air.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harvester.classifier.views import POSES, Squares, Tubelet, shape_profile, slices_needed, view_squares
from harvester.config.models import ClassifierSettings
from harvester.geometry import Array
from harvester.imaging.hounsfield import AIR_HU
from harvester.models.device_slab import load_pixels, load_to_device
from harvester.storage.location import Location
from harvester.store.slab import GridFrame


@dataclass(frozen=True)
class VolumeViews:
    """What is seen of the n tubelets of a volume, in each of the poses that they are looked at in.

    rows        the tubelets, as in records.TUBELETS
    hu_zyx      int16 HU of the slices that are needed, on the device
    squares     of each stream, (poses n views,), counted from the first of those slices
    profile     (poses n, DESCRIPTORS) shape profiles
    """

    frame: GridFrame
    rows: list[dict[str, Any]]
    hu_zyx: Tensor
    squares: dict[str, Squares]
    profile: Array


def load_views(
    store: Location, frame: GridFrame, rows: list[dict[str, Any]], settings: ClassifierSettings, device: torch.device
) -> VolumeViews:
    """The slices that the views of one volume's tubelets (records.TUBELETS) need, alone decoded, on the device.

    No tubelets: an error of the caller.
    """
    tubelets, poses = [Tubelet.of(row) for row in rows], POSES[: settings.poses]
    squares = joined([view_squares(each, frame, settings, pose) for pose in poses for each in tubelets])
    hu, squares = load_squares(store, frame, squares, settings, device)
    profile = shape_profile(tubelets, frame)
    return VolumeViews(frame, rows, hu, squares, np.concatenate([pose.of_profile(profile) for pose in poses]))


def joined(parts: Sequence[dict[str, Squares]]) -> dict[str, Squares]:
    """Squares of several tubelets, stream by stream."""
    return {name: Squares.joined([part[name] for part in parts]) for name in parts[0]}


def load_squares(
    store: Location, frame: GridFrame, squares: dict[str, Squares], settings: ClassifierSettings, device: torch.device
) -> tuple[Tensor, dict[str, Squares]]:
    """The slices that squares show, on the device, and the squares counted from the first of them."""
    depth, load = frame.shape_px_zyx[0], load_pixels
    if not settings.own_pixels:
        squares = {name: own.on_grid(frame) for name, own in squares.items()}
        depth, load = frame.shape_zyx[0], load_to_device
    first, last = slices_needed(list(squares.values()), depth)
    hu = load(store, frame, first, last, device)
    return hu, {name: own.after(first) for name, own in squares.items()}


def in_windows(hu: Tensor, windows_hu: Sequence[tuple[float, float]]) -> Tensor:
    """HU (..., 3, p, p) to channels (..., 3 windows, p, p) in [0, 1]: window by window the three planes."""
    return torch.cat([((hu - low) * (1 / (high - low))).clamp(0, 1) for low, high in windows_hu], dim=-3)


def cut(hu_zyx: Tensor, squares: Squares, side: int) -> Tensor:
    """(m, 3, side, side) float32 HU: of each square the parallel below, its plane and the parallel above."""
    crops = torch.empty((len(squares), 3, side, side), device=hu_zyx.device)
    samples, axial = squares.subsamples(side), squares.axial
    kinds = np.column_stack([axial, samples])
    for kind in np.unique(kinds, axis=0):
        some = np.flatnonzero((kinds == kind).all(1))
        down, across = (int(each) for each in kind[1:])
        part = (_axial if kind[0] else _upright)(hu_zyx, squares[some], side, down, across)
        crops[torch.from_numpy(some).to(crops.device)] = part
    return crops


def _axial(hu_zyx: Tensor, squares: Squares, side: int, down: int, across: int) -> Tensor:
    z = squares.centres_zyx[:, :1] + PARALLELS * squares.axes_zyx[:, 0, :1]
    sampled = _sampled(hu_zyx, squares, z, _steps(side, down), 1, _steps(side, across))
    return torch.unflatten(torch.unflatten(sampled, 3, (side, across)), 2, (side, down)).mean((3, 5))


def _upright(hu_zyx: Tensor, squares: Squares, side: int, down: int, across: int) -> Tensor:
    z = squares.centres_zyx[:, :1] + _steps(side, down) * squares.axes_zyx[:, 1, :1]
    sampled = _sampled(hu_zyx, squares, z, PARALLELS, 0, _steps(side, across))
    return torch.unflatten(torch.unflatten(sampled, 3, (side, across)), 1, (side, down)).mean((2, 5)).transpose(1, 2)


PARALLELS = np.array([-1.0, 0.0, 1.0])


def _steps(side: int, samples: int) -> Array:
    """From edge to edge, -0.5 to 0.5, the middles of the samples of `side` pixels."""
    count = side * samples
    return (np.arange(count) + 0.5) / count - 0.5


def _sampled(hu_zyx: Tensor, squares: Squares, z: Array, rows: Array, axis: int, columns: Array) -> Tensor:
    """(m, levels, rows, columns) HU at heights z (m, levels) of points in the plane of the slices.

    Those lie `rows` along one axis of the squares and `columns` along the last one, (m, rows, columns) of them.
    """
    across, along = (
        squares.axes_zyx[:, each, 1:, None] * steps for each, steps in ((axis, rows), (2, columns))
    )  # (m, 2, rows), (m, 2, columns)
    start = squares.centres_zyx[:, 1:, None] + across
    start_yx, along_yx = (torch.from_numpy(each.astype(np.float32)).to(hu_zyx.device) for each in (start, along))
    y, x = (start_yx[..., None] + along_yx[:, :, None]).unbind(1)
    return interpolated(hu_zyx, z, y, x)


def interpolated(hu_zyx: Tensor, z: Array, y: Tensor, x: Tensor) -> Tensor:
    """HU (m, levels, rows, columns) at fractional indices z (m, levels) and y, x (m, rows, columns), float32."""
    depth, height, width = hu_zyx.shape
    above, below, right = (
        step * (count > 1) for step, count in zip((height * width, width, 1), hu_zyx.shape, strict=True)
    )
    # An index of four bytes is faster, and enough for all but volumes of 4 GiB.
    index = torch.int32 if hu_zyx.numel() < 2**31 else torch.int64
    (y_low, y_share), (x_low, x_share) = _taps(y, height, index), _taps(x, width, index)
    z = np.clip(np.round(z, 6), 0, depth - 1)
    # Most axial views lie on slices: nothing to mix. Known here, without asking the device.
    whole, levels = np.array_equal(z, np.rint(z)), torch.from_numpy(z[..., None, None]).to(y)
    z_low, z_share = (levels.to(index), levels) if whole else _taps(levels, depth, index)
    first = z_low * (height * width) + (y_low * width + x_low)[:, None]
    voxels, flat = hu_zyx.reshape(-1), first.flatten()

    def at(start: int) -> Tensor:
        """The voxels that lie so far behind the first ones."""
        return voxels[start:].index_select(0, flat).view_as(first).float()

    def in_slice(start: int) -> Tensor:
        low, high = (at(start + row).lerp_(at(start + row + right), x_share[:, None]) for row in (0, below))
        return low.lerp_(high, y_share[:, None])

    values = in_slice(0) if whole else in_slice(0).lerp_(in_slice(above), z_share)
    outside = (y < -0.5) | (y > height - 0.5) | (x < -0.5) | (x > width - 0.5)
    return values.masked_fill_(outside[:, None], AIR_HU)


def _taps(at: Tensor, count: int, index: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sample at or before each place, with one behind it where there is one, and the share of that."""
    at = at.clamp(0, count - 1)
    low = at.floor().clamp_(max=max(0, count - 2))
    return low.to(index), at - low
