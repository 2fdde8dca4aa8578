"""Where a phantom's findings can go, and its lesions.

Lesions are blobs: about as long along z as wide, closed, with a bumpy and fairly sharp surface. What only
looks like one is in distractors.py.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harvester.config.data import PhantomSettings
from harvester.datasets.phantom.anatomy import Body, Patient
from harvester.datasets.phantom.canvas import SUB_SLICES, Box, Canvas, Point, Points, Tissue, cover_of, offsets
from harvester.datasets.phantom.tubes import paint_tube, wander
from harvester.geometry import Array


@dataclass(frozen=True)
class Finding:
    """One painted thing: its key slice and inclusive in-plane extent there, in voxels, without padding."""

    kind: str
    z: int
    x1: int
    y1: int
    x2: int
    y2: int
    diameter_mm: float


@dataclass(eq=False)
class Scene:
    """A canvas with its anatomy painted, and the places already taken as (x, y, z, reach) in mm."""

    canvas: Canvas
    patient: Patient
    body: Body
    rng: np.random.Generator
    settings: PhantomSettings
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)
    _spots: dict[tuple[int, ...], NDArray[np.intp]] = field(default_factory=dict)

    def spots(self, codes: tuple[int, ...]) -> NDArray[np.intp]:
        """(n, 3) voxels (z, y, x) of these tissues on a coarse raster, away from the first and last slice."""
        if codes not in self._spots:
            raster = self.canvas.tissue[SUB_SLICES:-SUB_SLICES:SUB_SLICES, ::3, ::3]
            found = np.argwhere(np.isin(raster, codes)) * (SUB_SLICES, 3, 3)
            self._spots[codes] = found + np.array([SUB_SLICES, 0, 0])
        return self._spots[codes]

    def place(
        self, codes: tuple[int, ...], reach_mm: float, share: tuple[float, float], spots: NDArray[np.intp] | None = None
    ) -> Point | None:
        """A free centre, out of `spots` or all of these tissues, around which the share of a sphere's surface
        that lies in these tissues is in a range. None after 30 tries."""
        spots = self.spots(codes) if spots is None else spots
        for _ in range(30 if len(spots) else 0):
            z, y, x = spots[self.rng.integers(len(spots))] + (self.rng.integers(SUB_SLICES), 0, 0)
            point = (float(self.canvas.x[x]), float(self.canvas.y[y]), float(self.canvas.z[z]))
            low, high = share
            if self.place_is_free(point, reach_mm) and low <= self._share(point, reach_mm, codes) <= high:
                return point
        return None

    def take(self, points: Points, reach_mm: float) -> None:
        """Nothing else is placed within reach of these (n, 3) points."""
        self.taken += [(x, y, z, reach_mm) for x, y, z in points.tolist()]

    def place_is_free(self, point: Point, reach_mm: float) -> bool:
        """Whether nothing taken comes near a ball."""
        if not self.taken:
            return True
        taken = np.array(self.taken)
        apart = np.abs(taken[:, :3] - point) - (taken[:, 3:] + reach_mm)
        # Boxes are padded by 4 mm each: in-plane neighbours stay 9 mm apart, slices 4 mm.
        return bool((apart > (9, 9, 4)).any(1).all())

    def _share(self, point: Point, reach_mm: float, codes: tuple[int, ...]) -> float:
        axes = (self.canvas.x, self.canvas.y, self.canvas.z)
        steps = (axis[1] - axis[0] for axis in axes)
        around = [
            np.clip(np.rint((at - axis[0]) / step + reach_mm * unit / step).astype(int), 0, axis.size - 1)
            for at, axis, step, unit in zip(point, axes, steps, SPHERE.T, strict=True)
        ]
        return float(np.isin(self.canvas.tissue[around[2], around[1], around[0]], codes).mean())


def _sphere(count: int) -> Points:
    height = np.linspace(-0.9, 0.9, count)
    angle = np.arange(count) * 2.39996
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), height], 1)


SPHERE: Final = _sphere(24)

LESIONS: Final = {
    # kind: weight, tissues, smallest, median and largest diameter in mm
    "nodule": (0.36, (Tissue.LUNG,), 8.0, 18.0, 32.0),
    "hypodense": (0.3, (Tissue.LIVER,), 12.0, 23.0, 40.0),
    "renal": (0.08, (Tissue.KIDNEY,), 12.0, 19.0, 32.0),
    "splenic": (0.06, (Tissue.SPLEEN,), 12.0, 20.0, 32.0),
    "node": (0.22, (Tissue.FAT_CHEST, Tissue.FAT_BELLY), 12.0, 20.0, 32.0),
    "mass": (0.1, (Tissue.MUSCLE, Tissue.FAT_SKIN), 12.0, 20.0, 34.0),
}


def paint_lesions(scene: Scene, count: int) -> list[Finding]:
    """Up to `count` lesions of kinds that the visible organs can bear."""
    kinds = {kind: row[0] for kind, row in LESIONS.items() if len(scene.spots(row[1])) > 60}
    found: list[Finding] = []
    for _ in range(6 * count):
        if len(found) < count and kinds:
            finding = _paint_lesion(scene, choose(scene.rng, kinds))
            found += [finding] if finding else []
    return found


def choose(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """A key, with a chance in proportion to its weight."""
    share = np.array(list(weights.values()))
    return list(weights)[rng.choice(len(share), p=share / share.sum())]


def _paint_lesion(scene: Scene, kind: str) -> Finding | None:
    _, codes, least, median, most = LESIONS[kind]
    rng = scene.rng
    diameter = scene.settings.lesion_size * median * np.exp(rng.normal(0, 0.35))
    radius = float(np.clip(diameter, least, most)) / 2
    share = (0.55, 1.0) if kind in ("nodule", "renal") else (0.85, 1.0)
    centre = scene.place(codes, radius, share)
    if centre is None:
        return None
    stretch = np.exp(rng.normal(0, 0.13, 3))
    roughness = rng.uniform(0.08, 0.26)
    sdf, box = blob_sdf(scene.canvas, rng, centre, radius * stretch / stretch.min(), roughness)
    edge = rng.uniform(3, 6) if kind == "nodule" else rng.uniform(2, 4.5)
    cover = cover_of(sdf, edge)
    if codes[0] in scene.canvas.clips:
        cover = cover * scene.canvas.clips[codes[0]][box]
    finding = extent_of(scene, kind, cover, box)
    if finding is not None:
        level = _lesion_level(scene, kind, box) + _texture(scene, sdf / radius, box)
        scene.canvas.paint(cover, level.astype(np.float32), box, Tissue.OTHER)
        scene.take(np.array([centre]), radius * float((stretch / stretch.min()).max()) * 1.1)
        if kind == "nodule" and rng.random() < 0.4:
            _feed(scene, centre)
    return finding


def _texture(scene: Scene, sdf_radii: Array, box: Box) -> Array:
    """HU to add inside a lesion: a core darker than the rim and a grain, which vessels and gut lack."""
    core = scene.rng.uniform(30, 110) * np.clip(-0.25 - sdf_radii, 0, 0.4) / 0.4
    grain = scene.rng.uniform(10, 26) * scene.body.fine[box] + scene.rng.uniform(0, 8) * scene.body.coarse[box]
    return np.asarray(scene.settings.lesion_texture * (grain - core))


def _lesion_level(scene: Scene, kind: str, box: Box) -> Array:
    """HU of a lesion in the voxels of its box; against its organ where it has to stand out from one."""
    rng, hu, contrast = scene.rng, scene.patient.phase_levels, scene.settings.lesion_contrast
    here = scene.canvas.hu[box]
    if kind == "nodule":
        solid = tissue_level(scene)
        part = min(1.0, contrast * (rng.uniform(0.4, 0.85) if rng.random() < 0.3 else 1.0))
        return np.asarray(here + np.float32(part) * (np.float32(solid) - here))
    if kind in ("hypodense", "splenic"):
        step = contrast * rng.uniform(30, 70)
        return np.full_like(here, hu["liver" if kind == "hypodense" else "spleen"] - step)
    if kind == "renal":
        step = contrast * rng.uniform(30, min(90.0, hu["kidney"] + 10 if hu["kidney"] > 90 else 45))
        return np.full_like(here, hu["kidney"] - step * (1 if hu["kidney"] > 90 or rng.random() < 0.5 else -1))
    if kind == "mass":
        return np.full_like(here, hu["muscle"] + contrast * rng.uniform(35, 80))
    return np.full_like(here, tissue_level(scene))


def tissue_level(scene: Scene) -> float:
    """HU of nodes, nodules, unopacified gut and the vessels among them: one range for all."""
    vein = scene.patient.phase_levels["vein"]
    return float(scene.rng.uniform(25, 60) + scene.rng.uniform(0, 0.6) * (vein - 40))


def _feed(scene: Scene, centre: Point) -> None:
    """A vessel that runs into a nodule."""
    line = wander(scene.rng, np.array(centre), scene.rng.normal(0, 1, 3), 4, 10.0, 0.4)
    level = scene.patient.phase_levels["lung_vessel"]
    paint_tube(scene.canvas, line, np.linspace(scene.rng.uniform(1.2, 2.6), 0.8, 5), level, Tissue.LUNG)


def blob_sdf(
    canvas: Canvas, rng: np.random.Generator, centre: Point, radii_xyz: Points, roughness: float
) -> tuple[Array, Box]:
    """About the signed distance to a turned ellipsoid whose radius varies smoothly by about `roughness`."""
    reach = 1.5 * float(radii_xyz.max()) + 4
    box = canvas.box(np.array(centre) - reach, np.array(centre) + reach)
    dz, dy, dx = offsets(canvas, box, centre)
    angle = rng.uniform(0, np.pi)
    along, across = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    rx, ry, rz = (np.float32(radius) for radius in radii_xyz)
    distance = np.sqrt(dx * dx + dy * dy + dz * dz) + np.float32(1e-3)
    waves, shifts = rng.normal(0, 2.2, (4, 3)), rng.uniform(0, 2 * np.pi, 4)
    bumps = sum(
        np.cos((np.float32(w[0]) * dx + np.float32(w[1]) * dy + np.float32(w[2]) * dz) / distance + np.float32(s))
        for w, s in zip(waves, shifts, strict=True)
    )
    scaled = np.sqrt((along / rx) ** 2 + (across / ry) ** 2 + (dz / rz) ** 2)
    return np.asarray((scaled - 1 - 0.6 * roughness * bumps) * min(rx, ry, rz), np.float32), box


def extent_of(scene: Scene, kind: str, cover: Array, box: Box, at_z_mm: float | None = None) -> Finding | None:
    """A solid's extent on the slice where it is widest, or on that at `at_z_mm` for one that goes on along z.

    None where that is under two pixels either way.
    """
    first = box[0].start // SUB_SLICES
    rim = ((box[0].start % SUB_SLICES, -box[0].stop % SUB_SLICES), (0, 0), (0, 0))
    slices = np.pad(cover, rim).reshape(-1, SUB_SLICES, *cover.shape[1:]).mean(1) > 0.5
    key = int(slices.sum((1, 2)).argmax())
    if at_z_mm is not None:
        key = int(np.searchsorted(scene.canvas.z, at_z_mm)) // SUB_SLICES - first
        key = min(max(key, 0), len(slices) - 1)
    rows, columns = np.flatnonzero(slices[key].any(1)), np.flatnonzero(slices[key].any(0))
    if len(rows) < 2 or len(columns) < 2:
        return None
    x1, x2 = int(columns[0]) + box[2].start, int(columns[-1]) + box[2].start
    y1, y2 = int(rows[0]) + box[1].start, int(rows[-1]) + box[1].start
    _, dy, dx = scene.canvas.spacing_zyx_mm
    return Finding(kind, first + key, x1, y1, x2, y2, max((x2 - x1 + 1) * dx, (y2 - y1 + 1) * dy))
