"""Putting lesions into a sub-volume: which kinds and sizes, and where they fit."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from harvester.config.data import InsertionSettings, LesionKind, Spacing
from harvester.datasets.insertion.backgrounds import Prepared
from harvester.datasets.insertion.kinds import KINDS, Home
from harvester.datasets.insertion.lesion_models import Blob, Mask, coverage, half_covered, smooth
from harvester.datasets.insertion.looks import Site
from harvester.datasets.insertion.subvolume import Frame, IgnoredRegion
from harvester.geometry import scale_slices
from harvester.imaging.interpolation import Taps, between

TRIES: Final = 12
"""Places that are looked at before a lesion is given up."""

REDRAWS: Final = 4
"""Lesions drawn for each that is wanted: one that is given up makes way for another size, then another kind."""

END_MM: Final = 4.0
"""No lesion's centre is nearer to the sub-volume's first or last slice."""

GAP_MM: Final = 8.0
"""Between two lesions, and between a lesion and an ignored region."""

CHAIN_GAP_MM: Final = (0.5, 9.0)
"""Between a node of a chain and the one before."""

SEEN_MM: Final = 1.0
"""A lesion's change is judged after a Gaussian of this standard deviation, which takes most of the noise away."""

BONE_EDGE_MM: Final = 1.2
"""Standard deviation of the Gaussian that rounds the steps of the tissue maps' bones."""


@dataclass(frozen=True, eq=False)
class Inserted:
    """One lesion in a sub-volume: kind, diameter, contrast against its surroundings and its visible voxels.

    place_zyx is the first voxel of `voxels`, a mask of the lesion's block clipped to the sub-volume.
    """

    kind: LesionKind
    diameter_mm: float
    contrast_hu: float
    centre_zyx: tuple[float, float, float]
    place_zyx: tuple[int, int, int]
    voxels: Mask


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A lesion that looks for a place; `after` are the ones of its chain that have theirs."""

    kind: LesionKind
    diameter_mm: float
    home: Home
    blob: Blob
    after: Sequence[Inserted] = ()


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

    @property
    def inner(self) -> slice:
        """The slices of the tissue maps at least a slice and END_MM from the ends of the sub-volume."""
        own, coarse = self.spacing_zyx_mm[0], self.prepared.tissues.spacing_zyx_mm[0]
        margin, frame = max(own, END_MM), self.frame
        low, high = frame.z_start * own + margin, (frame.z_start + frame.depth) * own - margin
        return slice(max(0, ceil(low / coarse - 0.5)), max(0, floor(high / coarse - 0.5) + 1))


def insert_lesions(target: SubVolume) -> None:
    """Insert those that find a place, of a Poisson number of wanted ones."""
    settings, rng = target.settings, target.rng
    possible = [kind for kind in settings.kind_weights if any(_has_room(target, home) for home in KINDS[kind].homes)]
    weights = np.array([settings.kind_weights[kind] for kind in possible])
    count = int(rng.poisson(settings.lesions_per_volume))
    found = True
    for attempt in range(REDRAWS * count if possible else 0):
        if len(target.inserted) >= count:
            break
        if found or attempt % 2 == 0:
            kind = possible[int(rng.choice(len(possible), p=weights / weights.sum()))]
        found = _insert(target, kind)


def _has_room(target: SubVolume, home: Home) -> bool:
    room = getattr(target.prepared.tissues, home.room)[target.inner]
    return room.size > 0 and float(room.max()) >= max(home.floor, 2.0)


def _insert(target: SubVolume, kind: LesionKind) -> bool:
    """Insert a lesion of a kind, or a chain of them; whether there was a place."""
    rng, model = target.rng, KINDS[kind]
    members = int(rng.integers(model.members[0], model.members[1] + 1))
    before = len(target.inserted)
    for _ in range(members):
        chain = target.inserted[before:]
        diameter = model.draw_size(target.settings, rng)
        wanted = _Wanted(kind, diameter, model.draw_home(rng), model.shape(rng, diameter), chain)
        if not _place(target, wanted):
            break
    if model.alone and len(target.inserted) == before + 1:
        target.inserted[before] = replace(target.inserted[before], kind=model.alone)
    return len(target.inserted) > before


def _place(target: SubVolume, wanted: _Wanted) -> bool:
    """Insert the lesion at the first of some places with room for it that will do, or nowhere."""
    spots = _spots(target, wanted)
    offset = target.rng.uniform(-0.5, 0.5, 3)
    cover: NDArray[np.float32] | None = None
    for middle in np.rint(spots).astype(int):
        if not _clear(target, middle + offset, wanted):
            continue
        if cover is None:  # the same at every place: a lesion keeps its offset from a voxel's middle
            cover = coverage(wanted.blob, offset, target.spacing_zyx_mm)
        if _insert_at(target, middle, offset, cover, wanted):
            return True
    return False


def _spots(target: SubVolume, wanted: _Wanted) -> NDArray[np.float64]:
    """(n, 3) voxels of the sub-volume where the lesion's centre might lie, TRIES at most."""
    room = getattr(target.prepared.tissues, wanted.home.room)[target.inner]
    places = np.flatnonzero(_fits(target, room, wanted))
    if wanted.after:
        spots = _to_frame(target, np.stack(np.unravel_index(places, room.shape), axis=1))
        near = _beside(spots, wanted, target.spacing_zyx_mm)
        return target.rng.permutation(spots[near])[:TRIES]
    if len(places) == 0:
        return np.empty((0, 3))
    weights = room.ravel()[places].astype(np.float64) ** wanted.home.power
    chosen = target.rng.choice(places, TRIES, p=weights / weights.sum())
    return _to_frame(target, np.stack(np.unravel_index(chosen, room.shape), axis=1))


def _fits(target: SubVolume, room: NDArray[np.float32], wanted: _Wanted) -> Mask:
    """Voxels (of the room's slices) where the lesion's centre may lie."""
    home, radius = wanted.home, wanted.diameter_mm / 2
    fits = (room >= max(home.floor, home.least[0] * radius + home.least[1], 0.1)) & (room <= home.most * radius)
    return np.asarray(fits & getattr(target.prepared.tissues, home.mask)[target.inner] if home.mask else fits)


def _beside(spots: NDArray[np.float64], wanted: _Wanted, spacing: Spacing) -> Mask:
    last = wanted.after[-1]
    apart = np.linalg.norm((spots - last.centre_zyx) * spacing, axis=1) - (last.diameter_mm + wanted.diameter_mm) / 2
    return np.asarray((apart >= CHAIN_GAP_MM[0]) & (apart <= CHAIN_GAP_MM[1]))


def _to_frame(target: SubVolume, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 3) voxels of a room to the sub-volume's, each somewhere in its voxel."""
    inside = places + target.rng.uniform(0, 1, places.shape)
    inside[:, 0] += target.inner.start
    return target.frame.to_frame(inside * target.prepared.tissues.spacing_zyx_mm / target.spacing_zyx_mm - 0.5)


def _clear(target: SubVolume, spot: NDArray[np.float64], wanted: _Wanted) -> bool:
    """Whether the lesion stays away from ignored regions and from those inserted before."""
    spacing = np.array(target.spacing_zyx_mm)
    for other in target.inserted:
        apart = float(np.linalg.norm((spot - other.centre_zyx) * spacing))
        touching = (wanted.diameter_mm + other.diameter_mm) / 2
        if apart < (touching if other in wanted.after else touching * 1.15 + GAP_MM):
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
    site, model = _site(target, place, kept, offset, cover, wanted), KINDS[wanted.kind]
    look = (wanted.home.change or model.change)(site)
    if look is None or look.voxels.sum() < model.whole * half_covered(site.cover).sum():
        return False
    change = smooth(look.hu - site.hu, site.spacing_zyx_mm, SEEN_MM)
    if np.median(np.abs(change[look.voxels])) < model.seen_hu:
        return False
    target.hu_zyx[place] = look.hu
    (z, y, x), (z0, y0, x0) = (middle + offset).tolist(), low.tolist()
    found = Inserted(wanted.kind, wanted.diameter_mm, look.contrast_hu, (z, y, x), (z0, y0, x0), look.voxels)
    target.inserted.append(found)
    return True


def _site(
    target: SubVolume,
    place: tuple[slice, ...],
    kept: tuple[slice, ...],
    offset: NDArray[Any],
    cover: NDArray[np.float32],
    wanted: _Wanted,
) -> Site:
    block = target.hu_zyx[place]
    return Site(
        rng=target.rng,
        spacing_zyx_mm=target.spacing_zyx_mm,
        diameter_mm=wanted.diameter_mm,
        blob=wanted.blob,
        offset_zyx=offset,
        whole=cover.shape,
        kept=kept,
        hu=block,
        base=smooth(block, target.spacing_zyx_mm),
        cover=cover[kept],
        tile=target.prepared.noise,
        bone=_bone(target, place) if wanted.home.room == "bone_room_mm" else np.zeros_like(block),
        contrast_hu=target.settings.contrast_hu,
        muscle_hu=target.prepared.muscle_hu,
    )


def _bone(target: SubVolume, place: tuple[slice, ...]) -> NDArray[np.float32]:
    """Share of bone in the voxels of a block, from the tissue maps."""
    tissues, fine = target.prepared.tissues, target.spacing_zyx_mm
    values: NDArray[Any] = tissues.bone_room_mm > 0
    for axis, at in enumerate(target.frame.to_background(place)):
        ratio = fine[axis] / tissues.spacing_zyx_mm[axis]
        values = between(values, axis, Taps.at(scale_slices(at, ratio), values.shape[axis]))
    sigma = np.divide(BONE_EDGE_MM, fine)
    return np.asarray(ndimage.gaussian_filter(values.astype(np.float32), (0, sigma[1], sigma[2])))
