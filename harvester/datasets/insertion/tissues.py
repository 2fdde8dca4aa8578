"""Where lesions fit: coarse maps of lung, organs and inner fat from Hounsfield units and shape alone.

They need not be segmentations: a place is used only if it is clearly of one tissue.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from harvester.config.data import Spacing
from harvester.datasets.insertion.lesion_models import Mask, smooth

Room = NDArray[np.float32]

LUNG_MIN_ML: Final = 60.0
BOWEL_MAX_ML: Final = 1500.0
GAS_HU: Final = -930.0
"""An air space up to that size with a tenth of it darker than this is bowel, not lung."""

MARROW_CM2: Final = 20.0
"""Holes in bone up to this size are marrow."""

AIRWAY_HU: Final = -955.0
CHEST_CM2: Final = 90.0
"""A slice with more lung than this is taken to show the heart: no organ lesions there."""

VESSEL_HOLE_CM2: Final = 4.0
"""Holes of the lung up to this size are vessels; larger ones are the heart or the dome of the liver."""

ORGAN_HU: Final = (28.0, 210.0)
ORGAN_SPREAD_HU: Final = 16.0
ORGAN_RADIUS_MM: Final = 9.0
"""Even tissue must hold a ball of this radius: leaves out vessels, bowel walls and thin muscles."""
EDGE_MM: Final = 4.0
"""Even tissue ends about this far before the organ's edge, because the spread rises there."""

FAT_HU: Final = (-150.0, -40.0)
SOFT_HU: Final = (-160.0, 190.0)

CORTEX_HU: Final = 380.0
"""Bone has some of this near by; vessels with contrast medium mostly have not."""
SPONGY_HU: Final = 170.0
CORTEX_NEAR_MM: Final = 9.0
BONE_HOLE_CM2: Final = 12.0
MARROW_HU: Final = 100.0
"""Of what bone encloses, this and more is marrow; the spinal canal is less."""
FRONT: Final = 0.55
"""Share of the body's depth, from the front."""
BONE_DEEP_MM: Final = 40.0
BRIGHT_BLOOD_ML: Final = 40.0
BONE_MIN_ML: Final = 3.0


@dataclass(frozen=True, eq=False)
class Tissues:
    """Maps of (z, y, x) on a grid of their own. A room is the distance in mm to where the tissue ends, 0 outside it.

    spacing_zyx_mm  of the maps, which share the scan's outer corner
    body            inside the skin, lungs and gas included
    lung_room_mm    lung with the vessels in it
    vessel          vessels in the lung
    organ_room_mm   even soft tissue of large organs and muscles, without heart and great vessels
    fat_room_mm     fat inside the body's wall
    bone_room_mm    bones with their marrow
    soft_room_mm    fat, muscles and organs together, without what lies between the lungs
    """

    spacing_zyx_mm: Spacing
    body: Mask
    lung_room_mm: Room
    vessel: Mask
    organ_room_mm: Room
    fat_room_mm: Room
    bone_room_mm: Room
    soft_room_mm: Room


def find_tissues(hu_zyx: NDArray[np.int16], spacing_zyx_mm: Spacing) -> Tissues:
    """Maps of a scan in the stored order; empty maps where the scan has no such tissue."""
    base = smooth(hu_zyx, spacing_zyx_mm)
    body = _body(base)
    # With its marrow, and whatever else is as bright (contrast medium), with gaps of 28 mm closed.
    bone = _filled(base > 210, 14, MARROW_CM2, spacing_zyx_mm)
    lung = _lungs(hu_zyx, body, spacing_zyx_mm)
    lung_room = _room(lung, spacing_zyx_mm)
    between = _between(lung)
    area_cm2 = lung.sum(axis=(1, 2)) * spacing_zyx_mm[1] * spacing_zyx_mm[2] / 100
    chest = between | (area_cm2 > CHEST_CM2)[:, None, None]
    organ = _organs(base, spacing_zyx_mm) & body & ~bone & ~chest
    organ_room = _room(_opened(organ, ORGAN_RADIUS_MM, spacing_zyx_mm), spacing_zyx_mm)
    fat = _inner_fat(base, body, spacing_zyx_mm) & ~bone
    return Tissues(
        spacing_zyx_mm=spacing_zyx_mm,
        body=body,
        lung_room_mm=lung_room,
        vessel=lung & (base > -550) & (lung_room > 5),
        organ_room_mm=np.where(organ_room > 0, organ_room + EDGE_MM, 0).astype(np.float32),
        fat_room_mm=_room(fat, spacing_zyx_mm),
        bone_room_mm=_room(
            _bones(hu_zyx, base, _bone_place(base, body, between, spacing_zyx_mm), spacing_zyx_mm), spacing_zyx_mm
        ),
        soft_room_mm=_room(body & (base > SOFT_HU[0]) & (base < SOFT_HU[1]) & ~chest, spacing_zyx_mm),
    )


def _body(base: NDArray[np.float32]) -> Mask:
    """The largest part that is denser than air, slices filled; table and clothes fall off by the opening."""
    solid = ndimage.binary_opening(base > -300, np.ones((1, 5, 5)))
    labels, count = ndimage.label(solid)
    if count == 0:
        return np.zeros(base.shape, bool)
    largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return np.stack([ndimage.binary_fill_holes(plane) for plane in largest])


def _lungs(hu: NDArray[np.int16], body: Mask, spacing: Spacing) -> Mask:
    """Lung with the vessels in it, airways left out."""
    empty = (hu < -500) & body
    labels, count = ndimage.label(empty)
    sizes = np.bincount(labels.ravel()) * float(np.prod(spacing)) / 1000
    large = [label for label in range(1, count + 1) if sizes[label] >= LUNG_MIN_ML]
    dark = {label: np.percentile(hu[labels == label], 10) < GAS_HU for label in large}
    air = np.isin(labels, [label for label in large if sizes[label] > BOWEL_MAX_ML or not dark[label]])
    pure = ndimage.binary_opening(air & (hu < AIRWAY_HU), np.ones((1, 3, 3)))
    airway = ndimage.binary_dilation(pure | (empty & ~air), np.ones((1, 5, 5)))
    return np.asarray(_filled(air, 8, VESSEL_HOLE_CM2, spacing) & ~airway)


def _filled(mask: Mask, gap_mm: float, hole_cm2: float, spacing: Spacing) -> Mask:
    """A mask with gaps up to twice `gap_mm` closed, then its holes in each slice up to a size filled."""
    limit_px = hole_cm2 * 100 / (spacing[1] * spacing[2])
    return np.stack([_small_holes_filled(plane, limit_px) for plane in _closed(mask, gap_mm / spacing[2])])


def _small_holes_filled(plane: Mask, limit_px: float) -> Mask:
    holes, count = ndimage.label(~plane)
    if count <= 1:
        return plane
    return np.asarray(plane | (np.bincount(holes.ravel()) <= limit_px)[holes])


def _between(lung: Mask) -> Mask:
    """Heart, great vessels, spine and top of the liver: voxels with lung to both sides in their row."""
    left = np.logical_or.accumulate(lung, axis=2)
    right = np.logical_or.accumulate(lung[:, :, ::-1], axis=2)[:, :, ::-1]
    return np.asarray(left & right)


def _front(body: Mask) -> NDArray[np.bool_]:
    """The rows of each slice in the front of the body: the heart is there, the spine is not."""
    rows: NDArray[np.bool_] = np.asarray(body.any(axis=2))
    first, last = rows.argmax(axis=1), rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)
    before: NDArray[np.bool_] = np.less(np.arange(rows.shape[1]), (first + FRONT * (last - first))[:, None])
    return before[:, :, None]


def _organs(base: NDArray[np.float32], spacing: Spacing) -> Mask:
    near = 3.2 / spacing[2]
    mean = ndimage.gaussian_filter(base, (0, near, near))
    spread = np.sqrt(np.maximum(ndimage.gaussian_filter(base**2, (0, near, near)) - mean**2, 0))
    low, high = ORGAN_HU
    return np.asarray((mean > low) & (mean < high) & (spread < ORGAN_SPREAD_HU))


def _inner_fat(base: NDArray[np.float32], body: Mask, spacing: Spacing) -> Mask:
    """Fat deeper than 12 mm that no path through fat, 6 mm wide, joins with the skin in its slice."""
    fat = (base > FAT_HU[0]) & (base < FAT_HU[1]) & body
    wide = 3 / spacing[2]
    core = _shrunk(fat, wide)
    outer = ndimage.binary_propagation(core & ~_shrunk(body, 8 / spacing[2]), structure=np.ones((1, 3, 3)), mask=core)
    return np.asarray(fat & _shrunk(body, 12 / spacing[2]) & ~_grown(outer, wide + 2))


def _bone_place(base: NDArray[np.float32], body: Mask, between: Mask, spacing: Spacing) -> Mask:
    """Where bright things are bones: in the back, and in front near the skin.

    Not between the lungs where the blood there is as bright as spongy bone.
    """
    front = _front(body)
    place: Mask = body & ~(front & _shrunk(body, BONE_DEEP_MM / spacing[2]))
    heart = between & front & (base > SPONGY_HU)
    if heart.sum() * float(np.prod(spacing)) / 1000 > BRIGHT_BLOOD_ML:
        reach = 2 * round(BONE_DEEP_MM / 2 / spacing[0]) + 1
        place &= ~ndimage.maximum_filter1d(between.view(np.uint8), reach, axis=0).view(np.bool_)
    return np.asarray(place)


def _bones(hu: NDArray[np.int16], base: NDArray[np.float32], body: Mask, spacing: Spacing) -> Mask:
    """What is bright near the brightest, small gaps and holes filled; calcium and small stents are too small."""
    cortex = (hu > CORTEX_HU) & body
    near = _grown(ndimage.binary_dilation(cortex, np.ones((3, 1, 1))), CORTEX_NEAR_MM / spacing[2])
    bright = (base > SPONGY_HU) & body & near
    filled = _filled(bright, 2.4, BONE_HOLE_CM2, spacing) & body & (base > MARROW_HU)
    labels, count = ndimage.label(filled)
    sizes = np.bincount(labels.ravel()) * float(np.prod(spacing)) / 1000
    strong = np.bincount(labels.ravel(), cortex.ravel()) * float(np.prod(spacing)) / 1000
    keep = (sizes >= BONE_MIN_ML) & (strong >= 0.06 * sizes)
    keep[0] = False
    return np.asarray(keep[labels]) if count else np.zeros_like(filled)


def _in_squares(extreme: Callable[..., NDArray[np.uint8]], mask: Mask, radius_px: float) -> Mask:
    """Dilation or erosion in each slice with a square (its cost does not depend on the radius)."""
    side = 2 * round(radius_px) + 1
    return extreme(mask.view(np.uint8), (1, side, side), mode="constant").view(np.bool_)


_grown, _shrunk = (partial(_in_squares, extreme) for extreme in (ndimage.maximum_filter, ndimage.minimum_filter))


def _closed(mask: Mask, radius_px: float) -> Mask:
    margin = round(radius_px) + 1
    padded = np.pad(mask, ((0, 0), (margin, margin), (margin, margin)))
    return _shrunk(_grown(padded, radius_px), radius_px)[:, margin:-margin, margin:-margin]


def _opened(mask: Mask, radius_mm: float, spacing: Spacing) -> Mask:
    """Opening with a ball: what lies in a ball of this radius that the mask holds."""
    cores = _room(mask, spacing) >= radius_mm
    if not cores.any():
        return cores
    place = _bounds(mask)
    opened = np.zeros_like(mask)
    opened[place] = ndimage.distance_transform_edt(~cores[place], sampling=spacing) <= radius_mm
    return opened & mask


def _room(mask: Mask, spacing: Spacing) -> Room:
    """Distance in mm to the mask's end, 0 outside; the scan's own ends are none."""
    room = np.zeros(mask.shape, np.float32)
    if mask.any() and not mask.all():
        place = _bounds(mask)
        room[place] = ndimage.distance_transform_edt(mask[place], sampling=spacing)
    return room


def _bounds(mask: Mask) -> tuple[slice, ...]:
    """Where a mask is, with a voxel around it."""
    ends = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(max(0, int(end[0]) - 1), int(end[-1]) + 2) for end in ends)
