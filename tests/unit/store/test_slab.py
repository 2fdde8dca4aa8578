"""Slabs on the network's grid against a slow reading by voxel; boxes and slices between the two frames."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from harvester.config.models import GridSettings
from harvester.geometry import boxes_to_mm, scale_slices
from harvester.imaging.hounsfield import AIR_HU
from harvester.imaging.interpolation import Taps, interpolate
from harvester.storage.location import Location
from harvester.store.slab import SIDE_MULTIPLE, GridFrame, pad_sides, read_slab
from tests.builders import made_store

COARSE = (4.0, 1.6, 1.6)


def frame_of(shape: tuple[int, int, int], spacing: tuple[float, float, float], **grid: Any) -> GridFrame:
    row = dict(zip(("depth", "height", "width"), shape, strict=True)) | {"volume_id": "v"}
    row |= dict(zip(("spacing_z_mm", "spacing_y_mm", "spacing_x_mm"), spacing, strict=True))
    return GridFrame.of(row, GridSettings(**{"spacing_zyx_mm": COARSE, **grid}))


def stored(folder: Path, hu: Any, spacing: tuple[float, float, float]) -> Location:
    return made_store(folder, {"v": "vm"}, hu=hu, spacing_zyx_mm=spacing).path


def slow_slab(hu: Any, frame: GridFrame, z_start: int, z_end: int) -> Any:
    """Each grid voxel's centre in mm, its value by scipy in float64, without shortcuts; unpadded."""
    depth, rows, columns = frame.shape_zyx
    z = np.clip(np.arange(z_start, z_end), 0, depth - 1)
    centres = [
        (index + 0.5) * grid_mm / px_mm - 0.5
        for index, grid_mm, px_mm in zip(
            (z, np.arange(rows), np.arange(columns)), frame.spacing_zyx_mm, frame.spacing_px_zyx_mm, strict=True
        )
    ]
    places = np.stack(np.meshgrid(*centres, indexing="ij"))
    return map_coordinates(hu.astype(np.float64), places, order=1, mode="nearest")


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((9, 40, 36), (2.0, 0.8, 0.8)),
        ((5, 23, 31), (5.0, 0.7, 0.9)),
        ((7, 19, 20), (4.0, 1.6, 1.6)),
        ((3, 10, 12), (1.0, 3.1, 2.9)),
        ((1, 16, 16), (10.0, 1.6, 1.6)),
    ],
)
def test_a_slab_equals_the_slow_reading(tmp_path: Path, shape: Any, spacing: Any) -> None:
    hu = np.random.default_rng(0).integers(-1024, 1500, shape).astype(np.int16)
    store, frame = stored(tmp_path, hu, spacing), frame_of(shape, spacing)
    depth, rows, columns = frame.shape_zyx
    slab = read_slab(store, frame, -4, depth + 4)
    slow = slow_slab(hu, frame, -4, depth + 4)
    assert slab.dtype == np.int16
    # Rounding to whole HU after each of three axes: at most half a unit each.
    assert np.abs(slab[:, :rows, :columns] - slow).max() <= 1.5
    assert (slab[:, rows:] == AIR_HU).all()
    assert (slab[:, :, columns:] == AIR_HU).all()
    assert slab.shape[1] % SIDE_MULTIPLE == slab.shape[2] % SIDE_MULTIPLE == 0
    for start, end in ((0, 1), (depth - 1, depth + 2), (-3, 1), (depth // 2, depth)):
        np.testing.assert_array_equal(read_slab(store, frame, start, end), slab[start + 4 : end + 4])


@pytest.mark.parametrize("spacing", [(4.0, 0.7, 0.9), (4.0, 1.6, 2.9), (4.0, 3.1, 1.6), (4.0, 1.5, 1.7)])
def test_slice_by_slice_gives_the_same_bits_as_axis_by_axis(tmp_path: Path, spacing: Any) -> None:
    hu = np.random.default_rng(5).integers(-32768, 32767, (3, 33, 41)).astype(np.int16)
    frame = frame_of(hu.shape, spacing)
    slow = hu
    for axis in (1, 2):
        centres = scale_slices(np.arange(frame.shape_zyx[axis]), frame.ratios_zyx[axis])
        slow = interpolate(slow, axis, Taps.at(centres, slow.shape[axis]))
    np.testing.assert_array_equal(read_slab(stored(tmp_path, hu, spacing), frame, 0, 3), pad_sides(slow))


def test_slices_beyond_the_ends_repeat_them(tmp_path: Path) -> None:
    hu = np.random.default_rng(1).integers(-1000, 1000, (3, 16, 16)).astype(np.int16)
    slab = read_slab(stored(tmp_path, hu, COARSE), frame_of(hu.shape, COARSE), -3, 6)
    np.testing.assert_array_equal(slab[3:6], hu)
    np.testing.assert_array_equal(slab[:3], np.repeat(hu[:1], 3, axis=0))
    np.testing.assert_array_equal(slab[6:], np.repeat(hu[-1:], 3, axis=0))


def test_equal_spacing_is_not_resampled(tmp_path: Path) -> None:
    hu = np.random.default_rng(2).integers(-1000, 1000, (4, 32, 48)).astype(np.int16)
    nearly = (4.01, 1.595, 1.6)
    frame = frame_of(hu.shape, nearly)
    assert frame.ratios_zyx == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(read_slab(stored(tmp_path, hu, nearly), frame, 0, 4), hu)


def test_interpolate_is_linear_with_repeated_ends() -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(-1000, 1000, (4, 11, 5)).astype(np.int16)
    positions = rng.uniform(-3, 14, 40)
    got = interpolate(values, 1, Taps.at(positions, 11))
    for i in range(4):
        for j in range(5):
            slow = np.interp(positions, np.arange(11), values[i, :, j].astype(np.float64))
            assert np.abs(got[i, :, j] - slow).max() <= 0.51
    whole = np.array([3, 3, 0, 10, 99, -5])
    np.testing.assert_array_equal(interpolate(values, 1, Taps.at(whole, 11)), values[:, [3, 3, 0, 10, 10, 0]])
    one = values[:, :1]
    np.testing.assert_array_equal(
        interpolate(one, 1, Taps.at(np.array([-1.0, 0.0, 0.4]), 1)), np.repeat(one, 3, axis=1)
    )


def test_padding_goes_to_the_far_ends_with_air() -> None:
    slab = np.ones((2, 15, 17), np.int16)
    padded = pad_sides(slab)
    assert padded.shape == (2, 16, 32)
    np.testing.assert_array_equal(padded[:, :15, :17], slab)
    assert (padded[:, 15:] == AIR_HU).all()
    assert (padded[:, :, 17:] == AIR_HU).all()
    full = np.ones((2, 16, 32), np.int16)
    assert pad_sides(full) is full


def test_boxes_and_slices_come_back_from_the_grid() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        shape = tuple(int(n) for n in rng.integers(1, 200, 3))
        spacing = tuple(rng.uniform(0.4, 6, 3))
        frame = frame_of(shape, spacing)  # type: ignore[arg-type]
        low = rng.uniform(0, 100, (5, 2))
        boxes = np.concatenate([low, low + rng.uniform(0, 60, (5, 2))], axis=1)
        np.testing.assert_allclose(frame.boxes_to_px(frame.boxes_to_grid(boxes)), boxes, atol=1e-9)
        mm = boxes_to_mm(boxes, spacing[2], spacing[1])
        on_grid = boxes_to_mm(frame.boxes_to_grid(boxes), frame.spacing_zyx_mm[2], frame.spacing_zyx_mm[1])
        np.testing.assert_allclose(on_grid, mm, atol=1e-9)
        centres_mm = (np.arange(shape[0]) + 0.5) * spacing[0]
        grid_mm = (np.arange(frame.shape_zyx[0]) + 0.5) * frame.spacing_zyx_mm[0]
        gap = np.abs(grid_mm[frame.slices_of_px()] - centres_mm)
        np.testing.assert_allclose(gap, np.abs(grid_mm[None] - centres_mm[:, None]).min(1), atol=1e-9)
    assert frame.boxes_to_grid(np.zeros((0, 4))).shape == (0, 4)


def test_the_frame_shrinks_a_slice_that_is_too_wide() -> None:
    frame = frame_of((10, 500, 700), (4.0, 1.0, 1.0), max_side_px=128)
    assert frame.shape_zyx == (10, 91, 128)
    _, y, x = frame.spacing_zyx_mm
    assert y == x == pytest.approx(700 / 128)
    assert frame_of((1, 3, 3), (0.1, 0.1, 0.1)).shape_zyx == (1, 1, 1)


@pytest.mark.parametrize("spacing", [0.803, 0.8, 0.795, 1.7])
def test_no_side_passes_the_setting(spacing: float) -> None:
    frame = frame_of((5, 516, 516), (2.0, spacing, spacing), spacing_zyx_mm=(2.0, 0.8, 0.8), max_side_px=512)
    assert max(frame.shape_zyx[1:]) <= 512
