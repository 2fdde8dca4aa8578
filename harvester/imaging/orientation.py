"""Turning scans into the stored order: (z, y, x), z to the head, y to the back, x to the patient's left."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from nibabel.orientations import io_orientation

from harvester.errors import VolumeError
from harvester.geometry import Array
from harvester.records import Box

RAS_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's axes run to the left, the back and the head, NIfTI's to the right, the front and the head."""


@dataclass(frozen=True)
class Orientation:
    """How a file's axes (i, j, k) become the stored (x, y, z).

    axes    which file axis gives x, y and z
    flips   whether each of x, y and z runs against its file axis
    shape   voxels along i, j and k
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, affine_ras: Array, shape: tuple[int, int, int]) -> "Orientation":
        """From a NIfTI affine (voxel index to RAS+ mm): a stored axis takes the file axis closest to it."""
        ornt = io_orientation(affine_ras)  # type: ignore[no-untyped-call]  # nibabel's has no types
        axes = [int(np.flatnonzero(ornt[:, 0] == axis)[0]) for axis in range(3)]
        # Stored x and y run to the left and the back, RAS+ to the right and the front.
        flips = [bool(ornt[axis, 1] == want) for axis, want in zip(axes, (1, 1, -1), strict=True)]
        return cls((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]), shape)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """The shape in the stored order."""
        x, y, z = (self.shape[axis] for axis in self.axes)
        return z, y, x

    def array(self, values_ijk: Array) -> Array:
        """The (z, y, x) view of an (i, j, k) array."""
        return self._flipped(values_ijk.transpose(self.axes[::-1]))

    def spacing_zyx_mm(self, spacing_ijk_mm: tuple[float, ...]) -> tuple[float, float, float]:
        """Spacing in the stored order."""
        x, y, z = (float(spacing_ijk_mm[axis]) for axis in self.axes)
        return z, y, x

    def box(self, k: int, box_ij: Box) -> tuple[int, float, float, float, float]:
        """(z, x1, y1, x2, y2) of the inclusive box (i1, j1, i2, j2) drawn on the file's slice k.

        Raises VolumeError where the file's slices are not axial: such a box is no box on a stored slice.
        """
        if self.axes[2] != 2:
            raise VolumeError("not_axial", "marks need axial slices as the file's last axis; reorder the file")
        (x1, x2), (y1, y2) = (self._across(axis, *sorted(box_ij[self.axes[axis] :: 2])) for axis in (0, 1))
        return self._slice(k), x1, y1, x2, y2

    def file_box(self, z: int, box_xyxy: Box) -> tuple[int, float, float, float, float]:
        """(k, i1, j1, i2, j2) in the file of the inclusive box (x1, y1, x2, y2) on the stored slice z: undoes `box`.

        Raises VolumeError where the file's slices are not axial.
        """
        if self.axes[2] != 2:
            raise VolumeError("not_axial", "the file's slices are not axial: a stored box is no box on one of them")
        ends = {self.axes[axis]: self._across(axis, *box_xyxy[axis::2]) for axis in (0, 1)}
        (i1, i2), (j1, j2) = ends[0], ends[1]
        return self._slice(z), i1, j1, i2, j2

    def file_array(self, values_zyx: Array) -> Array:
        """The (i, j, k) view of a stored (z, y, x) array: undoes `array`."""
        return self._flipped(values_zyx).transpose(2, 1, 0).transpose(np.argsort(self.axes))

    def _across(self, axis: int, low: float, high: float) -> tuple[float, float]:
        """Ends along a stored axis, from the file's order to the stored one or back."""
        last = self.shape[self.axes[axis]] - 1
        return (last - high, last - low) if self.flips[axis] else (low, high)

    def _slice(self, k: int) -> int:
        """The same of a slice, where slices are the file's last axis."""
        return self.shape[2] - 1 - k if self.flips[2] else k

    def _flipped(self, values_zyx: Array) -> Array:
        return values_zyx[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips[::-1])]
