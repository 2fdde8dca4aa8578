"""Putting lesions into a sub-volume: which kinds and sizes, where they fit, and how they change the image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from harvester.config.data import InsertionSettings, Spacing
from harvester.datasets.insertion.backgrounds import Prepared
from harvester.datasets.insertion.lesion_models import (
    Blob,
    Mask,
    coverage,
    draw_blob,
    draw_texture,
    half_covered,
    paint,
    shade,
    smooth,
)
from harvester.datasets.insertion.subvolume import Frame, IgnoredRegion

Kind = Literal["nodule", "hypodense", "hyperdense", "node"]

TRIES: Final = 12
"""Places that are looked at before a lesion is given up."""

REDRAWS: Final = 4
"""Lesions drawn for each that is wanted: one that is given up makes way for another kind and size."""

END_MM: Final = 4.0
"""No lesion's centre is nearer to the sub-volume's first or last slice."""

GAP_MM: Final = 8.0
"""Between two lesions, and between a lesion and an ignored region."""

WHOLE: Final = 0.75
"""Share of a lesion that must change the image; what is hidden in a wall or an organ is no lesion to find."""

SIZES: Final[dict[str, tuple[float, float]]] = {"nodule": (12.0, 0.42), "organ": (20.0, 0.38), "node": (14.0, 0.25)}
"""Median diameter in mm and spread of its logarithm, before the limits of the settings: DeepLesion's
lesions have about 4 / 11 / 40 mm at the 5th / 50th / 95th percentile."""

STYLES: Final = {"pleural": 0.25, "vascular": 0.2, "free": 0.55}
"""Shares of nodules at the pleura, at a vessel, and elsewhere in the lung."""

SPICULATED: Final = 0.35
ILL_DEFINED: Final = 0.5
MARGIN_SHARE: Final = (0.04, 0.1)
"""Shares of nodules with spicules and of organ lesions with an ill-defined margin, and its width
(standard deviation) as a share of the diameter."""

DARKER_HU: Final = {"nodule": 400.0, "node": 90.0}
"""A voxel shows a lesion if it was darker than the lesion by this: lung and fat do, a wall does not."""

EVEN_HU: Final = 15.0
"""Organ lesions go where the tissue they cover varies by no more (standard deviation, noise smoothed)."""

HYPERDENSE_BELOW_HU: Final = 140.0
"""Brighter tissue would carry a hyperdense lesion out of the soft-tissue window."""

HYPODENSE_ABOVE_HU: Final = 40.0


@dataclass(frozen=True, eq=False)
class Inserted:
    """One lesion in a sub-volume: kind, diameter, contrast against its surroundings and its visible voxels.

    place_zyx is the first voxel of `voxels`, a mask of the lesion's block clipped to the sub-volume.
    """

    kind: Kind
    diameter_mm: float
    contrast_hu: float
    centre_zyx: tuple[float, float, float]
    place_zyx: tuple[int, int, int]
    voxels: Mask


@dataclass(frozen=True, eq=False)
class _Wanted:
    kind: Kind
    diameter_mm: float
    style: str
    blob: Blob


@dataclass(frozen=True, eq=False)
class SubVolume:
    """What is being changed: hu_zyx in place, by the lesions in `inserted`."""

    settings: InsertionSettings
    prepared: Prepared
    frame: Frame
    hu_zyx: NDArray[np.float32]
    ignored: Sequence[IgnoredRegion]
    rng: np.random.Generator
    inserted: list[Inserted] = field(default_factory=list)

    @property
    def spacing_zyx_mm(self) -> Spacing:
        """The scan's own."""
        return self.prepared.volume.spacing_zyx_mm


def insert_lesions(target: SubVolume) -> None:
    """Insert those that find a place, of a Poisson number of wanted ones."""
    settings, rng = target.settings, target.rng
    rooms = {kind: _room(kind, target.prepared, target.frame) for kind in settings.kind_weights}
    possible: list[Kind] = [kind for kind, room in rooms.items() if room.max() >= 5]
    weights = np.array([settings.kind_weights[kind] for kind in possible])
    count = int(rng.poisson(settings.lesions_per_volume))
    for _ in range(REDRAWS * count):
        if len(target.inserted) == count or weights.sum() <= 0:
            break
        kind = possible[int(rng.choice(len(possible), p=weights / weights.sum()))]
        _place(target, rooms[kind], _draw_wanted(settings, kind, rng))


def _room(kind: Kind, prepared: Prepared, frame: Frame) -> NDArray[np.float32]:
    """Room in the slices of the sub-volume where a lesion's centre may lie (not at its ends)."""
    tissues = prepared.tissues
    room = {"nodule": tissues.lung_room_mm, "node": tissues.fat_room_mm}.get(kind, tissues.organ_room_mm)
    return room[_inner(prepared, frame)]


def _inner(prepared: Prepared, frame: Frame) -> slice:
    """The slices of the tissue maps at least a slice and END_MM from the ends of the sub-volume."""
    own, coarse = prepared.volume.spacing_zyx_mm[0], prepared.tissues.spacing_zyx_mm[0]
    margin = max(own, END_MM)
    low, high = frame.z_start * own + margin, (frame.z_start + frame.depth) * own - margin
    return slice(ceil(low / coarse - 0.5), floor(high / coarse - 0.5) + 1)


def _draw_wanted(settings: InsertionSettings, kind: Kind, rng: np.random.Generator) -> _Wanted:
    if kind == "nodule":
        diameter = _draw_size(rng, *SIZES["nodule"], settings.nodule_mm)
        spicules = int(rng.integers(8, 20)) if rng.random() < SPICULATED else 0
        blob = draw_blob(rng, diameter, flatness=0.65, bumps=0.22, spicules=spicules)
        return _Wanted(kind, diameter, str(rng.choice(list(STYLES), p=list(STYLES.values()))), blob)
    if kind == "node":
        diameter = _draw_size(rng, *SIZES["node"], settings.node_mm)
        return _Wanted(kind, diameter, "", draw_blob(rng, diameter, flatness=0.65, bumps=0.1))
    diameter = _draw_size(rng, *SIZES["organ"], settings.organ_mm)
    margin = diameter * float(rng.uniform(*MARGIN_SHARE)) if rng.random() < ILL_DEFINED else 0.0
    return _Wanted(kind, diameter, "", draw_blob(rng, diameter, flatness=0.6, bumps=0.26, margin_mm=margin))


def _draw_size(rng: np.random.Generator, median: float, spread: float, limits: tuple[float, float]) -> float:
    return float(np.clip(median * np.exp(rng.normal(0, spread)), *limits))


def _place(target: SubVolume, room: NDArray[np.float32], wanted: _Wanted) -> None:
    """Insert the lesion at the first of some places with room for it that will do, or nowhere."""
    fits = np.flatnonzero(_fits(target, room, wanted))
    if len(fits) == 0:
        return
    offset = target.rng.uniform(-0.5, 0.5, 3)
    chosen = target.rng.choice(fits, TRIES, p=_preference(wanted, room.ravel()[fits]))
    spots = _to_frame(target, np.stack(np.unravel_index(chosen, room.shape), axis=1))
    cover: NDArray[np.float32] | None = None
    for middle in np.rint(spots).astype(int):
        if not _clear(target, middle + offset, wanted):
            continue
        if cover is None:  # the same at every place: a lesion keeps its offset from a voxel's middle
            cover = coverage(wanted.blob, offset, target.spacing_zyx_mm)
        if _insert_at(target, middle, offset, cover, wanted):
            return


def _to_frame(target: SubVolume, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 3) voxels of a room to the sub-volume's, each somewhere in its voxel."""
    prepared, coarse = target.prepared, np.array(target.prepared.tissues.spacing_zyx_mm)
    inside = places + target.rng.uniform(0, 1, places.shape)
    inside[:, 0] += _inner(prepared, target.frame).start
    return target.frame.to_frame(inside * coarse / prepared.volume.spacing_zyx_mm - 0.5)


def _fits(target: SubVolume, room: NDArray[np.float32], wanted: _Wanted) -> Mask:
    """Voxels (of the room's slices) where the lesion's centre may lie."""
    radius = wanted.diameter_mm / 2
    if wanted.kind == "node":
        # A node may press on its neighbours; `WHOLE` sees to it that most of it lies in fat.
        return room >= max(4.5, 0.65 * radius)
    if wanted.kind != "nodule":
        return room >= radius + 1
    if wanted.style == "pleural":
        return (room >= 0.3 * radius) & (room <= 0.8 * radius)
    free = room >= radius + 2
    if wanted.style == "vascular":
        return np.asarray(free & target.prepared.tissues.vessel[_inner(target.prepared, target.frame)])
    return free


def _preference(wanted: _Wanted, room_mm: NDArray[np.float32]) -> NDArray[np.float64]:
    """Chances of the places that fit: organ lesions in large organs rather than muscles, others anywhere."""
    organ = wanted.kind in ("hypodense", "hyperdense")
    weights = room_mm.astype(np.float64) ** (2 if organ else 0)
    return np.asarray(weights / weights.sum())


def _clear(target: SubVolume, spot: NDArray[np.float64], wanted: _Wanted) -> bool:
    """Whether the lesion stays away from ignored regions and from those inserted before."""
    spacing = np.array(target.spacing_zyx_mm)
    for other in target.inserted:
        apart = float(np.linalg.norm((spot - other.centre_zyx) * spacing))
        if apart < (wanted.diameter_mm + other.diameter_mm) / 2 * 1.15 + GAP_MM:
            return False
    for region in target.ignored:
        low = np.array([region.z1, region.y1, region.x1]) - 0.5
        high = np.array([region.z2, region.y2, region.x2]) + 0.5
        gap = np.maximum(np.maximum(low - spot, spot - high), 0) * spacing
        if (gap < wanted.blob.reach_mm + GAP_MM).all():
            return False
    return True


def _insert_at(
    target: SubVolume, middle: NDArray[np.int64], offset: NDArray[Any], cover: NDArray[np.float32], wanted: _Wanted
) -> bool:
    """Change the block round a voxel, unless too little of the lesion would show; whether it was changed."""
    if (middle < 0).any() or (middle >= target.hu_zyx.shape).any():
        return False
    first = middle - np.array(cover.shape) // 2
    low, high = np.maximum(first, 0), np.minimum(first + cover.shape, target.hu_zyx.shape)
    kept, place = (tuple(map(slice, low - corner, high - corner)) for corner in (first, 0))
    changed = _changed(target, target.hu_zyx[place], cover[kept], wanted)
    if changed is None:
        return False
    target.hu_zyx[place], voxels, contrast = changed
    (z, y, x), (z0, y0, x0) = (middle + offset).tolist(), low.tolist()
    target.inserted.append(Inserted(wanted.kind, wanted.diameter_mm, contrast, (z, y, x), (z0, y0, x0), voxels))
    return True


def _changed(
    target: SubVolume, block: NDArray[np.float32], cover: NDArray[np.float32], wanted: _Wanted
) -> tuple[NDArray[Any], Mask, float] | None:
    rng, inside = target.rng, half_covered(cover)
    smoothed = smooth(block, target.spacing_zyx_mm)
    base = smoothed[inside]
    around = float(np.median(base))
    if wanted.kind in ("nodule", "node"):
        nodule, muscle = wanted.kind == "nodule", target.prepared.muscle_hu
        level = float(rng.uniform(10, 60) if nodule else muscle + rng.uniform(-20, 25))
        texture = draw_texture(rng, block.shape, target.spacing_zyx_mm, 8.0) + _noise(target.prepared, block.shape, rng)
        painted, voxels = paint(block, smoothed, cover, level, texture, DARKER_HU[wanted.kind])
        return (painted, voxels, level - around) if voxels.sum() >= WHOLE * inside.sum() else None
    contrast = _draw_contrast(target.settings, wanted, rng)
    allowed = around > HYPODENSE_ABOVE_HU if contrast < 0 else around < HYPERDENSE_BELOW_HU
    if not allowed or base.std() > EVEN_HU:
        return None
    texture = draw_texture(rng, block.shape, target.spacing_zyx_mm, 0.15)
    shaded, voxels = shade(block, smoothed, cover, contrast, texture)
    return shaded, voxels, contrast


def _draw_contrast(settings: InsertionSettings, wanted: _Wanted, rng: np.random.Generator) -> float:
    """HU against the organ; the smallest lesions take it from the upper half, or nobody would see them."""
    low, high = settings.contrast_hu
    small = float(np.clip((20 - wanted.diameter_mm) / 10, 0, 1))
    contrast = float(rng.uniform(low + small * (high - low) / 2, high))
    return -contrast if wanted.kind == "hypodense" else contrast


def _noise(prepared: Prepared, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """The scan's noise tile, mirrored as often as the shape needs, from a random place of it."""
    tile = prepared.noise
    starts = [int(rng.integers(0, side)) for side in tile.shape]
    padded = np.pad(tile, [(0, start + side) for start, side in zip(starts, shape, strict=True)], "symmetric")
    return padded[tuple(slice(start, start + side) for start, side in zip(starts, shape, strict=True))]
