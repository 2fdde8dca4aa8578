"""How a lesion of each kind changes the image: from a block of the sub-volume to the block with the lesion in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harvester.config.data import Spacing
from harvester.datasets.insertion.lesion_models import (
    Blob,
    Mask,
    coverage,
    draw_grain,
    draw_texture,
    half_covered,
    paint,
    shade,
    shrunk,
)

Floats = NDArray[np.floating[Any]]
Range = tuple[float, float]

LUNG_DARKER_HU: Final = 400.0
FAT_DARKER_HU: Final = 90.0
"""A voxel shows a solid lesion if it was darker than the lesion by this: lung and fat are, a wall is not."""

LUNG_BELOW_HU: Final = -500.0

VEIL_SHOWN_HU: Final = 100.0
"""The same for ground glass, which walls and vessels shine through."""

BONE_SHOWN_HU: Final = 110.0
"""A voxel of bone shows a lesion if it was brighter or darker than the lesion by this."""

EVEN_HU: Final = 15.0
"""Organ lesions go where the tissue they cover varies by no more (standard deviation, noise smoothed)."""

HYPERDENSE_BELOW_HU: Final = 140.0
"""Brighter tissue would carry a hyperdense lesion out of the soft-tissue window."""

HYPODENSE_ABOVE_HU: Final = 40.0

RIM_HU: Final = 30.0
"""A rim is brighter than the organ by this at least."""

SOFT_HU: Final = (-250.0, 160.0)
"""A mass takes the place of what is between these: fat, muscle and organs, not bowel gas, lung or bone."""


@dataclass(frozen=True, eq=False)
class Site:
    """A block of a sub-volume and the lesion that shall lie in it. Blocks are (z, y, x) and of one shape.

    hu, base     the image as it is, and smoothed
    cover        share of every voxel that the lesion covers
    kept         the part of the lesion's whole block that lies inside the sub-volume
    tile         of the scan's own noise in HU
    bone         share of every voxel that is bone
    contrast_hu  the asked range for organ lesions
    muscle_hu    the scan's muscle
    """

    rng: np.random.Generator
    spacing_zyx_mm: Spacing
    diameter_mm: float
    blob: Blob
    offset_zyx: Floats
    whole: tuple[int, ...]
    kept: tuple[slice, ...]
    hu: Floats
    base: Floats
    cover: Floats
    tile: NDArray[np.float32]
    bone: Floats
    contrast_hu: Range
    muscle_hu: float

    @property
    def around_hu(self) -> float:
        """Median of what the lesion covers."""
        return float(np.median(self.base[half_covered(self.cover)]))

    def noise(self) -> Floats:
        """The scan's own noise, drawn anew."""
        return draw_grain(self.rng, self.tile, self.hu.shape)

    def texture(self, share: float) -> Floats:
        """Slow variation with mean 0 and this standard deviation."""
        return draw_texture(self.rng, self.hu.shape, self.spacing_zyx_mm, share)

    def core(self, share: float, off_centre: float = 0.0) -> Floats:
        """Cover of an inner part whose radius is a share of the lesion's, moved by up to a share of it."""
        radius = np.array(self.blob.radii_zyx_mm)
        moved = self.rng.uniform(-1, 1, 3) * off_centre * radius / self.spacing_zyx_mm
        inner = coverage(shrunk(self.blob, share, self.rng), self.offset_zyx + moved, self.spacing_zyx_mm)
        return np.minimum(_centred(inner, self.whole)[self.kept], self.cover)

    def draw(self, low: float, high: float) -> float:
        """An even draw."""
        return float(self.rng.uniform(low, high))


@dataclass(frozen=True, eq=False)
class Look:
    """The block with the lesion, the lesion's visible voxels and its contrast against what was there in HU."""

    hu: Floats
    voxels: Mask
    contrast_hu: float


Change = Callable[[Site], Look | None]
"""None where the lesion would not be one of its kind there."""


def solid(site: Site) -> Look:
    """A soft-tissue nodule in lung."""
    return _solid(site, site.draw(10, 60), LUNG_DARKER_HU)


def calcified(site: Site) -> Look:
    """A nodule with calcium in most of it or in its middle."""
    calcium = site.draw(250, 650) * site.core(site.draw(0.5, 0.95), 0.1)
    return _solid(site, site.draw(20, 70), LUNG_DARKER_HU, calcium)


def cavitary(site: Site) -> Look:
    """A nodule with air in it and a wall of uneven thickness."""
    level = site.draw(0, 50)
    return _solid(site, level, LUNG_DARKER_HU, (site.draw(-960, -880) - level) * site.core(site.draw(0.45, 0.75), 0.15))


def ground_glass(site: Site) -> Look | None:
    """A veil over the lung, through which its vessels show."""
    return _veil(site)


def part_solid(site: Site) -> Look | None:
    """Ground glass with a solid part."""
    veil = _veil(site)
    if veil is None:
        return None
    core = site.core(site.draw(0.35, 0.65), 0.2)
    level = site.draw(-40, 40)
    hu, _ = paint(veil.hu, site.base, core, level, level + site.noise() + site.texture(12), LUNG_DARKER_HU)
    return Look(hu, veil.voxels, veil.contrast_hu)


def node(site: Site) -> Look:
    """A lymph node in fat, about as bright as muscle."""
    return _solid(site, site.muscle_hu + site.draw(-20, 25), FAT_DARKER_HU)


def mass_in_lung(site: Site) -> Look:
    """A large solid mass, darker in its middle."""
    return _solid(site, site.draw(25, 65), LUNG_DARKER_HU, -site.draw(0, 30) * site.core(site.draw(0.4, 0.75), 0.2))


def mass_in_soft_tissue(site: Site) -> Look:
    """A large mass that took the place of fat and muscle, darker than muscle and darker still in its middle."""
    level = site.muscle_hu + site.draw(-35, -8)
    inner = -site.draw(10, 30) * site.core(site.draw(0.4, 0.8), 0.2)
    low, high = SOFT_HU
    soft = np.clip((site.base - low) / 60, 0, 1) * np.clip((high - site.base) / 40, 0, 1)
    target = level + inner + site.noise() + site.texture(7)
    changed = site.hu + site.cover * soft * (target - site.hu)
    return Look(changed, half_covered(site.cover) & (soft > 0.5), level - site.around_hu)


def hypodense(site: Site) -> Look | None:
    """An organ lesion darker than the organ."""
    return _organ(site, -_contrast(site))


def hyperdense(site: Site) -> Look | None:
    """An organ lesion brighter than the organ."""
    return _organ(site, _contrast(site))


def cystic(site: Site) -> Look | None:
    """An even, sharp organ lesion of the density of water."""
    contrast = site.draw(-5, 18) - site.around_hu
    return _organ(site, contrast, texture=0.03) if contrast <= -site.contrast_hu[0] else None


def rim_enhancing(site: Site) -> Look | None:
    """A dark organ lesion with a rim brighter than the organ."""
    dark, bright = -_contrast(site), max(RIM_HU, site.draw(*site.contrast_hu))
    core = site.core(1 - max(site.draw(0.16, 0.3), 5 / site.diameter_mm))
    return _organ(site, dark, core=core, rim=bright)


def lytic(site: Site) -> Look:
    """Bone that gave way to soft tissue."""
    level = site.draw(20, 70)
    cover = site.cover * np.clip((site.base - level) / 60, 0, 1) * np.clip(1.5 * site.bone, 0, 1)
    changed = site.hu + cover * (level + site.noise() + site.texture(8) - site.hu)
    shown = half_covered(site.cover) & (site.bone > 0.3) & (site.base - level >= BONE_SHOWN_HU)
    return Look(changed, shown, level - site.around_hu)


def sclerotic(site: Site) -> Look:
    """Bone that is denser than it was."""
    level = site.around_hu + site.draw(300, 650)
    cover = site.cover * np.clip((level - site.base) / 120, 0, 1) * np.clip(1.5 * site.bone - 0.25, 0, 1)
    changed = site.hu + cover * (level - site.base + site.texture(50))
    shown = half_covered(site.cover) & (site.bone > 0.5) & (level - site.base >= BONE_SHOWN_HU)
    return Look(changed, shown, level - site.around_hu)


def _solid(site: Site, level: float, darker: float, inner: Floats | float = 0.0) -> Look:
    """Painted over what is darker; `inner` is what its parts differ from its level by."""
    target = level + inner + site.noise() + site.texture(8)
    hu, voxels = paint(site.hu, site.base, site.cover, level, target, darker)
    return Look(hu, voxels, level - site.around_hu)


def _veil(site: Site) -> Look | None:
    inside = half_covered(site.cover)
    lung = site.base[inside & (site.base < LUNG_BELOW_HU)]
    if len(lung) < inside.sum() / 2:
        return None
    contrast = site.draw(190, 380)
    level = float(np.median(lung)) + contrast
    target = site.hu + contrast * (1 + site.texture(0.12))
    hu, voxels = paint(site.hu, site.base, site.cover, level, target, VEIL_SHOWN_HU)
    return Look(hu, voxels, contrast)


def _contrast(site: Site) -> float:
    """HU against the organ; the smallest lesions take it from the upper half, or nobody would see them."""
    low, high = site.contrast_hu
    small = float(np.clip((20 - site.diameter_mm) / 10, 0, 1))
    return site.draw(low + small * (high - low) / 2, high)


def _organ(
    site: Site, contrast: float, *, texture: float = 0.15, core: Floats | None = None, rim: float = 0.0
) -> Look | None:
    """Shaded by `contrast` in its core, by `rim` outside of it; None where the organ is not even or of another HU."""
    around = site.around_hu
    allowed = around > HYPODENSE_ABOVE_HU if contrast < 0 else around < HYPERDENSE_BELOW_HU
    if not allowed or site.base[half_covered(site.cover)].std() > EVEN_HU:
        return None
    profile = contrast if core is None else rim + (contrast - rim) * core
    hu, voxels = shade(site.hu, site.base, site.cover, profile, site.texture(texture))
    return Look(hu, voxels, contrast)


def _centred(inner: Floats, shape: tuple[int, ...]) -> Floats:
    """A block of odd sides cut or padded with nothing to another, its middle kept."""
    more = [(want - side) // 2 for want, side in zip(shape, inner.shape, strict=True)]
    cut = inner[tuple(slice(max(0, -n), side - max(0, -n)) for n, side in zip(more, inner.shape, strict=True))]
    return np.pad(cut, [(max(0, n), max(0, n)) for n in more])
