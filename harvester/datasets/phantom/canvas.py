"""The sheet a phantom is drawn on: HU, tissue codes, smooth random fields, soft-edged solids.

Frames: `x, y, z` are mm from the image centre (x to the image's right, y to the back) and, for z, from the
iliac crest upwards. Slices are drawn as SUB_SLICES thinner ones and averaged: partial volume along z.
Whole sheets are float32 of shape (depth * SUB_SLICES, height, width).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harvester.config.data import Spacing
from harvester.geometry import Array

Codes = NDArray[np.uint8]
Box = tuple[slice, slice, slice]
Point = tuple[float, float, float]
Points = NDArray[np.float64]

SUB_SLICES: Final = 2
EDGE_MM: Final = 2.0
HEIGHT_MM: Final = 307.2
WIDTH_MM: Final = 358.4

Tissue = IntEnum(
    "Tissue",
    ["OUTSIDE", "LUNG", "LIVER", "KIDNEY", "SPLEEN", "FAT_CHEST", "FAT_BELLY", "MUSCLE", "FAT_SKIN", "OTHER"],
    start=0,
)


@dataclass(eq=False)
class Canvas:
    """One volume being drawn.

    x, y, z           voxel centres in mm, one vector per axis
    hu, tissue        the sheet so far; tissue holds the codes of this module
    clips             soft masks (0 to 1) of the organs that later solids must stay in
    """

    spacing_zyx_mm: Spacing
    x: Array
    y: Array
    z: Array
    hu: Array
    tissue: Codes
    clips: dict[int, Array] = field(default_factory=dict)

    def box(self, low: Point | Array, high: Point | Array) -> Box:
        """The voxels between two corners (x, y, z) in mm; an empty box outside of the canvas."""
        axes = zip((self.x, self.y, self.z), low, high, strict=True)
        x, y, z = (slice(*axis.searchsorted(ends).tolist()) for axis, *ends in axes)
        return z, y, x

    def within(self, codes: tuple[int, ...], box: Box) -> Array:
        """Where a box lies in an organ: its soft mask if the first of `codes` has one, else its tissues' voxels."""
        return self.clips[codes[0]][box] if codes[0] in self.clips else np.isin(self.tissue[box], codes)

    def paint(self, cover: Array, value: float | Array, box: Box = np.s_[:, :, :], code: int = -1) -> None:
        """Blend `value` (HU) into the box by `cover` (0 to 1); set the tissue code where above a half."""
        self.hu[box] += cover * (value - self.hu[box])
        if code >= 0:
            self.tissue[box][cover > 0.5] = code


def empty_canvas(spacing_zyx_mm: Spacing, depth: int, z_start_mm: float) -> Canvas:
    """Air, `depth` slices upwards from z_start_mm; height and width are the multiples of 16 px nearest to the
    field of view of 307 x 358 mm."""
    dz, dy, dx = spacing_zyx_mm
    height, width = (16 * max(1, round(mm / step / 16)) for mm, step in ((HEIGHT_MM, dy), (WIDTH_MM, dx)))
    z = z_start_mm + (np.arange(depth * SUB_SLICES) + 0.5) * dz / SUB_SLICES
    y, x = (np.arange(height) + 0.5 - height / 2) * dy, (np.arange(width) + 0.5 - width / 2) * dx
    shape = (z.size, height, width)
    hu, tissue = np.full(shape, -1000, np.float32), np.zeros(shape, np.uint8)
    return Canvas(spacing_zyx_mm, x.astype(np.float32), y.astype(np.float32), z.astype(np.float32), hu, tissue)


def smooth_field(canvas: Canvas, rng: np.random.Generator, knot_mm: float) -> Array:
    """A random field, mean 0 and standard deviation about 1, without detail below about 2 * knot_mm.

    A cubic B-spline over random knots. The knots cover z from -100 to 600 mm whatever the canvas shows, so
    the same `rng` state gives the same field to every volume of a patient.
    """
    spans = ((canvas.z, -100.0, 600.0), (canvas.y, -160.0, 160.0), (canvas.x, -190.0, 190.0))
    knots = rng.standard_normal([int((high - low) / knot_mm) + 4 for _, low, high in spans], np.float32)
    weights = [
        _spline_weights((axis - low) / knot_mm, size) for (axis, low, _), size in zip(spans, knots.shape, strict=True)
    ]
    rows = np.tensordot(weights[0], knots, 1) @ weights[2].T
    return np.asarray(3.0 * (weights[1] @ rows), np.float32)


def _spline_weights(position: Array, size: int) -> Array:
    t = np.abs(position[:, None] + 1 - np.arange(size, dtype=np.float32))
    inner = 2 / 3 - t**2 * (1 - t / 2)
    return np.where(t < 1, inner, np.clip(2 - t, 0, None) ** 3 / 6).astype(np.float32)


def cover_of(sdf_mm: Array, edge_mm: float = EDGE_MM) -> Array:
    """Share of a voxel inside a solid, from the signed distance to its surface (negative inside)."""
    cover = 0.5 - sdf_mm / np.float32(edge_mm)
    return np.clip(cover, 0, 1, out=cover)


def tube_sdf(canvas: Canvas, points: Points, radii: Array) -> tuple[Array, Box]:
    """Signed distance to a chain of tapering capsules through (n, 3) points (x, y, z), and the box it fills.

    The box is empty where the chain lies outside the canvas.
    """
    margin = radii[:, None] + EDGE_MM
    box = canvas.box((points - margin).min(0), (points + margin).max(0))
    return chain_sdf(
        partial(offsets, canvas), box, segment_boxes(canvas, points - margin, points + margin), points, radii
    ), box


def segment_boxes(canvas: Canvas, low: Points, high: Points) -> list[Box]:
    """The box of each part of a chain, from the (n, 3) corners around its points."""
    return [canvas.box(low[i : i + 2].min(0), high[i : i + 2].max(0)) for i in range(len(low) - 1)]


def chain_sdf(
    near: Callable[[Box, Array], tuple[Array, Array, Array]],
    box: Box,
    parts: Sequence[Box],
    points: Points,
    radii: Array,
) -> Array:
    """Signed distance in `box` to a chain's capsules, each in its part of it; elsewhere 9 mm, above any edge.

    `near` gives the (z, y, x) distances of a box's voxels from a point.
    """
    sdf = np.full([side.stop - side.start for side in box], 9.0, np.float32)
    for i, part in enumerate(parts):
        local = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(part, box, strict=True))
        distance = _capsule_sdf(near(part, points[i]), points[i : i + 2], radii[i : i + 2])
        if distance.size:
            np.minimum(sdf[local], distance, out=sdf[local])
    return sdf


def _capsule_sdf(from_start_zyx: tuple[Array, Array, Array], ends: Points, radii: Array) -> Array:
    """Signed distance to one tapering capsule between ends (2, 3) as (x, y, z), at offsets from its start."""
    dz, dy, dx = from_start_zyx
    ax, ay, az = (np.float32(step) for step in ends[1] - ends[0])
    length2 = np.float32(max(float(ax * ax + ay * ay + az * az), 1e-6))
    t = np.clip((dx * ax + dy * ay + dz * az) / length2, 0, 1)
    square = np.square(dx - t * ax)
    square += np.square(dy - t * ay)
    square += np.square(dz - t * az)
    return np.asarray(np.sqrt(square) - np.float32(radii[0]) - t * np.float32(radii[1] - radii[0]), np.float32)


def offsets(canvas: Canvas, box: Box, centre: Point | Array) -> tuple[Array, Array, Array]:
    """(z, y, x) distances in mm of the box's voxels from a point (x, y, z), shaped to broadcast."""
    x, y, z = (np.float32(value) for value in centre)
    return (
        (canvas.z[box[0]] - z)[:, None, None],
        (canvas.y[box[1]] - y)[None, :, None],
        (canvas.x[box[2]] - x)[None, None, :],
    )
