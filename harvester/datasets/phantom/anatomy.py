"""The torso of a phantom: a patient's build and the painting of wall, chest and belly.

Organs live in a standard body (mm): z = 0 iliac crest, 225 dome of the liver, 310 hila of the lungs. A
patient scales, warps and jitters it. Standard coordinates of every voxel are the arrays of `Body`.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from harvester.datasets.phantom.canvas import Box, Canvas, Point, Tissue, cover_of, smooth_field
from harvester.geometry import Array

LEVELS: Final = {
    "plain": (44.0, 42.0, 42.0, 58.0, 50.0, 34.0, 54.0, -18.0, 45.0),
    "arterial": (270.0, 95.0, 200.0, 72.0, 105.0, 140.0, 60.0, -20.0, 170.0),
    "portal": (155.0, 150.0, 135.0, 108.0, 118.0, 170.0, 64.0, 40.0, 120.0),
}
"""HU of the tissues of LEVEL_NAMES by contrast phase."""
LEVEL_NAMES: Final = ("aorta", "vein", "heart", "liver", "spleen", "kidney", "muscle", "liver_vessel", "lung_vessel")
"""Vessels of the liver are against it."""

ORGANS: Final = {
    # centre and radii (x, y, z) in the standard body
    "heart": ((20, -24, 258), (54, 43, 52)),
    "liver": ((-54, -6, 163), (78, 76, 78)),
    "left_lobe": ((12, -46, 186), (56, 30, 36)),
    "spleen": ((86, 26, 178), (26, 40, 44)),
    "stomach": ((52, -30, 172), (38, 34, 42)),
    "kidney_right": ((-58, 40, 98), (28, 25, 52)),
    "kidney_left": ((60, 38, 112), (28, 25, 52)),
    "gallbladder": ((-42, -44, 122), (14, 17, 26)),
}


@dataclass(frozen=True)
class Patient:
    """A build: everything that all volumes of a patient share. Scales are patient / standard, levels HU by tissue."""

    scale_xyz: Point
    fat_mm: float
    muscle_mm: float
    warp_mm: float
    phase_levels: dict[str, float]
    organs: dict[str, tuple[Point, Point]]
    has_gallbladder: bool
    field_seed: int


def draw_patient(rng: np.random.Generator) -> Patient:
    """A random build, contrast phase and set of organs."""
    phase = rng.choice(list(LEVELS), p=[0.25, 0.2, 0.55])
    organs = {name: _jitter(rng, *solid) for name, solid in ORGANS.items()}
    return Patient(
        scale_xyz=(rng.uniform(0.9, 1.04), rng.uniform(0.88, 1.06), rng.uniform(0.93, 1.08)),
        fat_mm=float(rng.choice([rng.uniform(6, 14), rng.uniform(12, 28)])),
        muscle_mm=rng.uniform(9, 14),
        warp_mm=rng.uniform(2.5, 5),
        phase_levels={
            name: level * rng.uniform(0.88, 1.12) for name, level in zip(LEVEL_NAMES, LEVELS[str(phase)], strict=True)
        },
        organs=organs,
        has_gallbladder=bool(rng.random() < 0.8),
        field_seed=int(rng.integers(2**31)),
    )


def _jitter(rng: np.random.Generator, centre: Point, radii: Point) -> tuple[Point, Point]:
    cx, cy, cz = (value + rng.normal(0, spread) for value, spread in zip(centre, (4, 4, 7), strict=True))
    rx, ry, rz = (value * rng.uniform(0.86, 1.14) for value in radii)
    return (cx, cy, cz), (rx, ry, rz)


@dataclass(frozen=True, eq=False)
class Body:
    """Standard coordinates of every voxel, and what is derived from them (all sheets of the canvas's shape).

    wall_mm    radial distance outside the inner wall of chest and belly (negative inside)
    dome_mm    height above the diaphragm
    coarse, fine   random fields, standard deviation 1, for textures
    """

    x: Array
    y: Array
    z: Array
    wall_mm: Array
    dome_mm: Array
    coarse: Array
    fine: Array

    def crop(self, box: Box) -> "Body":
        """The same body seen through a box of the canvas (views, no copies)."""
        return Body(**{name: sheet[box] for name, sheet in vars(self).items()})

    def offsets(self, box: Box, centre: Array) -> tuple[Array, Array, Array]:
        """(z, y, x) distances of the box's voxels from a point (x, y, z), in the standard body's mm."""
        x, y, z = centre.astype(np.float32)
        return self.z[box] - z, self.y[box] - y, self.x[box] - x


def lay_body(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> Body:
    """Standard coordinates of the canvas for a patient; `rng` only moves the fine texture."""
    warps = [smooth_field(canvas, np.random.default_rng([patient.field_seed, i]), 42.0) for i in range(3)]
    grid = (canvas.x[None, None, :], canvas.y[None, :, None], canvas.z[:, None, None])
    x, y, z = (
        axis / np.float32(scale) + np.float32(patient.warp_mm) * warp
        for axis, scale, warp in zip(grid, patient.scale_xyz, warps, strict=True)
    )
    coarse = smooth_field(canvas, np.random.default_rng([patient.field_seed, 3]), 16.0)
    return Body(x, y, z, _wall(x, y, z), _dome(x, y, z), coarse, smooth_field(canvas, rng, 4.5))


def _wall(x: Array, y: Array, z: Array) -> Array:
    narrow = 1 - 0.22 * (np.clip(z - 320, 0, None) / 110) ** 2
    u2, v2 = (x / (122 * narrow)) ** 2, ((y + 8) / (80 * narrow)) ** 2
    q = np.sqrt(np.sqrt(u2 * u2 + v2 * v2 + 1.3 * u2 * v2)) + 1e-3
    return np.asarray(np.sqrt(x * x + (y + 8) ** 2) * (1 - 1 / q), np.float32)


def _dome(x: Array, y: Array, z: Array) -> Array:
    right = x < 0
    across = (x - np.where(right, np.float32(-60), np.float32(62))) / 55
    along = (y + 4) / 62
    top = np.where(right, np.float32(228), np.float32(214))
    return np.asarray(z - top + 26 * (across * across + along * along), np.float32)


def paint_wall(canvas: Canvas, patient: Patient, body: Body, rng: np.random.Generator) -> None:
    """The table, skin, fat under it, muscle, and fat inside."""
    radius = np.sqrt(body.x * body.x + (body.y + 8) ** 2) + 1
    back = (body.y + 8) / radius
    rear = np.clip((back - 0.25) / 0.6, 0, 1)
    chest = np.clip((body.z - 290) / 60, 0, 1)
    muscle = patient.muscle_mm * (0.8 + 2.5 * rear * rear * (3 - 2 * rear) + chest * np.clip(-back, 0, 1) * 0.9)
    fat = patient.fat_mm * (0.75 + 0.35 * np.clip(-back, 0, 1)) + 0.8 * body.coarse
    outer = body.wall_mm - muscle - fat
    # The table presses the back flat.
    back_y = canvas.y[:, None][(outer < 0).any((0, 2))].max(initial=-1000)
    outer = np.maximum(outer, canvas.y[None, :, None] - (back_y - 7))
    _paint_table(canvas, back_y - 4, rng)
    canvas.paint(cover_of(outer), 10.0, code=Tissue.FAT_SKIN)
    canvas.paint(cover_of(outer + 2.2), -106 + 5 * body.coarse + 9 * np.clip(body.fine - 0.8, 0, None))
    inside = cover_of(np.maximum(body.wall_mm - muscle, outer + 4))
    streaks = 80 * np.clip(body.fine + 0.7 * body.coarse - 1.6, 0, 1.2)
    canvas.paint(inside, patient.phase_levels["muscle"] + 3 * body.coarse - streaks, code=Tissue.MUSCLE)
    cavity = cover_of(body.wall_mm)
    canvas.paint(cavity, -102 + 6 * body.coarse + 14 * np.clip(body.fine - 0.6, 0, None), code=Tissue.FAT_BELLY)


def _paint_table(canvas: Canvas, back_y: float, rng: np.random.Generator) -> None:
    """The table: a thin curved shell filled with foam."""
    bend = rng.uniform(0.0002, 0.0008)
    sag = canvas.y[:, None] + np.float32(bend) * canvas.x[None, :] ** 2 - np.float32(back_y)
    shell = cover_of(np.abs(sag) - 1.5)[None]
    canvas.paint(shell, rng.uniform(-350, -100))
    canvas.paint(cover_of(np.abs(sag - 10) - 8)[None] * (1 - shell), rng.uniform(-960, -900))


def paint_lungs(canvas: Canvas, patient: Patient, body: Body) -> None:
    """Both lungs, denser towards the back; the rest of the chest becomes the mediastinum's fat."""
    heart = body_ellipsoid(body, *patient.organs["heart"]) - 4
    trunk = (np.sqrt(((body.x - 2) / 30) ** 2 + ((body.y + 6) / 82) ** 2) - 1) * 28
    spine = (np.sqrt((body.x / 27) ** 2 + ((body.y - 62) / 27) ** 2) - 1) * 27
    middle = np.minimum(np.minimum(trunk, heart), spine)
    lung = cover_of(np.maximum(np.maximum(body.wall_mm + 2.5, -middle), -0.7 * body.dome_mm))
    canvas.tissue[(canvas.tissue == Tissue.FAT_BELLY) & (body.dome_mm > 0)] = Tissue.FAT_CHEST
    level = -868 + 0.5 * (body.y + 8) + 14 * body.coarse + 22 * np.clip(body.fine, 0, None)
    canvas.paint(lung, level, code=Tissue.LUNG)
    canvas.clips[Tissue.LUNG] = lung


def paint_chest_organs(canvas: Canvas, patient: Patient, body: Body) -> None:
    """Heart with three chambers, inside the mediastinum's fat."""
    (x, y, z), (rx, ry, rz) = patient.organs["heart"]
    hu, (box, near) = patient.phase_levels, _around(canvas, patient, body, (x, y, z), (rx, ry, rz))
    shell = np.maximum(body_ellipsoid(near, (x, y, z), (rx, ry, rz)), -near.dome_mm - 3)
    canvas.paint(cover_of(shell), 0.5 * (hu["heart"] + hu["muscle"]) + 3 * near.coarse, box, Tissue.OTHER)
    for dx, dy, size in ((0.32, 0.12, 0.42), (-0.38, -0.12, 0.45), (-0.1, 0.5, 0.36)):
        chamber = body_ellipsoid(near, (x + dx * rx, y + dy * ry, z), (size * rx, size * ry, 0.7 * rz))
        canvas.paint(cover_of(np.maximum(chamber, shell + 3), 5.0), hu["heart"], box)


def paint_belly_organs(canvas: Canvas, patient: Patient, body: Body, rng: np.random.Generator) -> None:
    """Spleen, stomach, liver and kidneys, all under the diaphragm."""
    box, near = _around(canvas, patient, body, *patient.organs["spleen"])
    spleen = np.maximum(body_ellipsoid(near, *patient.organs["spleen"]), _under(near))
    canvas.paint(cover_of(spleen), patient.phase_levels["spleen"] + 4 * near.coarse, box, Tissue.SPLEEN)
    _paint_stomach(canvas, patient, body, rng)
    _paint_liver(canvas, patient, body)
    _paint_dome(canvas, patient, body)
    for name in ("kidney_right", "kidney_left"):
        _paint_kidney(canvas, patient, body, name, rng)


def _under(near: Body) -> Array:
    return np.asarray(np.maximum(near.dome_mm + 3, near.wall_mm + 5))


def _paint_liver(canvas: Canvas, patient: Patient, body: Body) -> None:
    canvas.clips[Tissue.LIVER] = np.zeros_like(canvas.hu)
    organs, (box, near) = patient.organs, _around(canvas, patient, body, (-25, -8, 165), (112, 84, 84))
    liver = np.minimum(body_ellipsoid(near, *organs["liver"]), body_ellipsoid(near, *organs["left_lobe"]))
    cover = cover_of(np.maximum(liver, _under(near)))
    canvas.paint(cover, patient.phase_levels["liver"] + 4 * near.coarse + 2 * near.fine, box, Tissue.LIVER)
    canvas.clips[Tissue.LIVER][box] = cover


def _paint_dome(canvas: Canvas, patient: Patient, body: Body) -> None:
    box = canvas.box((-190, -160, 90), (190, 160, 260))
    near = body.crop(box)
    sheet = np.maximum(np.abs(near.dome_mm + 1.5) - 1.8, near.wall_mm + 2)
    cover = cover_of(sheet) * canvas.within((Tissue.FAT_BELLY,), box)
    canvas.paint(cover, patient.phase_levels["muscle"], box)


def _paint_stomach(canvas: Canvas, patient: Patient, body: Body, rng: np.random.Generator) -> None:
    centre, radii = patient.organs["stomach"]
    box, near = _around(canvas, patient, body, centre, radii)
    if not near.x.size:
        return
    wall = np.maximum(body_ellipsoid(near, centre, radii), _under(near))
    canvas.paint(cover_of(wall), patient.phase_levels["muscle"] + 12, box, Tissue.OTHER)
    food = rng.uniform(0, 50) + rng.uniform(3, 25) * near.fine
    canvas.paint(cover_of(wall + rng.uniform(3, 6)), food, box)
    level = centre[1] + radii[1] * rng.uniform(-1.1, 0.1)
    canvas.paint(cover_of(np.maximum(wall + 4, near.y - np.float32(level))), -950.0, box)


def _paint_kidney(canvas: Canvas, patient: Patient, body: Body, name: str, rng: np.random.Generator) -> None:
    (x, y, z), (rx, ry, rz) = patient.organs[name]
    hu, (box, near) = patient.phase_levels, _around(canvas, patient, body, (x, y, z), (rx, ry, rz))
    if not near.x.size:
        return
    cortex = np.maximum(body_ellipsoid(near, (x, y, z), (rx, ry, rz)), near.dome_mm + 6)
    kidney = cover_of(cortex)
    canvas.paint(kidney, hu["kidney"] + 4 * near.coarse, box, Tissue.KIDNEY)
    if hu["aorta"] > 1.5 * hu["vein"]:
        canvas.paint(cover_of(cortex + 8 + 2 * near.fine, 5.0) * kidney, 0.55 * hu["kidney"], box)
    towards = -np.sign(x) * 0.5 * rx
    sinus = body_ellipsoid(near, (x + towards, y - 4, z), (0.62 * rx, 0.36 * ry, 0.5 * rz)) + 2 * near.fine
    canvas.paint(cover_of(sinus, 4.0) * kidney, rng.uniform(-80, -30), box, Tissue.OTHER)


def body_ellipsoid(body: Body, centre: Point, radii: Point) -> Array:
    """About the signed distance in mm to an ellipsoid of the standard body."""
    squares = [
        np.square((sheet - np.float32(middle)) / np.float32(radius))
        for sheet, middle, radius in zip((body.x, body.y, body.z), centre, radii, strict=True)
    ]
    return np.asarray((np.sqrt(sum(squares)) - 1) * np.float32(min(radii)), np.float32)


def _around(canvas: Canvas, patient: Patient, body: Body, centre: Point, radii: Point) -> tuple[Box, Body]:
    """The box that surely holds an ellipsoid of the standard body, and the body in it."""
    middle, reach = np.array(centre), np.array(radii) + (3 * patient.warp_mm + 4)
    box = canvas.box((middle - reach) * patient.scale_xyz, (middle + reach) * patient.scale_xyz)
    return box, body.crop(box)
