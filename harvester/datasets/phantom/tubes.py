"""What runs through a phantom's torso as tubes: great vessels, airways, trees of vessels, gut.

They are the detector's first trap: a tube across a slice is as round as a lesion, but it goes on in the next.
"""

from typing import Final

import numpy as np

from harvester.datasets.phantom.anatomy import Body, Patient
from harvester.datasets.phantom.canvas import Box, Canvas, Points, Tissue, chain_sdf, cover_of, segment_boxes, tube_sdf
from harvester.geometry import Array

Path = tuple[tuple[float, float, float, float], ...]

# Chains of (x, y, z, radius) in the standard body.
AORTA: Final[Path] = (
    (9, 34, -60, 9), (8, 34, 100, 10), (10, 36, 200, 11), (20, 38, 260, 12), (24, 34, 335, 12),
    (20, 18, 366, 13), (6, -8, 374, 14), (-10, -22, 358, 15), (-14, -20, 325, 16), (-6, -14, 285, 16),
)  # fmt: skip
VEINS: Final[tuple[Path, ...]] = (
    ((-18, 32, -60, 11), (-20, 30, 120, 12), (-22, 14, 205, 13), (-22, 0, 245, 13)),
    ((-24, -12, 285, 9), (-25, -17, 400, 8), (-22, -20, 470, 7)),
    ((6, -34, 298, 13), (10, -20, 322, 13), (34, 4, 324, 9)),
    ((10, -20, 322, 13), (-12, -2, 318, 11), (-38, 5, 312, 8)),
    ((-9, 45, 150, 3.5), (-8, 46, 330, 4.5), (-22, 10, 345, 4.5)),
    ((2, 6, 20, 5), (-2, 2, 120, 6), (-30, -2, 142, 7), (-46, -5, 155, 6)),
    ((-2, 5, 122, 5), (40, 18, 142, 4.5), (74, 22, 168, 4)),
    ((-18, 30, 104, 5), (-50, 36, 100, 4)),
    ((-14, 26, 118, 5), (20, 24, 122, 4.5), (52, 34, 114, 4)),
)  # fmt: skip
MUSCLES: Final[tuple[Path, ...]] = (
    ((-37, 58, -60, 23), (-36, 60, 50, 19), (-25, 62, 130, 9)),
    ((37, 58, -60, 23), (36, 60, 50, 19), (25, 62, 130, 9)),
    ((4, 26, 440, 6.5), (4, 29, 300, 6.5), (9, 24, 228, 7), (28, 2, 205, 8)),
    ((-72, 46, 213, 4), (-20, 50, 185, 6), (-10, 52, 140, 5)),
    ((62, 46, 205, 4), (22, 50, 180, 6), (12, 52, 140, 5)),
)  # fmt: skip
PANCREAS: Final[Path] = ((-28, -4, 104, 13), (-16, -8, 124, 11), (14, -10, 134, 9), (62, 14, 152, 11))
AIRWAYS: Final[tuple[Path, ...]] = (
    ((0, 12, 470, 8.5), (0, 15, 342, 8.5), (-20, 14, 322, 7), (-44, 12, 300, 5)),
    ((0, 15, 342, 8), (22, 17, 318, 6.5), (44, 14, 300, 5)),
)  # fmt: skip
COLON: Final[Path] = (
    (-94, 10, -40, 21), (-92, 4, 60, 20), (-82, -24, 92, 18), (-20, -62, 74, 16), (50, -60, 88, 15),
    (86, -26, 150, 15), (94, 14, 120, 14), (98, 18, -40, 14),
)  # fmt: skip


def paint_vessels(canvas: Canvas, patient: Patient, body: Body, rng: np.random.Generator) -> None:
    """Psoas and gullet, pancreas, great vessels, windpipe; then the trees of lung and liver."""
    hu = patient.phase_levels
    for path in MUSCLES:
        _paint_path(canvas, patient, body, path, hu["muscle"] - 4)
    _paint_path(canvas, patient, body, PANCREAS, hu["muscle"] + 20 - 30 * np.abs(body.fine), 1.6)
    for path in VEINS:
        _paint_path(canvas, patient, body, path, hu["vein"])
    _paint_path(canvas, patient, body, AORTA, hu["aorta"])
    for path in AIRWAYS:
        _paint_path(canvas, patient, body, path, 20.0, grow_mm=1.8)
        _paint_path(canvas, patient, body, path, -990.0)
    _paint_lung_trees(canvas, patient, rng)
    _paint_liver_trees(canvas, patient, rng)


def _paint_path(
    canvas: Canvas, patient: Patient, body: Body, path: Path, value: float | Array, bumps_mm: float = 0.4,
    grow_mm: float = 0.0,
) -> None:  # fmt: skip
    sdf, box = _path_sdf(canvas, patient, body, path)
    if sdf.size:
        level = value[box] if isinstance(value, np.ndarray) else value
        canvas.paint(cover_of(sdf - grow_mm + bumps_mm * body.fine[box]), level, box, Tissue.OTHER)


def _path_sdf(canvas: Canvas, patient: Patient, body: Body, path: Path) -> tuple[Array, Box]:
    """Signed distance to a chain in the standard body, in the box around what is visible of it, empty for nothing."""
    points, radii = np.array(path)[:, :3], np.array(path)[:, 3]
    scale, margin = np.array(patient.scale_xyz), radii[:, None] + 3 * patient.warp_mm + 4
    parts = segment_boxes(canvas, (points - margin) * scale, (points + margin) * scale)
    seen = [part for part in parts if all(side.start < side.stop for side in part)] or parts[:1]
    z, y, x = (slice(min(a.start for a in sides), max(a.stop for a in sides)) for sides in zip(*seen, strict=True))
    return chain_sdf(body.offsets, (z, y, x), parts, points, radii), (z, y, x)


def wander(rng: np.random.Generator, start: Points, heading: Points, steps: int, step_mm: float, bend: float) -> Points:
    """(steps + 1, 3) points of a walk whose heading turns by about `bend` radians per step."""
    points = [start]
    for _ in range(steps):
        heading = heading / np.linalg.norm(heading) + rng.normal(0, bend / 1.7, 3)
        points.append(points[-1] + step_mm * heading / np.linalg.norm(heading))
    return np.array(points)


def _paint_lung_trees(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> None:
    level = patient.phase_levels["lung_vessel"]
    for side in (-1, 1):
        hilum = np.array([36.0 * side, 6, 308]) * patient.scale_xyz
        for _ in range(16):
            heading = np.array([0.9 * side, 0.2, 0]) + rng.normal(0, 0.8, 3)
            _paint_tree(canvas, rng, hilum, heading, rng.uniform(2.6, 5), level, Tissue.LUNG, children=5)


def _paint_liver_trees(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> None:
    level = patient.phase_levels["liver"] + patient.phase_levels["liver_vessel"]
    for root, heading, count in (((-20, 8, 212), (-0.7, -0.3, -0.6), 4), ((-42, -6, 152), (-0.3, -0.2, 0.3), 6)):
        start = np.array(root, float) * patient.scale_xyz
        for _ in range(count):
            turned = np.array(heading) + rng.normal(0, 0.6, 3)
            _paint_tree(canvas, rng, start, turned, rng.uniform(3.2, 5.5), level, Tissue.LIVER, children=3)


def _paint_tree(
    canvas: Canvas, rng: np.random.Generator, root: Points, heading: Points, radius_mm: float, level: float,
    clip: int, children: int,
) -> None:  # fmt: skip
    trunk = wander(rng, root, heading, 9, 13.0, 0.35)
    paint_tube(canvas, trunk, np.linspace(radius_mm, 0.9, 10), level, clip)
    for joint in rng.integers(1, 8, children):
        turned = trunk[joint + 1] - trunk[joint] + rng.normal(0, 9, 3)
        branch = wander(rng, trunk[joint], turned, 5, 10.0, 0.4)
        thick = max(1.0, 0.75 * radius_mm * (1 - joint / 10))
        paint_tube(canvas, branch, np.linspace(thick, 0.7, 6), level, clip)


def paint_tube(canvas: Canvas, points: Points, radii: Array, level: float, clip: int) -> None:
    """A soft-edged tube in canvas mm, only inside the organ `clip`."""
    sdf, box = tube_sdf(canvas, points, radii)
    canvas.paint(cover_of(sdf) * canvas.within((clip,), box), level, box)


def paint_wires(canvas: Canvas, rng: np.random.Generator) -> None:
    """Up to three leads on the chest's skin, outside the body."""
    middle = len(canvas.z) // 2
    for column in rng.integers(len(canvas.x) // 4, 3 * len(canvas.x) // 4, rng.integers(0, 4)):
        skin_y = canvas.y[(canvas.tissue[middle, :, column] != Tissue.OUTSIDE).argmax()]
        start = np.array([canvas.x[column], skin_y - rng.uniform(0, 12), canvas.z[0]], float)
        line = wander(rng, start, np.array([rng.normal(0, 0.6), 0, 1]), 8, 14.0, 0.3)
        sdf, box = tube_sdf(canvas, line, np.full(len(line), rng.uniform(1, 2.2)))
        if sdf.size:
            outside = canvas.within((Tissue.OUTSIDE,), box)
            canvas.paint(cover_of(sdf) * outside, rng.uniform(100, 1600), box)


def paint_gut(canvas: Canvas, patient: Patient, body: Body, rng: np.random.Generator) -> None:
    """Colon with stools, loops of small bowel with gas, fluid or contrast, and thin mesenteric vessels."""
    sdf, box = _path_sdf(canvas, patient, body, COLON)
    if sdf.size:
        stools = 20 + rng.uniform(40, 160) * np.minimum(body.fine[box] + 0.3, 0.4) * 2
        sdf = sdf + 2.5 * body.coarse[box]
        _paint_loop(canvas, sdf, box, patient, np.where(body.fine[box] > 0.9, np.float32(-850), stools))
    for _ in range(16):
        start = np.array([rng.uniform(-75, 75), rng.uniform(-62, 20), rng.uniform(-30, 118)]) * patient.scale_xyz
        flat = np.array([rng.normal(), rng.normal(), 0.5 * rng.normal()])
        paint_loop(canvas, patient, body, wander(rng, start, flat, 5, 20.0, 0.9), rng.uniform(8, 13), rng)
    for _ in range(24):
        start = np.array([rng.uniform(-80, 80), rng.uniform(-60, 25), rng.uniform(-30, 140)]) * patient.scale_xyz
        points = wander(rng, start, rng.normal(0, 1, 3), 4, 14.0, 0.5)
        thin = np.linspace(rng.uniform(1.2, 2.8), 0.8, 5)
        paint_tube(canvas, points, thin, patient.phase_levels["vein"], Tissue.FAT_BELLY)


def paint_loop(
    canvas: Canvas, patient: Patient, body: Body, points: Points, radius_mm: float, rng: np.random.Generator
) -> None:
    """One loop of small bowel through `points` (canvas mm), in the belly's fat."""
    sdf, box = tube_sdf(canvas, points, np.full(len(points), radius_mm))
    if not sdf.size:
        return
    content = rng.choice([rng.uniform(15, 60), rng.uniform(15, 60), rng.uniform(120, 320), -900.0])
    lumen = content + rng.uniform(2, 10) * body.fine[box]
    if content > -900 and rng.random() < 0.25:
        level = canvas.y[box[1]][None, :, None] < points[:, 1].mean() - 0.3 * radius_mm
        lumen = np.where(level, np.float32(-900), lumen)
    _paint_loop(canvas, sdf + 0.9 * body.coarse[box], box, patient, lumen)


def _paint_loop(canvas: Canvas, sdf: Array, box: Box, patient: Patient, lumen: Array) -> None:
    in_fat = canvas.within((Tissue.FAT_BELLY,), box)
    cover = cover_of(sdf) * in_fat
    canvas.paint(cover, patient.phase_levels["muscle"] + 15, box, Tissue.OTHER)
    canvas.paint(cover_of(sdf + 2.6) * in_fat, lumen, box)
