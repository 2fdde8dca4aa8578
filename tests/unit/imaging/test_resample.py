"""Resampling keeps the outer corner, so boxes go back by geometry; windows map HU to [0, 1]."""

from typing import Any

import numpy as np
import pytest

from harvester.geometry import scale_boxes, scale_slices
from harvester.imaging.hounsfield import windowed
from harvester.imaging.resample import resample
from harvester.records import Volume


def volume_of(hu_zyx: Any, spacing: tuple[float, float, float]) -> Volume:
    return Volume("v", "p", np.asarray(hu_zyx).astype(np.int16), spacing)


def noise(shape: tuple[int, int, int]) -> Any:
    return np.random.default_rng(0).integers(-1000, 1000, shape)


def test_spacings_within_a_hundredth_change_nothing() -> None:
    volume = volume_of(noise((3, 4, 5)), (5.0, 0.8, 0.8))
    assert resample(volume, (5.04, 0.795, 0.8)) is volume


def test_one_axis_may_keep_its_spacing() -> None:
    out = resample(volume_of(noise((3, 8, 8)), (5.02, 0.8, 0.8)), (5.0, 1.6, 1.6))
    assert out.spacing_zyx_mm == (5.02, 1.6, 1.6)
    assert out.hu_zyx.shape == (3, 4, 4)


def slow_linear(values: Any, ratio: float, axis: int) -> Any:
    """One axis by np.interp, voxel centres half a voxel in from the common corner."""
    count = max(1, round(values.shape[axis] / ratio))
    places = (np.arange(count) + 0.5) * ratio - 0.5
    own = np.arange(values.shape[axis])
    return np.apply_along_axis(lambda line: np.interp(places, own, line), axis, values)


def test_finer_grids_are_plain_linear_interpolation() -> None:
    hu = noise((4, 5, 6))
    out = resample(volume_of(hu, (4.0, 1.5, 2.0)), (2.5, 0.7, 0.9))
    want = hu.astype(float)
    for axis, ratio in enumerate((2.5 / 4, 0.7 / 1.5, 0.9 / 2)):
        want = slow_linear(want, ratio, axis)
    np.testing.assert_allclose(out.hu_zyx, want, atol=0.51)


@pytest.mark.parametrize("spacing", [(2.0, 1.6, 1.6), (7.0, 0.3, 3.1), (4.0, 1.0, 0.9)])
def test_flat_stays_flat_and_slopes_stay_straight(spacing: tuple[float, float, float]) -> None:
    flat = resample(volume_of(np.full((7, 20, 30), -321), (4.0, 1.0, 1.0)), spacing)
    assert np.unique(flat.hu_zyx).tolist() == [-321]
    slope = volume_of(np.broadcast_to(np.arange(60) * 10, (7, 20, 60)), (4.0, 1.0, 1.0))
    line = resample(slope, spacing).hu_zyx[0, 0]
    centres = scale_slices(np.arange(len(line)), spacing[2])
    inner = (centres > 4) & (centres < 55)
    np.testing.assert_allclose(line[inner], 10 * centres[inner], atol=1.6)  # a sixth of a voxel


def test_shrinking_averages_noise_away() -> None:
    out = resample(volume_of(noise((4, 120, 120)), (4.0, 0.5, 0.5)), (4.0, 2.0, 2.0))
    assert out.hu_zyx.std() < 0.25 * 577


def test_the_smallest_volume_stays_a_volume() -> None:
    out = resample(volume_of([[[7]]], (1.0, 1.0, 1.0)), (5.0, 5.0, 0.2))
    assert out.hu_zyx.shape == (1, 1, 5)
    assert np.unique(out.hu_zyx).tolist() == [7]


@pytest.mark.parametrize("own", [(4.0, 0.7, 0.9), (1.0, 2.0, 1.6), (5.0, 1.6, 1.6)])
def test_a_bright_cuboid_comes_back_where_it_was(own: tuple[float, float, float]) -> None:
    """Boxes measured on the grid and mapped back by geometry cover the cuboid to a voxel's width."""
    grid = (2.0, 1.6, 1.6)
    hu = np.full((24, 80, 90), -1000)
    hu[6:14, 20:50, 30:70] = 1000
    bright = np.argwhere(resample(volume_of(hu, own), grid).hu_zyx > 0)
    (z1, y1, x1), (z2, y2, x2) = bright.min(0), bright.max(0)
    back = scale_boxes(np.array([x1, y1, x2, y2], float), grid[2] / own[2], grid[1] / own[1])
    np.testing.assert_allclose(back, [30, 20, 69, 49], atol=0.51 * 1.6 / 0.7 + 0.51)
    middle = scale_slices(np.array([(z1 + z2) / 2]), grid[0] / own[0])
    np.testing.assert_allclose(middle, [9.5], atol=0.51 * max(1, grid[0] / own[0]))


def test_windows_map_their_ends_to_0_and_1() -> None:
    hu = np.array([[[-1024, -160, 40, 240, 3071]]], np.int16)
    channels = windowed(hu, ((-1024.0, 3071.0), (-160.0, 240.0)))
    assert channels.dtype == np.float32
    np.testing.assert_allclose(channels[1, 0, 0], [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(channels[0, 0, 0, [0, -1]], [0, 1])
    assert windowed(hu, ()).shape == (0, 1, 1, 5)
    np.testing.assert_allclose(windowed(hu.astype(np.float64), ((-160.0, 240.0),)), channels[1:])
