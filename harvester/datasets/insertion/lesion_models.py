"""Lesion models: irregular blobs with partial volume, and the two ways they change an image.

A blob is an ellipsoid whose radius is a random smooth function of direction (plus sharp rays where it is
spiculated). It is sampled finely, blurred as the scanner would and averaged into voxels, which gives the
share of every voxel that the lesion covers. `paint` lays a soft-tissue lesion into something darker (a nodule
into lung, a node into fat); `shade` makes tissue darker or brighter and keeps its noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from harvester.config.data import Spacing

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

FINE_MM: Final = 0.8
"""A blob is sampled at about this step before it is averaged into voxels."""

IN_PLANE_BLUR_MM: Final = 0.6
"""Standard deviation of a soft to medium reconstruction kernel; the voxels' own averaging comes on top."""

SLICE_BLUR: Final = 0.2
"""Standard deviation along z as a share of the slice distance: a slice's profile is wider than the voxel."""

SMOOTH_MM: Final = 2.4
"""Standard deviation in each slice of the Gaussian that takes the noise away."""

TEXTURE_MM: Final = (3.2, 4.0, 4.0)
"""Standard deviations (z, y, x) of the Gaussian that makes a lesion's slow variation."""

FADE_HU: Final = 120.0
"""`paint` fades out where the image comes this close to the lesion's own value: walls stay as they are."""

STRUCTURE_LEFT: Final = 0.3
"""Share of vessels and edges that still shows inside a lesion made by `shade`."""


@dataclass(frozen=True)
class Blob:
    """One lesion's shape.

    radii_zyx_mm   semi-axes before the surface is made uneven
    turn           rotation about z in radians
    margin_mm      standard deviation of what makes the margin ill-defined, 0 for a sharp one
    waves          (n, 5): direction of a wave (x, y, z), phase, amplitude; bumps of the surface
    rays           (n, 4): direction of a spicule (x, y, z), length as a share of the radius
    """

    radii_zyx_mm: Spacing
    turn: float
    margin_mm: float
    waves: NDArray[np.float64]
    rays: NDArray[np.float64]

    @property
    def reach_mm(self) -> float:
        """No part of the blob is farther from its centre."""
        bumps = 1 + float(np.abs(self.waves[:, 4]).sum()) + float(self.rays[:, 3].max(initial=0.0))
        return max(self.radii_zyx_mm) * bumps


def draw_blob(
    rng: np.random.Generator,
    diameter_mm: float,
    *,
    flatness: float,
    bumps: float,
    spicules: int = 0,
    margin_mm: float = 0.0,
) -> Blob:
    """A random blob whose largest in-plane diameter is about `diameter_mm`.

    flatness is the smallest ratio of an axis to the longest; bumps the unevenness as a share of the radius
    (0 is an ellipsoid); spicules the number of rays.
    """
    radius = diameter_mm / 2
    radii = (radius * rng.uniform(flatness, 1.15), radius * rng.uniform(flatness, 1.0), radius)
    directions = rng.normal(size=(6, 3)) * rng.uniform(1.0, 2.6, size=(6, 1))
    amplitudes = bumps * rng.uniform(0.3, 1.0, size=(6, 1)) / 2
    waves = np.hstack([directions, rng.uniform(0, 2 * np.pi, size=(6, 1)), amplitudes])
    rays = rng.normal(size=(spicules, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    lengths = rng.uniform(0.2, 0.7, size=(spicules, 1))
    return Blob(radii, float(rng.uniform(0, np.pi)), margin_mm, waves, np.hstack([rays, lengths]))


def shrunk(blob: Blob, share: float, rng: np.random.Generator) -> Blob:
    """An inner part of a blob whose radii are a share of its own: no spicules, bumps of its own phases."""
    z, y, x = (share * radius for radius in blob.radii_zyx_mm)
    waves = blob.waves.copy()
    waves[:, 3] = rng.uniform(0, 2 * np.pi, len(waves))
    return replace(blob, radii_zyx_mm=(z, y, x), margin_mm=share * blob.margin_mm, waves=waves, rays=blob.rays[:0])


def coverage(blob: Blob, offset_zyx: Floats, spacing_zyx_mm: Spacing) -> NDArray[np.float32]:
    """Share of every voxel that the blob covers, in a block of odd sides whose middle voxel holds the centre.

    offset_zyx shifts the centre from the middle of that voxel, in voxels.
    """
    spacing = np.asarray(spacing_zyx_mm)
    sigma_mm = np.hypot([SLICE_BLUR * spacing_zyx_mm[0], IN_PLANE_BLUR_MM, IN_PLANE_BLUR_MM], blob.margin_mm)
    half = np.ceil((blob.reach_mm + 2.5 * sigma_mm) / spacing + np.maximum(np.abs(offset_zyx), 0.5)).astype(int)
    steps = np.maximum(1, np.rint(spacing / FINE_MM)).astype(int)
    axes = [
        ((np.arange((2 * n + 1) * k) + 0.5) / k - n - 0.5 - shift) * size
        for n, k, shift, size in zip(half, steps, offset_zyx, spacing, strict=True)
    ]
    fine = _filled(blob, axes)
    fine = ndimage.gaussian_filter(fine, sigma_mm * steps / spacing, mode="constant", truncate=3)
    (kz, ky, kx), (nz, ny, nx) = steps, fine.shape
    blocks = fine.reshape(nz // kz, kz, ny // ky, ky, nx // kx, kx)
    return np.asarray(blocks.mean(axis=(1, 3, 5)), dtype=np.float32)


def _filled(blob: Blob, axes_zyx_mm: Sequence[Floats]) -> NDArray[np.float32]:
    z, y, x = np.meshgrid(*[axis.astype(np.float32) for axis in axes_zyx_mm], indexing="ij", sparse=True)
    cos, sin = np.float32(np.cos(blob.turn)), np.float32(np.sin(blob.turn))
    x, y = cos * x + sin * y, cos * y - sin * x
    rz, ry, rx = (np.float32(radius) for radius in blob.radii_zyx_mm)
    z, y, x = z / rz, y / ry, x / rx
    distance = np.sqrt(x * x + y * y + z * z) + np.float32(1e-6)
    inside = np.clip((_surface(blob, x, y, z, distance) - distance) * rx / FINE_MM + 0.5, 0, 1)
    return np.asarray(inside, dtype=np.float32)


def _surface(blob: Blob, x: Floats, y: Floats, z: Floats, distance: Floats) -> Floats:
    """Radius of the surface in each voxel's direction, 1 for the bare ellipsoid."""
    radius: Floats = np.ones_like(distance)
    for wx, wy, wz, phase, amplitude in blob.waves.astype(np.float32):
        radius += amplitude * np.cos((wx * x + wy * y + wz * z) / distance + phase)
    for ux, uy, uz, length in blob.rays.astype(np.float32):
        along = np.maximum((ux * x + uy * y + uz * z) / distance, 0)
        for _ in range(4):  # to the 16th power: a narrow cone
            along *= along
        radius += length * along
    return radius


def smooth(hu_zyx: NDArray[Any], spacing_zyx_mm: Spacing, width_mm: float = SMOOTH_MM) -> NDArray[np.float32]:
    """The image without its noise: a Gaussian of this standard deviation in each slice."""
    sigma = (0.0, width_mm / spacing_zyx_mm[1], width_mm / spacing_zyx_mm[2])
    return np.asarray(ndimage.gaussian_filter(hu_zyx.astype(np.float32), sigma), dtype=np.float32)


def paint(
    hu_zyx: Floats, base_zyx: Floats, cover: Floats, level_hu: float, target_zyx: Floats, least_hu: float
) -> tuple[Floats, Mask]:
    """A lesion of about `level_hu` laid into darker surroundings; what is as bright already (a wall) stays.

    `base_zyx` is the block smoothed, `target_zyx` what the lesion's own voxels look like, noise included. Returns
    the changed block and the voxels of the lesion that were darker than its level by `least_hu` or more.
    """
    darker = level_hu - base_zyx
    changed = hu_zyx + cover * np.clip(darker / FADE_HU, 0, 1) * (target_zyx - hu_zyx)
    return changed, half_covered(cover) & (darker >= least_hu)


def shade(
    hu_zyx: Floats, base_zyx: Floats, cover: Floats, contrast_hu: Floats | float, texture: Floats
) -> tuple[Floats, Mask]:
    """Tissue made brighter inside a lesion (darker where `contrast_hu` is negative), its noise kept.

    contrast_hu may differ from voxel to voxel. Where the lesion fills no voxel, its best covered one still gets
    all of it. Vessels inside are faded; `base_zyx` is the block smoothed, and `texture` (the block's shape, mean
    about 0) varies the contrast by its share. Returns the changed block and the voxels of the lesion.
    """
    inside, cover = half_covered(cover), cover / cover.max()
    structure = base_zyx - np.median(base_zyx[inside])
    changed = hu_zyx + cover * (contrast_hu * (1 + texture) - (1 - STRUCTURE_LEFT) * structure)
    return changed, inside


def half_covered(cover: Floats) -> Mask:
    """The voxels of a lesion: covered by half of what its best covered voxel is."""
    return np.asarray(cover >= 0.5 * cover.max())


def draw_grain(
    rng: np.random.Generator, tile_zyx: NDArray[np.float32], shape_zyx: tuple[int, ...]
) -> NDArray[np.float32]:
    """Noise with the tile's standard deviation and spectrum, of another shape, without repeats."""
    faded = tile_zyx * np.hanning(tile_zyx.shape[1] + 2)[1:-1, None] * np.hanning(tile_zyx.shape[2] + 2)[1:-1]
    size = [fft.next_fast_len(side, real=True) for side in shape_zyx]
    white = rng.standard_normal(size, dtype=np.float32)
    spectrum = np.abs(fft.rfftn(faded.astype(np.float32), size))
    noise = fft.irfftn(fft.rfftn(white) * spectrum, size)[tuple(map(slice, shape_zyx))]
    return np.asarray(noise * (tile_zyx.std() / max(float(noise.std()), 1e-6)), dtype=np.float32)


def draw_texture(
    rng: np.random.Generator, shape_zyx: tuple[int, ...], spacing_zyx_mm: Spacing, share: float
) -> NDArray[np.float32]:
    """Slow random variation with mean 0 and standard deviation `share`."""
    sigma = np.divide(TEXTURE_MM, spacing_zyx_mm)
    field = ndimage.gaussian_filter(rng.standard_normal(shape_zyx, dtype=np.float32), sigma, truncate=3)
    field -= field.mean()
    return np.asarray(field * (share / max(float(field.std()), 1e-6)), dtype=np.float32)
