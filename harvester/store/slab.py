"""Slabs of a stored volume on the network's grid, and the way of boxes between the two frames."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harvester.config.models import GridSettings
from harvester.geometry import SAME_SPACING, Array, scale_boxes, scale_slices
from harvester.imaging.hounsfield import AIR_HU
from harvester.imaging.interpolation import Taps, interpolate, interpolate_in_plane
from harvester.storage.location import Location
from harvester.store.store import read_volume

Integers = NDArray[np.int64]
Slab = NDArray[np.int16]
SlabReader = Callable[["GridFrame", int, int], Slab]
"""read_slab of some store."""

SIDE_MULTIPLE: Final = 16
"""Grid sides are padded to multiples of this, the deepest stride, with air."""


@dataclass(frozen=True)
class GridFrame:
    """The grid that the network sees of one volume: spacing and unpadded shape, sharing the outer corner."""

    volume_id: str
    shape_px_zyx: tuple[int, int, int]
    spacing_px_zyx_mm: tuple[float, float, float]
    spacing_zyx_mm: tuple[float, float, float]

    @classmethod
    def of(cls, row: Mapping[str, Any], grid: GridSettings) -> "GridFrame":
        """The frame for a manifest row; in-plane spacing grows where the longest side would pass max_side_px."""
        shape = (row["depth"], row["height"], row["width"])
        spacing = (row["spacing_z_mm"], row["spacing_y_mm"], row["spacing_x_mm"])
        z, y, x = grid.spacing_zyx_mm
        shrink = max(1.0, shape[1] * spacing[1] / y / grid.max_side_px, shape[2] * spacing[2] / x / grid.max_side_px)
        # A side at its limit is resampled, however little it is too long.
        in_plane = SAME_SPACING if shrink == 1 else 0.0
        target = tuple(
            own if abs(own / want - 1) < same else want
            for own, want, same in zip(
                spacing, (z, y * shrink, x * shrink), (SAME_SPACING, in_plane, in_plane), strict=True
            )
        )
        return cls(row["volume_id"], shape, spacing, (target[0], target[1], target[2]))

    @property
    def ratios_zyx(self) -> tuple[float, float, float]:
        """Grid spacing / pixel spacing."""
        (a, b, c), (d, e, f) = self.spacing_zyx_mm, self.spacing_px_zyx_mm
        return a / d, b / e, c / f

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Slices, rows and columns of the grid before padding."""
        z, y, x = (
            max(1, round(count / ratio)) for count, ratio in zip(self.shape_px_zyx, self.ratios_zyx, strict=True)
        )
        return z, y, x

    def boxes_to_px(self, boxes_xyxy: Array) -> Array:
        """Grid boxes (..., 4) to the volume's pixels."""
        return scale_boxes(boxes_xyxy, self.ratios_zyx[2], self.ratios_zyx[1])

    def boxes_to_grid(self, boxes_xyxy_px: Array) -> Array:
        """The volume's boxes (..., 4) to grid pixels."""
        return scale_boxes(boxes_xyxy_px, 1 / self.ratios_zyx[2], 1 / self.ratios_zyx[1])

    def taps_yx(self) -> tuple[Taps, Taps]:
        """How the volume's rows and columns are mixed to the grid's."""
        y, x = (
            Taps.at(scale_slices(np.arange(self.shape_zyx[axis]), self.ratios_zyx[axis]), self.shape_px_zyx[axis])
            for axis in (1, 2)
        )
        return y, x

    def slices_to_grid(self, z_px: Array) -> Integers:
        """The nearest grid slice of each of the volume's slices."""
        nearest = np.rint(scale_slices(z_px, 1 / self.ratios_zyx[0])).astype(np.int64)
        return np.clip(nearest, 0, self.shape_zyx[0] - 1)

    def slices_of_px(self) -> Integers:
        """For each of the volume's slices its nearest grid slice, (depth,)."""
        return self.slices_to_grid(np.arange(self.shape_px_zyx[0]))


def read_slab(store: Location, frame: GridFrame, z_start: int, z_end: int) -> Slab:
    """Grid slices [z_start, z_end) as int16 HU (z, y, x), decoding only what they need.

    Slices beyond the volume repeat its first or last one; sides are padded with air to SIDE_MULTIPLE.
    """
    pixels, taps = read_pixels(store, frame, z_start, z_end)
    slab: Slab = interpolate(pixels, 0, taps)
    if frame.ratios_zyx[1:] != (1.0, 1.0):
        slab = interpolate_in_plane(slab, *frame.taps_yx())
    return pad_sides(slab)


def read_pixels(store: Location, frame: GridFrame, z_start: int, z_end: int) -> tuple[Slab, Taps]:
    """The volume's own slices, int16 HU (z, y, x), that grid slices [z_start, z_end) need, and how to mix them."""
    wanted = np.clip(np.arange(z_start, z_end), 0, frame.shape_zyx[0] - 1)
    positions = np.clip(scale_slices(wanted, frame.ratios_zyx[0]), 0, frame.shape_px_zyx[0] - 1)
    first, last = int(np.floor(positions[0])), int(np.ceil(positions[-1])) + 1
    return read_volume(store, frame.volume_id, first, last).hu_zyx, Taps.at(positions - first, last - first)


def pad_sides(slab_zyx: Slab) -> Slab:
    """Pad rows and columns at their ends with air to multiples of SIDE_MULTIPLE."""
    rows, columns = pad_widths(slab_zyx.shape[1:])
    if not rows and not columns:
        return slab_zyx
    return np.pad(slab_zyx, ((0, 0), (0, rows), (0, columns)), constant_values=AIR_HU)


def pad_widths(sides: Sequence[int]) -> tuple[int, int]:
    """Rows and columns that are missing to the next multiple of SIDE_MULTIPLE."""
    rows, columns = (-side % SIDE_MULTIPLE for side in sides)
    return rows, columns
