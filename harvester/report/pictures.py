"""Pictures of lesions: crops of a few slices, each a PNG with the boxes that are drawn over it (page/macros.html)."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harvester.geometry import boxes_to_mm
from harvester.imaging.hounsfield import AIR_HU, windowed
from harvester.imaging.interpolation import Taps, between
from harvester.records import Volume

Grey = NDArray[np.uint8]

CONTEXT_MM: Final = 100.0
"""Side of a crop; wider where the box alone takes most of it."""
WINDOWS: Final = {"lung": (-1350.0, 150.0), "soft tissue": (-160.0, 240.0)}
SHOWN_PX: Final = 200
"""Side of a crop's PNG: about what one slice takes on the page."""


@dataclass(frozen=True)
class Outline:
    """A lesion in pictures: boxes by slice in inclusive pixels, a colour, and whether its line is dashed."""

    boxes_xyxy_px: Mapping[int, tuple[float, float, float, float]]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Box:
    """A rectangle over a slice, in mm from the volume's outer corner."""

    x_mm: float
    y_mm: float
    width_mm: float
    height_mm: float
    colour: str
    bold: bool
    dashed: bool


@dataclass(frozen=True)
class Slice:
    """One slice of a strip. words: what a reader without pictures is given; png: the crop, as a data URI."""

    z: int
    words: str
    png: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Strip:
    """Slices of one lesion side by side, cropped to a square: its left, top and side, as those of Box."""

    left_mm: float
    top_mm: float
    side_mm: float
    slices: tuple[Slice, ...]


def slices_to_show(z_with_box: Sequence[int], depth: int, wanted: int) -> list[int]:
    """`wanted` slices, ascending: spread over the middle of those with a box, then neighbours; all of a thinner volume.

    On the first and last slices of a long find little or nothing is left of it.
    """
    low, high = min(z_with_box), max(z_with_box)
    ends = max(0, min((high - low + 1) // 5, (high - low + 1 - wanted) // 2))
    low, high = low + ends, high - ends
    missing = wanted - (high - low + 1)
    if missing > 0:
        low = max(0, low - (missing + 1) // 2)
        high = min(depth - 1, low + wanted - 1)
        low = max(0, high - wanted + 1)
    evenly = np.linspace(low, high, min(wanted, high - low + 1))
    return sorted({int(z) for z in np.round(evenly)})


def window_for(slab: Volume, first_z: int, outline: Outline) -> str:
    """The window to look through: lung where most of the box and a rim half as wide is lung or air."""
    with_box = sorted(outline.boxes_xyxy_px)
    z = with_box[len(with_box) // 2]
    x1, y1, x2, y2 = outline.boxes_xyxy_px[z]
    rim_x, rim_y = (x2 - x1 + 1) / 2, (y2 - y1 + 1) / 2
    rows = slice(max(0, int(y1 - rim_y)), max(1, int(y2 + rim_y) + 1))
    columns = slice(max(0, int(x1 - rim_x)), max(1, int(x2 + rim_x) + 1))
    around = slab.hu_zyx[z - first_z, rows, columns]
    return "lung" if around.size and float((around < -500).mean()) > 1 / 2 else "soft tissue"


def strip(slab: Volume, shown: Sequence[int], subject: Outline, others: Sequence[Outline], words: str) -> Strip:
    """Slices of one lesion side by side; `slab` starts at the first of those `shown`.

    `words` is what a reader without pictures is given.
    """
    window_hu = WINDOWS[window_for(slab, shown[0], subject)]
    frame_mm = _frame(slab, subject)
    slices = []
    for z in shown:
        grey = _grey(slab, z - shown[0], frame_mm, window_hu)
        boxes = [_box(slab, o, z, o is subject) for o in (*others, subject) if z in o.boxes_xyxy_px]
        slices.append(Slice(z, f"{words}, slice {z}", _png(grey), tuple(boxes)))
    return Strip(*frame_mm, tuple(slices))


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as something a page can carry inside."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _frame(volume: Volume, subject: Outline) -> tuple[float, float, float]:
    """Left, top and side of the square crop, in mm from the volume's outer corner."""
    _, spacing_y, spacing_x = volume.spacing_zyx_mm
    boxes_mm = boxes_to_mm(np.array(list(subject.boxes_xyxy_px.values())), spacing_x, spacing_y)
    low, high = boxes_mm[:, :2].min(axis=0), boxes_mm[:, 2:].max(axis=0)
    side = max(CONTEXT_MM, 1.6 * float((high - low).max()))
    left, top = (low + high) / 2 - side / 2
    return float(left), float(top), side


def _grey(volume: Volume, z: int, frame_mm: tuple[float, float, float], window_hu: tuple[float, float]) -> Grey:
    """(SHOWN_PX, SHOWN_PX) uint8, bilinear between voxel centres; air beyond the volume."""
    _, spacing_y, spacing_x = volume.spacing_zyx_mm
    left, top, side = frame_mm
    steps = (np.arange(SHOWN_PX) + 0.5) * side / SHOWN_PX
    plane = np.pad(volume.hu_zyx[z].astype(np.float32), 1, constant_values=AIR_HU)
    rows, columns = (top + steps) / spacing_y + 0.5, (left + steps) / spacing_x + 0.5
    hu = between(between(plane, 0, Taps.at(rows, len(plane))), 1, Taps.at(columns, plane.shape[1]))
    return np.asarray(np.rint(windowed(hu, [window_hu])[0] * 255).astype(np.uint8))


def _box(volume: Volume, outline: Outline, z: int, bold: bool) -> Box:
    _, spacing_y, spacing_x = volume.spacing_zyx_mm
    box = np.array(outline.boxes_xyxy_px[z], dtype=np.float64)
    x1, y1, x2, y2 = boxes_to_mm(box, spacing_x, spacing_y).tolist()
    return Box(x1, y1, x2 - x1, y2 - y1, outline.colour, bold, outline.dashed)


def _png(grey: Grey) -> str:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "image/png")
