"""Lesion models: what share of a voxel a blob covers, and the ways it changes an image."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from harvester.datasets.insertion.lesion_models import (
    coverage,
    draw_blob,
    draw_grain,
    draw_texture,
    half_covered,
    paint,
    shade,
    shrunk,
    smooth,
)
from tests.made_torso import COARSE, FINE

GRID = (4.0, 1.6, 1.6)


@pytest.mark.parametrize("contrast", [-60.0, 45.0])
def test_shade_moves_the_mean_by_the_asked_contrast_and_keeps_the_noise(contrast: float) -> None:
    rng = np.random.default_rng(0)
    blob = draw_blob(rng, 24, flatness=0.7, bumps=0.2)
    cover = coverage(blob, np.zeros(3), GRID)
    tissue = rng.normal(60, 10, cover.shape).astype(np.float32)
    changed, voxels = shade(tissue, smooth(tissue, GRID), cover, contrast, draw_texture(rng, cover.shape, GRID, 0.0))
    core = cover > 0.95
    assert (changed - tissue)[core].mean() == pytest.approx(contrast, abs=2)
    assert changed[core].std() == pytest.approx(tissue[core].std(), rel=0.15)
    assert np.array_equal(changed[cover == 0], tissue[cover == 0])
    assert voxels[core].all()


def test_paint_fills_lung_and_leaves_the_wall() -> None:
    blob = draw_blob(np.random.default_rng(1), 20, flatness=0.9, bumps=0.0)
    cover = coverage(blob, np.zeros(3), GRID)
    lung = np.full(cover.shape, -850, np.float32)
    lung[:, :, cover.shape[2] // 2 + 3 :] = 50
    changed, voxels = paint(lung, smooth(lung, GRID), cover, 40.0, np.full_like(cover, 40.0), 400.0)
    core = cover[:, :, :-8] > 0.99
    assert changed[:, :, :-8][core & (lung[:, :, :-8] < 0)].max() <= 40
    middle = tuple(n // 2 for n in cover.shape)
    assert changed[middle] == pytest.approx(40, abs=1)
    assert voxels[middle]
    assert np.abs((changed - lung)[:, :, cover.shape[2] // 2 + 6 :]).max() < 5
    assert not voxels[:, :, cover.shape[2] // 2 + 5 :].any()


def test_coverage_holds_the_volume_of_the_lesion_whatever_the_grid() -> None:
    blob = draw_blob(np.random.default_rng(2), 16, flatness=1.0, bumps=0.0)
    expected = 4 / 3 * np.pi * np.prod(blob.radii_zyx_mm)
    for spacing in (GRID, (1.0, 0.8, 0.8)):
        cover = coverage(blob, np.array([0.3, -0.2, 0.4]), spacing)
        assert cover.sum() * np.prod(spacing) == pytest.approx(expected, rel=0.03)
        assert cover.max() <= 1.001
        assert half_covered(cover).any()


@pytest.mark.parametrize("spacing", [COARSE, FINE, (5.0, 0.7, 0.9), (1.5, 1.5, 1.5)])
def test_coverage_has_centre_and_size_within_a_voxel(spacing: tuple[float, float, float]) -> None:
    blob = draw_blob(np.random.default_rng(3), 22, flatness=0.8, bumps=0.0)
    blob = replace(blob, turn=0.0)
    offset = np.array([0.4, -0.3, 0.2])
    inside = half_covered(coverage(blob, offset, spacing))
    places = np.argwhere(inside)
    off = places.mean(axis=0) - np.array(inside.shape) // 2 - offset
    assert np.abs(off).max() < 0.5
    extent = (places.max(axis=0) - places.min(axis=0) + 1) * spacing
    assert (np.abs(extent - 2 * np.array(blob.radii_zyx_mm)) <= 1.5 * np.array(spacing)).all(), (
        "its poles fill no voxel"
    )


def test_an_inner_part_is_covered_by_the_whole() -> None:
    rng = np.random.default_rng(0)
    blob = draw_blob(rng, 24, flatness=0.8, bumps=0.1)
    whole, inner = (coverage(each, np.zeros(3), FINE) for each in (blob, shrunk(blob, 0.5, rng)))
    more = (np.array(whole.shape) - inner.shape) // 2
    middle = whole[tuple(slice(n, n + side) for n, side in zip(more, inner.shape, strict=True))]
    assert (middle >= inner - 0.02).all()
    assert inner.sum() == pytest.approx(whole.sum() / 8, rel=0.35)


def test_smoothing_has_a_width_in_mm_whatever_the_spacing() -> None:
    for spacing in (COARSE, FINE, (5.0, 0.6, 0.9)):
        point = np.zeros((1, 101, 101))
        point[0, 50, 50] = 1
        spread = smooth(point, spacing)[0]
        y = (np.arange(101) - 50) * spacing[1]
        assert np.sqrt((spread.sum(axis=1) * y**2).sum()) == pytest.approx(2.4, rel=0.05)


def test_grain_has_the_noise_s_spread_and_neighbours_as_alike() -> None:
    rng = np.random.default_rng(0)
    tile = ndimage.gaussian_filter(rng.normal(size=(8, 48, 40)), (0, 1.2, 1.2)).astype(np.float32)
    tile *= 15 / tile.std()
    made = draw_grain(rng, tile, (11, 90, 75))
    assert made.shape == (11, 90, 75)
    assert made.std() == pytest.approx(15, rel=0.01)
    assert abs(made.mean()) < 2

    def alike(noise: np.ndarray, axis: int) -> float:
        first, second = (np.delete(noise, end, axis).ravel() for end in (-1, 0))
        return float(np.corrcoef(first, second)[0, 1])

    for axis in range(3):
        assert alike(made, axis) == pytest.approx(alike(tile, axis), abs=0.12)
