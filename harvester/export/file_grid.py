"""Where a stored volume lies in its file, as import placed it: the file's own slices, and the patient's space.

A tilted or uneven series has no one affine. Its own slices are those of `slices`; mm are of the even, upright grid in
which import assembled them, where every slice lies to half a pixel and a tenth of a slice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from harvester.errors import VolumeError
from harvester.geometry import SAME_SPACING, Array
from harvester.imaging.dicom.reader import read_series_grid
from harvester.imaging.nifti.file import Header, read_header
from harvester.imaging.orientation import RAS_TO_LPS
from harvester.imaging.slice_map import SliceMap
from harvester.labels.deeplesion.volume_ids import split_id
from harvester.records import Placed


@dataclass(frozen=True, eq=False)
class FileGrid:
    """A file's voxels.

    slices      where the file's own slices lie in the grid (i, j, k), and how that became the stored (x, y, z)
    affine_lps  (4, 4), voxel index (i, j, k) of the grid to mm to the patient's left, back and head
    headers     DICOM alone: the file of each of its slices, without pixels
    nifti       NIfTI alone: its header
    """

    slices: SliceMap
    affine_lps: Array
    headers: tuple[pydicom.Dataset, ...] = ()
    nifti: Header | None = None

    def axial(self) -> SliceMap:
        """The file's slices, or the stored ones where boxes on those lie on no slice of the file."""
        orientation = self.slices.orientation
        if orientation.axes[2] == 2:
            return self.slices
        columns, rows, depth = (orientation.shape[axis] for axis in orientation.axes)
        return SliceMap.stored(columns, rows, depth)

    def corners(self, placed: Sequence[Placed]) -> tuple[Array, Array]:
        """Outer corners (3,), low and high, in the grid's continuous voxel indices of the box round all boxes.

        A voxel's centre has its whole index, so that voxel 0 reaches from -0.5 to 0.5.
        """
        x1, y1, z1 = np.min([(x, y, z) for z, (x, y, _, _) in placed], axis=0)
        x2, y2, z2 = np.max([(x, y, z) for z, (_, _, x, y) in placed], axis=0)
        orientation, ends = self.slices.orientation, np.array([(x1, y1, z1), (x2, y2, z2)])
        last = np.array(orientation.shape)[list(orientation.axes)] - 1
        ends = np.where(orientation.flips, last - ends, ends)[:, np.argsort(orientation.axes)]
        return ends.min(axis=0) - 0.5, ends.max(axis=0) + 0.5


def stored_grid(volume: Mapping[str, Any]) -> FileGrid:
    """The stored order as a file's, for a manifest row: its first voxel's centre is at 0 mm.

    Slices ascend to the head, those of DeepLesion, known by its ids, to the feet (decision 0008).
    """
    spacing = [volume[f"spacing_{axis}_mm"] for axis in "xyz"]
    spacing[2] *= -1 if split_id(volume["volume_id"]) else 1
    slices = SliceMap.stored(volume["width"], volume["height"], volume["depth"])
    return FileGrid(slices, np.diag([*spacing, 1.0]))


def nifti_grid(file: Path, volume: Mapping[str, Any], max_voxels: int, form: str = "auto") -> FileGrid:
    """The grid of a NIfTI file, which must still be that of the stored volume. Raises VolumeError."""
    header = read_header(file, volume["volume_id"], max_voxels, form)
    grid = FileGrid(SliceMap.of(header.orientation()), RAS_TO_LPS @ header.affine_ras, nifti=header)
    return _checked(grid, volume)


def dicom_grid(files: Sequence[Path], volume: Mapping[str, Any]) -> FileGrid:
    """The grid and headers of a CT series' files, which must still be the stored volume's. Raises VolumeError."""
    headers, assembled = read_series_grid(files, volume["volume_id"])
    ascending = tuple(headers[index] for index in assembled.order)
    return _checked(FileGrid(assembled.slices, assembled.affine_lps, ascending), volume)


def _checked(grid: FileGrid, volume: Mapping[str, Any]) -> FileGrid:
    orientation = grid.slices.orientation
    shape = tuple(orientation.shape[axis] for axis in orientation.axes)
    want = tuple(volume[name] for name in ("width", "height", "depth"))
    lengths = np.linalg.norm(grid.affine_lps[:3, :3], axis=0)
    spacing = np.array([lengths[axis] for axis in orientation.axes])
    stored = np.array([volume[f"spacing_{axis}_mm"] for axis in "xyz"])
    if shape != want or np.any(np.abs(spacing - stored) > SAME_SPACING * stored):
        raise VolumeError(
            "changed",
            f"volume {volume['volume_id']}: its file has {shape} voxels of {spacing.round(3).tolist()} mm, the store "
            f"{want} of {stored.round(3).tolist()} mm (x, y, z); give the scans as they were prepared",
        )
    return grid
