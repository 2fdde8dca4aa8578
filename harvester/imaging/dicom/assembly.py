"""The even, upright grid in which the slices of a DICOM series are assembled.

Slices are ordered by position along their normal. Slices that slide sideways (a tilted gantry) are moved in their own
plane by whole pixels, so that no value changes. A few missing or uneven slices are made between their neighbours;
more of them refuse the series. Positions are believed, GantryDetectorTilt and SliceThickness are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harvester.errors import VolumeError
from harvester.geometry import Array
from harvester.imaging.hounsfield import AIR_HU
from harvester.imaging.orientation import RAS_TO_LPS, Orientation
from harvester.imaging.slice_map import SliceMap

GAP_TOLERANCE: Final = 0.1
"""Share of the usual gap by which a gap between slices may differ from it."""
MADE_SHARE: Final = 0.1
"""Most slices that may be made between others, as a share of all."""
WIDEST_GAP: Final = 3.5
"""Widest gap that is filled, in usual gaps: two or three slices missing in a row."""
MOST_TILT_DEG: Final = 35.0
"""Gantries tilt by 30 degrees at most."""
SAME_POSITION_MM: Final = 0.01
STRAIGHT_PX: Final = 1.0
"""Slices that slide by less than this over the whole series are left where they are."""


Sources = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Stack:
    """Slices as their headers give them, in any order: n of them.

    positions_mm    (n, 3) ImagePositionPatient
    right, down     (3,) unit vectors along a row and down a column
    pixel_mm        distance between columns, and between rows
    size_px         columns, rows
    thickness_mm    of a slice, 0 where unknown: the spacing of a slice that stands alone
    names           (n) how a message names a slice
    """

    positions_mm: Array
    right: Array
    down: Array
    pixel_mm: tuple[float, float]
    size_px: tuple[int, int]
    thickness_mm: float
    names: Sequence[str]

    @property
    def normal(self) -> Array:
        """(3,) the direction in which slices ascend."""
        return np.cross(self.right, self.down)


@dataclass(frozen=True, eq=False)
class AssembledGrid:
    """The grid, and where the n slices of a stack lie in it.

    order           indices of the stack's slices, ascending along the normal; the slice index of marks counts in it
    slices          where each ascending slice lies
    sources         (depth) for each slice of the grid: the ascending slice below, and the next one's weight
    spacing_ijk_mm  of the grid
    affine_lps      (4, 4) of the grid: voxel index (i, j, k) to mm to the patient's left, back and head
    """

    order: tuple[int, ...]
    slices: SliceMap
    sources: tuple[tuple[int, float], ...]
    spacing_ijk_mm: tuple[float, float, float]
    affine_lps: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows and slices of the grid."""
        return self.slices.orientation.shape

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """In the stored order."""
        return self.slices.orientation.spacing_zyx_mm(self.spacing_ijk_mm)

    def array(self, planes_yx: Sequence[Array]) -> NDArray[np.int16]:
        """The stored (z, y, x) volume of the stack's (rows, columns) HU planes, air round moved slices."""
        moved = [self._moved(planes_yx[index], n) for n, index in enumerate(self.order)]
        hu_zyx = np.empty(self.slices.orientation.shape_zyx, np.int16)
        hu_kji = self.slices.orientation.file_array(hu_zyx).T
        for hu_ji, (below, weight) in zip(hu_kji, self.sources, strict=True):
            hu_ji[...] = self._blend(moved, below, weight)
        return hu_zyx

    def _moved(self, plane_yx: Array, n: int) -> Array:
        (i, j), (columns, rows) = self.slices.shift_ij[n], self.shape[:2]
        if (rows, columns) == plane_yx.shape:
            return plane_yx
        canvas = np.full((rows, columns), AIR_HU, np.int16)
        canvas[j : j + plane_yx.shape[0], i : i + plane_yx.shape[1]] = plane_yx
        return canvas

    @staticmethod
    def _blend(moved: Sequence[Array], below: int, weight: float) -> Array:
        if not weight:
            return moved[below]
        return np.rint(moved[below] * (1 - weight) + moved[below + 1] * weight).astype(np.int16)


def assemble(stack: Stack) -> AssembledGrid:
    """The grid of a stack of at least one slice. Raises VolumeError: no_geometry, bad_spacing, duplicate_slices,
    missing_slices, uneven_slices, tilted."""
    _check_axes(stack)
    heights = stack.positions_mm @ stack.normal
    order = np.argsort(heights, kind="stable")
    names = [stack.names[index] for index in order]
    gap, places, sources = _even(heights[order], names, stack.thickness_mm)
    shift_ij = _shifts(stack, order)
    affine = _affine_lps(stack, stack.positions_mm[order], gap, np.column_stack([shift_ij, places]))
    columns, rows = (side + int(shift_ij[:, axis].max()) for axis, side in enumerate(stack.size_px))
    return AssembledGrid(
        order=tuple(int(index) for index in order),
        slices=SliceMap(
            orientation=Orientation.of(RAS_TO_LPS @ affine, (columns, rows, len(sources))),
            size_px=stack.size_px,
            places=tuple(round(float(place), 3) for place in places),
            shift_ij=tuple((int(i), int(j)) for i, j in shift_ij),
        ),
        sources=sources,
        spacing_ijk_mm=(*stack.pixel_mm, gap),
        affine_lps=affine,
    )


def _affine_lps(stack: Stack, positions_mm: Array, gap_mm: float, voxels_ijk: Array) -> Array:
    """Slices were moved by whole pixels: the origin is the one by which all of them together lie best."""
    column_mm, row_mm = stack.pixel_mm
    affine = np.eye(4)
    affine[:3, :3] = np.stack([stack.right * column_mm, stack.down * row_mm, stack.normal * gap_mm], axis=1)
    affine[:3, 3] = (positions_mm - voxels_ijk @ affine[:3, :3].T).mean(axis=0)
    return affine


def _check_axes(stack: Stack) -> None:
    numbers = np.concatenate([stack.positions_mm.ravel(), stack.right, stack.down])
    lengths = [float(np.linalg.norm(axis)) for axis in (stack.right, stack.down)]
    skew = abs(float(stack.right @ stack.down))
    if not np.isfinite(numbers).all() or not np.allclose(lengths, 1, atol=1e-2) or not skew < 1e-2:
        raise VolumeError(
            "no_geometry",
            "ImagePositionPatient or ImageOrientationPatient are no positions and no two "
            "perpendicular directions; export the series again",
        )
    if not all(np.isfinite(mm) and mm > 0 for mm in stack.pixel_mm):
        raise VolumeError("bad_spacing", f"PixelSpacing is {stack.pixel_mm} mm; want positive numbers")


def _even(heights_mm: Array, names: Sequence[str], thickness_mm: float) -> tuple[float, Array, Sources]:
    """The grid's gap in mm, the place of each ascending slice in it, and its sources (AssembledGrid)."""
    count = len(heights_mm)
    if count == 1:
        if not (np.isfinite(thickness_mm) and thickness_mm > 0):
            raise VolumeError("no_geometry", f"{names[0]} stands alone without SliceThickness")
        return thickness_mm, np.zeros(1), ((0, 0.0),)
    gaps = np.diff(heights_mm)
    _check_apart(gaps, names)
    usual = float(np.median(gaps))
    even = np.abs(gaps - usual) <= GAP_TOLERANCE * usual
    if even.all():
        return float(gaps.mean()), np.arange(count), tuple((n, 0.0) for n in range(count))
    # Positions are rounded: over hundreds of slices the median's error would add up to slices of its own.
    usual = float(gaps[even].mean()) if even.any() else usual
    # The grid is sized after the check: one far slice must not make millions.
    if gaps.max() > WIDEST_GAP * usual:
        raise _uneven(gaps, usual, names)
    length = float(heights_mm[-1] - heights_mm[0])
    depth = round(length / usual) + 1
    places = (heights_mm - heights_mm[0]) * ((depth - 1) / length)
    sources = tuple(_source(places, k) for k in range(depth))
    if sum(weight > 0 for _, weight in sources) > MADE_SHARE * depth:
        raise _uneven(gaps, usual, names)
    return length / (depth - 1), places, sources


def _source(places: Array, k: int) -> tuple[int, float]:
    """The slice at (or closest below) place k of the grid, and the weight of the next one."""
    nearest = int(np.argmin(np.abs(places - k)))
    if abs(places[nearest] - k) <= GAP_TOLERANCE:
        return nearest, 0.0
    below = int(np.searchsorted(places, k)) - 1
    return below, float((k - places[below]) / (places[below + 1] - places[below]))


def _check_apart(gaps_mm: Array, names: Sequence[str]) -> None:
    same = np.flatnonzero(gaps_mm < SAME_POSITION_MM)
    if len(same):
        raise VolumeError(
            "duplicate_slices",
            f"{names[same[0]]} and {names[same[0] + 1]} lie at one place "
            f"({len(same)} such pairs); keep one of each, one phase per series",
        )


def _uneven(gaps_mm: Array, usual_mm: float, names: Sequence[str]) -> VolumeError:
    odd = np.flatnonzero(np.abs(gaps_mm - usual_mm) > GAP_TOLERANCE * usual_mm)
    reason = "missing_slices" if gaps_mm.max() > 1.5 * usual_mm else "uneven_slices"
    return VolumeError(
        reason,
        f"{names[odd[0]]} and {names[odd[0] + 1]} are {gaps_mm[odd[0]]:.2f} mm apart, "
        f"others {usual_mm:.2f} mm ({len(odd)} uneven gaps); complete the series, or resample it evenly",
    )


def _shifts(stack: Stack, order: Array) -> Array:
    """(n, 2) whole columns and rows to move each ascending slice by, the least of each 0."""
    positions = stack.positions_mm[order]
    way = positions[-1] - positions[0]
    length = float(np.linalg.norm(way))
    if length and float(way @ stack.normal) < np.cos(np.radians(MOST_TILT_DEG)) * length:
        raise VolumeError(
            "tilted",
            f"slices slide sideways by more than a gantry tilts ({MOST_TILT_DEG:.0f} degrees); "
            "resample the series upright",
        )
    slides_px = positions @ np.stack([stack.right, stack.down], axis=1) / stack.pixel_mm
    slides_px = slides_px - slides_px.min(0)
    straight = slides_px.max(0) < STRAIGHT_PX
    return np.where(straight, 0, np.rint(slides_px)).astype(int)
