"""Pictures of lesions: crops of a few slices, each an SVG of a PNG slice with the boxes as lines over it."""

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
from harvester.report.html import Html, tag

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


def slices_to_show(z_with_box: Sequence[int], depth: int, wanted: int) -> list[int]:
    """`wanted` slices, ascending: spread over those with a box, then neighbours; all of a thinner volume."""
    low, high = min(z_with_box), max(z_with_box)
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


def strip(slab: Volume, shown: Sequence[int], subject: Outline, others: Sequence[Outline], words: str) -> Html:
    """Slices of one lesion side by side; `slab` starts at the first of those `shown`.

    `words` is what a reader without pictures is given.
    """
    window_hu = WINDOWS[window_for(slab, shown[0], subject)]
    frame_mm = _frame(slab, subject)
    pictures = []
    for z in shown:
        grey = _grey(slab, z - shown[0], frame_mm, window_hu)
        lines = [_line(slab, o, z, o is subject) for o in (*others, subject) if z in o.boxes_xyxy_px]
        pictures.append(_svg(grey, lines, frame_mm, z, f"{words}, slice {z}"))
    return tag("div", *pictures, class_="slices")


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


def _line(volume: Volume, outline: Outline, z: int, bold: bool) -> Html:
    _, spacing_y, spacing_x = volume.spacing_zyx_mm
    box = np.array(outline.boxes_xyxy_px[z], dtype=np.float64)
    x1, y1, x2, y2 = boxes_to_mm(box, spacing_x, spacing_y).tolist()
    style: dict[str, str | float] = {"stroke_dasharray": "3 2"} if outline.dashed else {}
    return tag(
        "rect", x=f"{x1:.2f}", y=f"{y1:.2f}", width=f"{x2 - x1:.2f}", height=f"{y2 - y1:.2f}", fill="none",
        stroke=outline.colour, stroke_width=1.6 if bold else 1.0, **style,
    )  # fmt: skip


def _svg(grey: Grey, lines: Sequence[Html], frame_mm: tuple[float, float, float], z: int, words: str) -> Html:
    left, top, side = frame_mm
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    place = {"x": f"{left:.2f}", "y": f"{top:.2f}", "width": f"{side:.2f}", "height": f"{side:.2f}"}
    image = tag("image", href=data_uri(buffer.getvalue(), "image/png"), **place)
    box = f"{left:.2f} {top:.2f} {side:.2f} {side:.2f}"
    corner = {"x": f"{left + 0.03 * side:.2f}", "y": f"{top + 0.97 * side:.2f}", "font_size": f"{side / 13:.2f}"}
    return tag(
        "svg", image, *lines, tag("text", f"z {z}", class_="z", **corner), viewBox=box, role="img", aria_label=words
    )
