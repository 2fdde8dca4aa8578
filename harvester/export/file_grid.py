"""Where a stored volume lies in its file: the way back from the stored order, and the file's place in the patient."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from harvester.errors import LabelError, VolumeError
from harvester.imaging.orientation import Turn

Array = NDArray[Any]
Box = tuple[float, float, float, float]
RAS_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_SPACING: Final = 0.01
"""Share by which a file's spacing may differ from the stored one."""
BROKEN: Final = (
    AttributeError,
    EOFError,
    IndexError,
    InvalidDicomError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What pydicom raises for files that are cut short or nested too deep."""
TEXT: Final = re.compile(r"([+-])([012])([+-])([012])([+-])([012]) (\d+)x(\d+)x(\d+)")


@dataclass(frozen=True, eq=False)
class Grid:
    """A file's voxels.

    turn        how the file's (i, j, k) became the stored (x, y, z)
    affine_lps  (4, 4), voxel index (i, j, k) to mm to the patient's left, back and head
    headers     DICOM alone: the file of each slice k, without pixels
    """

    turn: Turn
    affine_lps: Array
    headers: tuple[pydicom.Dataset, ...] = ()

    def axial(self) -> "Grid":
        """Itself, or the stored order where boxes of the stored slices lie on no slice of the file."""
        if self.turn.axes[2] == 2:
            return self
        columns, rows, depth = (self.turn.shape[axis] for axis in self.turn.axes)
        return replace(self, turn=_as_stored(columns, rows, depth))

    def corners(self, z: Sequence[int], boxes_xyxy: Sequence[Box]) -> tuple[Array, Array]:
        """Outer corners (3,), low and high, in the file's continuous voxel indices of the box round all boxes.

        A voxel's centre has its whole index, so that voxel 0 reaches from -0.5 to 0.5.
        """
        sides = np.array(boxes_xyxy)
        low_xyz = np.array([*sides[:, :2].min(axis=0), min(z)]) - 0.5
        high_xyz = np.array([*sides[:, 2:].max(axis=0), max(z)]) + 0.5
        low, high = np.zeros(3), np.zeros(3)
        for stored, axis in enumerate(self.turn.axes):
            ends = (low_xyz[stored], high_xyz[stored])
            if self.turn.flips[stored]:
                ends = (self.turn.shape[axis] - 1 - ends[1], self.turn.shape[axis] - 1 - ends[0])
            low[axis], high[axis] = ends
        return low, high


def stored_grid(volume: Mapping[str, Any]) -> Grid:
    """The stored order as a file's, for a manifest row: its first voxel's centre is at 0 mm."""
    spacing = [volume[f"spacing_{axis}_mm"] for axis in "xyz"]
    turn = _as_stored(volume["width"], volume["height"], volume["depth"])
    return Grid(turn, np.diag([*spacing, 1.0]))


def nifti_grid(file: Path, volume: Mapping[str, Any]) -> Grid:
    """The grid of a NIfTI file, which must still be that of the stored volume. Raises VolumeError."""
    try:
        image: Any = nibabel.load(file)
    except (OSError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise _unreadable(volume, error) from None
    shape = image.shape[:3]
    return _checked(Grid(Turn.of(image.affine, shape), RAS_TO_LPS @ image.affine), volume)


def dicom_grid(files: Sequence[Path], volume: Mapping[str, Any]) -> Grid:
    """The grid of a CT series' files, slices ascending along their normal, with their headers. Raises VolumeError."""
    try:
        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        return _checked(_arranged(headers), volume)
    except BROKEN as error:
        raise _unreadable(volume, error) from None


def turn_text(turn: Turn) -> str:
    """A turn in one cell of a table: the file axis of stored x, y and z with its sign, and the file's shape."""
    axes = "".join(f"{'-' if flip else '+'}{axis}" for axis, flip in zip(turn.axes, turn.flips, strict=True))
    return f"{axes} {'x'.join(map(str, turn.shape))}"


def turn_of(text: str) -> Turn:
    """The turn that `turn_text` wrote. Raises LabelError."""
    found = TEXT.fullmatch(text.strip())
    if not found or sorted(found.group(2, 4, 6)) != ["0", "1", "2"]:
        raise LabelError("`turn` is not as it was exported; want such as +0+1+2 512x512x64")
    a, b, c, i, j, k = (int(found.group(at)) for at in (2, 4, 6, 7, 8, 9))
    signs = [found.group(at) == "-" for at in (1, 3, 5)]
    return Turn((a, b, c), (signs[0], signs[1], signs[2]), (i, j, k))


def _as_stored(width: int, height: int, depth: int) -> Turn:
    return Turn((0, 1, 2), (False, False, False), (width, height, depth))


def _arranged(headers: Sequence[pydicom.Dataset]) -> Grid:
    right, down = np.array(headers[0].ImageOrientationPatient, np.float64).reshape(2, 3)
    normal = np.cross(right, down)
    places = np.array([header.ImagePositionPatient for header in headers], np.float64)
    order = np.argsort(places @ normal, kind="stable")
    places = places[order]
    # Upright slices: what slides sideways (a tilted gantry) was resampled for the store, or refused.
    way = (places[-1] - places[0]) / max(1, len(places) - 1)
    gap = float(way @ normal) or float(headers[0].get("SliceThickness") or 1)
    if np.linalg.norm(way) * np.cos(np.radians(5)) > gap:
        raise ValueError("tilted")
    row_mm, column_mm = (float(value) for value in headers[0].PixelSpacing)  # PixelSpacing is (row, column)
    affine = np.eye(4)
    affine[:3] = np.stack([right * column_mm, down * row_mm, normal * gap, places[0]], axis=1)
    shape = (int(headers[0].Columns), int(headers[0].Rows), len(headers))
    return Grid(Turn.of(RAS_TO_LPS @ affine, shape), affine, tuple(headers[at] for at in order))


def _checked(grid: Grid, volume: Mapping[str, Any]) -> Grid:
    shape = tuple(grid.turn.shape[axis] for axis in grid.turn.axes)
    want = tuple(volume[name] for name in ("width", "height", "depth"))
    lengths = np.linalg.norm(grid.affine_lps[:3, :3], axis=0)
    spacing = np.array([lengths[axis] for axis in grid.turn.axes])
    stored = np.array([volume[f"spacing_{axis}_mm"] for axis in "xyz"])
    if shape != want or np.any(np.abs(spacing - stored) > SAME_SPACING * stored):
        raise VolumeError(
            "changed",
            f"volume {volume['volume_id']}: its file has {shape} voxels of {spacing.round(3).tolist()} mm, the store "
            f"{want} of {stored.round(3).tolist()} mm (x, y, z); give the scans as they were prepared",
        )
    return grid


def _unreadable(volume: Mapping[str, Any], error: Exception) -> VolumeError:
    """The error's class alone: its text may name the path."""
    why = "its slices slide sideways" if str(error) == "tilted" else type(error).__name__
    return VolumeError(
        "unreadable", f"volume {volume['volume_id']}: its file cannot be placed in the patient ({why})"
    )
