"""Things in a phantom that look like lesions and are none.

They share the lesions' grey values, places and widths, and differ in a respect that takes a second look:

    lung_vessel, liver_tube, soft_vessel, bowel_loop    go on along z, with bends
    small_node                                          shorter than 8 mm
    focal_fat                                           an edge of a centimetre and a broken texture
    rib_end, dome                                       rest broadly on the wall or on the diaphragm
    gallbladder                                         smooth, fluid, always at the liver's lower edge
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harvester.datasets.phantom.canvas import EDGE_MM, Point, Points, Tissue, cover_of, tube_sdf
from harvester.datasets.phantom.lesions import Finding, Scene, blob_sdf, choose, extent_of, tissue_level
from harvester.datasets.phantom.tubes import paint_loop, wander
from harvester.geometry import Array


def paint_distractors(scene: Scene, count: int) -> list[Finding]:
    """The gallbladder if there is one, and up to `count` others of kinds that the visible organs can bear."""
    kinds = {kind: weight for kind, (weight, codes, _) in KINDS.items() if len(scene.spots(codes)) > 60}
    found = [_gallbladder(scene)] if count else []
    for _ in range(2 * count if kinds else 0):
        if sum(finding is not None for finding in found) < count:
            found.append(KINDS[choose(scene.rng, kinds)][2](scene))
    return [finding for finding in found if finding is not None]


def _through(scene: Scene, point: Point, length_mm: float, tilt: float, bend: float) -> Points:
    """A bent line through a point, up and down from it."""
    heading = np.array([*scene.rng.normal(0, tilt, 2), 1.0])
    up = wander(scene.rng, np.array(point), heading, 4, length_mm / 8, bend)
    down = wander(scene.rng, np.array(point), -heading, 4, length_mm / 8, bend)
    return np.concatenate([down[:0:-1], up])


def _tube(scene: Scene, kind: str, codes: tuple[int, ...], radius_mm: float, level: float) -> Finding | None:
    """A tube of varying width through these tissues; `level` in HU."""
    point = scene.place(codes, 1.4 * radius_mm, (0.75, 1.0))
    if point is None:
        return None
    line = _through(scene, point, scene.rng.uniform(50, 100), 0.45, 0.4)
    taper = np.linspace(1, scene.rng.uniform(0.45, 0.9), len(line))[:: scene.rng.choice([-1, 1])]
    widths = radius_mm * taper / taper[len(line) // 2] * np.exp(scene.rng.normal(0, 0.08, len(line)))
    sdf, box = tube_sdf(scene.canvas, line, widths)
    cover = cover_of(sdf) * scene.canvas.within(codes, box)
    scene.canvas.paint(cover, level, box, Tissue.OTHER)
    scene.take(line, radius_mm)
    return extent_of(scene, kind, cover, box, point[2])


def _lung_vessel(scene: Scene) -> Finding | None:
    return _tube(scene, "lung_vessel", (Tissue.LUNG,), 2.6 + 4.4 * scene.rng.beta(1, 2.5), tissue_level(scene))


def _liver_tube(scene: Scene) -> Finding | None:
    """A vein or a wide bile duct, as far below the liver as a lesion is."""
    step = scene.settings.lesion_contrast * scene.rng.uniform(25, 60)
    level = scene.patient.phase_levels["liver"] - step
    return _tube(scene, "liver_tube", (Tissue.LIVER,), scene.rng.uniform(3.5, 7), level)


def _soft_vessel(scene: Scene) -> Finding | None:
    """A vein or a tendon in muscle, in the fat of the skin or of the mediastinum."""
    level = scene.patient.phase_levels["muscle"] + scene.settings.lesion_contrast * scene.rng.uniform(30, 80)
    codes = choose(scene.rng, {"muscle": 0.4, "skin": 0.3, "chest": 0.3})
    code = {"muscle": Tissue.MUSCLE, "skin": Tissue.FAT_SKIN, "chest": Tissue.FAT_CHEST}[codes]
    return _tube(scene, "soft_vessel", (code,), scene.rng.uniform(3, 6), level)


def _bowel_loop(scene: Scene) -> Finding | None:
    """A collapsed or fluid-filled loop that crosses the slice; a third have a wall and gas."""
    if scene.rng.random() < 0.7:
        radius = 4 + 6 * scene.rng.beta(1, 2)
        return _tube(scene, "bowel_loop", (Tissue.FAT_BELLY,), radius, tissue_level(scene))
    radius = scene.rng.uniform(8, 12)
    point = scene.place((Tissue.FAT_BELLY,), radius, (0.75, 1.0))
    if point is None:
        return None
    line = _through(scene, point, 90, 0.8, 0.5)
    sdf, box = tube_sdf(scene.canvas, line, np.full(len(line), radius))
    cover = cover_of(sdf) * scene.canvas.within((Tissue.FAT_BELLY,), box)
    paint_loop(scene.canvas, scene.patient, scene.body, line, radius, scene.rng)
    scene.take(line, radius)
    return extent_of(scene, "bowel_loop", cover, box, point[2])


def _blob(
    scene: Scene, kind: str, radii: Points, share: tuple[float, float], level: float, edge_mm: float = EDGE_MM,
    spots: NDArray[np.intp] | None = None,
) -> Finding | None:  # fmt: skip
    point = scene.place(KINDS[kind][1], float(radii.min()), share, spots)
    if point is None:
        return None
    sdf, box = blob_sdf(scene.canvas, scene.rng, point, radii, scene.rng.uniform(0.05, 0.15))
    cover = cover_of(sdf, edge_mm)
    if kind == "focal_fat":
        cover = cover * np.clip(0.8 + 0.35 * scene.body.fine[box], 0, 1) * scene.canvas.clips[Tissue.LIVER][box]
    scene.canvas.paint(cover, level, box, Tissue.OTHER)
    scene.take(np.array([point]), float(radii.max()))
    return extent_of(scene, kind, cover, box)


def _small_node(scene: Scene) -> Finding | None:
    radii = scene.rng.uniform(2.2, 3.9) * np.array([1, scene.rng.uniform(1, 1.9), scene.rng.uniform(1, 1.5)])
    return _blob(scene, "small_node", radii, (0.85, 1.0), tissue_level(scene))


def _focal_fat(scene: Scene) -> Finding | None:
    radii = scene.rng.uniform(8, 16) * scene.rng.uniform(0.8, 1.4, 3)
    level = scene.patient.phase_levels["liver"] - scene.settings.lesion_contrast * scene.rng.uniform(25, 55)
    return _blob(scene, "focal_fat", radii, (0.7, 1.0), level, scene.rng.uniform(10, 16))


def _rib_end(scene: Scene) -> Finding | None:
    """The cartilage or the bone of a rib's end, bulging into the lung."""
    radii = scene.rng.uniform(5, 10) * scene.rng.uniform(0.8, 1.25, 3)
    level = scene.rng.choice([scene.rng.uniform(60, 130), scene.rng.uniform(120, 400)])
    spots = _lung_spots_where(scene, scene.body.wall_mm, -9, 0)
    return _blob(scene, "rib_end", radii, (0.25, 0.6), float(level), spots=spots)


def _lung_spots_where(scene: Scene, sheet: Array, low: float, high: float) -> NDArray[np.intp]:
    spots = scene.spots((Tissue.LUNG,))
    values = sheet[spots[:, 0], spots[:, 1], spots[:, 2]]
    return spots[(values > low) & (values < high)]


def _dome(scene: Scene) -> Finding | None:
    """A hump of the diaphragm: round in its top slice, broader and joined to the liver below."""
    near = _lung_spots_where(scene, scene.body.dome_mm, 0, 8)
    if not len(near):
        return None
    z, y, x = near[scene.rng.integers(len(near))]
    top = np.array([scene.canvas.x[x], scene.canvas.y[y], scene.canvas.z[z]], float)
    radius = scene.rng.uniform(5, 11)
    line = np.array([top, top - (0, 0, 12), top - (0, 0, 26)])
    if not scene.place_is_free((top[0], top[1], top[2]), radius):
        return None
    sdf, box = tube_sdf(scene.canvas, line, radius * np.array([1, 1.5, 1.9]))
    cover = cover_of(sdf) * scene.canvas.within((Tissue.LUNG,), box)
    level = "liver" if top[0] < 0 else "muscle"
    scene.canvas.paint(cover, scene.patient.phase_levels[level], box, Tissue.OTHER)
    scene.take(line, radius * 1.5)
    return extent_of(scene, "dome", cover, box, float(top[2]))


def _gallbladder(scene: Scene) -> Finding | None:
    if not scene.patient.has_gallbladder:
        return None
    centre, radii = (np.array(part) * scene.patient.scale_xyz for part in scene.patient.organs["gallbladder"])
    x, y, z = (centre + scene.rng.normal(0, 4, 3)).tolist()
    axes = (scene.canvas.x, scene.canvas.y, scene.canvas.z)
    if not all(axis[0] < at < axis[-1] for at, axis in zip((x, y, z), axes, strict=True)):
        return None
    sdf, box = blob_sdf(scene.canvas, scene.rng, (x, y, z), radii, 0.04)
    cover = cover_of(sdf)
    scene.canvas.paint(cover, scene.rng.uniform(2, 22), box, Tissue.OTHER)
    scene.take(np.array([(x, y, z)]), float(radii.max()))
    return extent_of(scene, "gallbladder", cover, box)


KINDS: Final[dict[str, tuple[float, tuple[int, ...], Callable[[Scene], Finding | None]]]] = {
    # kind: weight, tissues it lies in, what paints one
    "lung_vessel": (0.28, (Tissue.LUNG,), _lung_vessel),
    "liver_tube": (0.14, (Tissue.LIVER,), _liver_tube),
    "soft_vessel": (0.12, (Tissue.MUSCLE, Tissue.FAT_SKIN, Tissue.FAT_CHEST), _soft_vessel),
    "bowel_loop": (0.16, (Tissue.FAT_BELLY,), _bowel_loop),
    "small_node": (0.12, (Tissue.FAT_CHEST, Tissue.FAT_BELLY), _small_node),
    "focal_fat": (0.1, (Tissue.LIVER,), _focal_fat),
    "rib_end": (0.1, (Tissue.LUNG,), _rib_end),
    "dome": (0.08, (Tissue.LUNG,), _dome),
}
