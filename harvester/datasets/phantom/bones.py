"""The bones of a phantom's torso."""

import numpy as np

from harvester.datasets.phantom.anatomy import Body
from harvester.datasets.phantom.canvas import Box, Canvas, Tissue, cover_of
from harvester.geometry import Array


def paint_bones(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Vertebrae with discs, canal and processes, ribs with cartilage in front, and the breastbone."""
    marrow = rng.uniform(130, 240)
    _paint_ribs(canvas, body, marrow)
    box = canvas.box((-55, 25, -1000), (55, 160, 1000))
    _paint_spine(canvas, body.crop(box), box, marrow)
    box = canvas.box((-45, -160, 235), (45, -30, 1000))
    near = body.crop(box)
    breast = np.sqrt((near.x / 21) ** 2 + ((near.wall_mm - 5) / 6) ** 2) * 6 - 6
    breast = np.maximum(np.maximum(breast, near.y + 40), 245 - near.z)
    _paint_bone(canvas, breast, marrow - 20 + 40 * near.fine, 230.0, box)


def _paint_spine(canvas: Canvas, near: Body, box: Box, marrow: float) -> None:
    phase = np.mod(near.z + 9, 33)
    disc = cover_of(np.minimum(phase, 33 - phase) - 4.5, 3.0)
    vertebra = (np.sqrt((near.x / 20) ** 2 + ((near.y - 62) / 15.5) ** 2) - 1) * 16 + 1.5 * (1 - disc)
    _paint_bone(canvas, vertebra, marrow + 45 * near.fine, 330.0, box)
    canvas.paint(cover_of(vertebra + 3) * disc, 85.0, box)
    canal = np.sqrt(near.x**2 + (near.y - 87) ** 2) - 9
    spinous = np.maximum(np.abs(near.x) - 3.5 - 2 * disc, np.abs(near.y - 106) - 11 * (1 - 0.5 * disc))
    side = np.maximum(np.abs(near.y - 84 - 0.25 * np.abs(near.x)) - 4, np.abs(near.x) - 33) + 12 * disc
    # Processes end under the skin, however flat the back is pressed.
    outside = np.where(np.isin(canvas.tissue[box], (Tissue.OUTSIDE, Tissue.FAT_SKIN)), np.float32(9), np.float32(-9))
    processes = np.minimum(np.minimum(np.abs(canal - 3) - 3 + 2.5 * disc, spinous), side)
    _paint_bone(canvas, np.maximum(np.maximum(processes, -canal), outside), marrow + 60 + 60 * near.fine, 380.0, box)
    canvas.paint(cover_of(canal), 28.0, box, Tissue.OTHER)


def _paint_ribs(canvas: Canvas, body: Body, marrow: float) -> None:
    near = np.flatnonzero((np.abs(body.wall_mm - 4.5) < 8).ravel() & (body.z.ravel() > 105))
    x, y, z, wall = (sheet.ravel()[near] for sheet in (body.x, body.y, body.z, body.wall_mm))
    band = np.mod(z - 0.72 * y, 25) - 12.5
    rib = (np.sqrt((band / 7) ** 2 + ((wall - 4.5) / 4.3) ** 2) - 1) * 4.3
    rib = np.maximum(rib, np.maximum(24 - np.abs(x), 105 + 0.4 * np.abs(y) - z))
    cover, core = cover_of(rib), cover_of(rib + 2.2)
    front = np.clip((-42 - y) / 12, 0, 1)
    bone = cover * ((1 - front) * 480 + front * 110) - core * (1 - front) * (450 - marrow)
    flat, codes = canvas.hu.reshape(-1), canvas.tissue.reshape(-1)
    flat[near] = flat[near] * (1 - cover) + bone
    codes[near[cover > 0.3]] = Tissue.OTHER


def _paint_bone(canvas: Canvas, sdf: Array, marrow: Array, cortex: float, box: Box) -> None:
    canvas.paint(cover_of(sdf), marrow + cortex, box, Tissue.OTHER)
    canvas.paint(cover_of(sdf + 2.4), marrow, box)
