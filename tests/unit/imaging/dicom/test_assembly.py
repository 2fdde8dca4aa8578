"""Slices assembled in an even, upright grid: tilted gantries, missing and uneven slices, and boxes that move along."""

from typing import Any

import numpy as np
import pytest

from harvester.errors import VolumeError
from harvester.imaging.dicom.assembly import Stack, assemble

RNG = np.random.default_rng(3)
SIDE = (9, 7)
"""Columns, rows."""


def stack(positions_mm: Any, right: Any = (1, 0, 0), down: Any = (0, 1, 0)) -> Stack:
    places = np.array(positions_mm, float)
    names = [f"slice {n}" for n in range(len(places))]
    return Stack(places, np.array(right, float), np.array(down, float), (0.9, 0.7), SIDE, 0.0, names)


def upright(heights_mm: Any) -> Stack:
    return stack([(0, 0, z) for z in heights_mm])


def planes(count: int) -> list[Any]:
    return [RNG.integers(-500, 500, SIDE[::-1]).astype(np.int16) for _ in range(count)]


def reason(laid_out: Stack) -> str:
    with pytest.raises(VolumeError) as caught:
        assemble(laid_out)
    return caught.value.reason


def test_even_slices_are_only_ordered() -> None:
    assembled, values = assemble(upright([5.0, 0.0, 2.5])), planes(3)
    np.testing.assert_array_equal(assembled.array(values), np.stack([values[1], values[2], values[0]]))
    assert assembled.spacing_zyx_mm == pytest.approx((2.5, 0.7, 0.9))
    assert assembled.slices.box(1, (1, 2, 3, 4)) == (1, 1, 2, 3, 4)


def test_a_tilted_gantry_is_laid_upright() -> None:
    """A vertical rod through tilted slices: its pixel slides over the files, and stands still in the volume."""
    tilt = np.radians(20)
    down = np.array([0, np.cos(tilt), -np.sin(tilt)])
    normal = np.cross((1, 0, 0), down)
    # The table moves along z; each image plane starts at the same place of the gantry.
    positions = np.array([(0, 0, 3.0 * n) for n in range(20)])
    values = []
    for position in positions:
        plane = np.zeros((40, 9), np.int16)
        plane[round(4 - float(position @ down) / 0.7), 3] = 1000
        values.append(plane)
    assembled = assemble(Stack(positions, np.array([1.0, 0, 0]), down, (0.9, 0.7), (9, 40), 0.0, [""] * 20))
    bright = np.argwhere(assembled.array(values) == 1000)
    assert len(bright) == 20
    assert np.ptp(bright[:, 1]) <= 1  # two roundings
    assert np.ptp(bright[:, 2]) == 0
    assert assembled.spacing_zyx_mm[0] == pytest.approx(3.0 * normal[2])


def test_boxes_move_with_their_tilted_slice() -> None:
    positions = [(0, 0.7 * 2 * n, 10.0 * n) for n in range(5)]
    assembled, values = assemble(stack(positions)), planes(5)
    hu = assembled.array(values)
    assert hu.shape == (5, 7 + 8, 9)
    for n in range(5):
        z, x1, y1, x2, y2 = (int(side) for side in assembled.slices.box(n, (2, 1, 5, 4)))
        np.testing.assert_array_equal(hu[z, y1 : y2 + 1, x1 : x2 + 1], values[n][1:5, 2:6])
        assert (hu[z] == -1024).sum() >= 8 * 9  # air round the moved slice
    assert assembled.slices.shape == (9, 7, 5)


def test_slides_of_less_than_a_pixel_are_left() -> None:
    assembled = assemble(stack([(0.8 * n / 9, 0, 2.5 * n) for n in range(10)]))
    assert assembled.shape == (*SIDE, 10)


def test_slices_that_slide_more_than_a_gantry_tilts_are_refused() -> None:
    assert reason(stack([(0, 3.0 * n, 3.0 * n) for n in range(5)])) == "tilted"


def test_a_missing_slice_of_many_is_made_between_its_neighbours() -> None:
    heights = [2.0 * n for n in range(20) if n != 7]
    assembled, values = assemble(upright(heights)), planes(19)
    hu = assembled.array(values)
    assert len(hu) == 20
    np.testing.assert_array_equal(hu[:7], values[:7])
    np.testing.assert_array_equal(hu[8:], values[7:])
    np.testing.assert_array_equal(hu[7], np.rint((values[6] + values[7]) / 2))
    assert assembled.slices.box(6, (1, 1, 2, 2))[0] == 6
    assert assembled.slices.box(7, (1, 1, 2, 2))[0] == 8


def test_rounded_positions_hide_no_missing_slice() -> None:
    """Slices 0.625 mm apart, written to a hundredth: gaps of 0.62 and 0.63, whose median is four slices off in 501."""
    heights = [round(0.625 * n - 0.0001, 2) for n in range(501) if n != 250]
    assembled = assemble(upright(heights))
    assert assembled.shape[2] == 501
    assert [k for k, (_, weight) in enumerate(assembled.sources) if weight] == [250]
    assert assembled.spacing_zyx_mm[0] == pytest.approx(0.625, abs=1e-4)


@pytest.mark.parametrize(
    ("heights_mm", "expected"),
    [
        ([0, 1, 2, 4, 5], "missing_slices"),
        ([*range(20), 30, *range(31, 50)], "missing_slices"),
        ([0, 2, 4, 6, 8, 9, 10, 11, 12, 13], "missing_slices"),
        ([0, 1, 2.3, 3.1, 4.4, 5.2, 6.6], "uneven_slices"),
        ([0, 1, 1, 2], "duplicate_slices"),
        ([0, 1, 2, np.nan], "no_geometry"),
        ([0, 1, 2, 1e300], "missing_slices"),
        ([0], "no_geometry"),
    ],
)
def test_what_cannot_be_made_even_is_refused(heights_mm: list[float], expected: str) -> None:
    assert reason(upright(heights_mm)) == expected


@pytest.mark.parametrize("axes", [((0, 0, 0), (0, 1, 0)), ((1, 0, 0), (1, 0, 0)), ((2, 0, 0), (0, 1, 0))])
def test_directions_that_are_none_are_refused(axes: Any) -> None:
    assert reason(stack([(0, 0, n) for n in range(3)], *axes)) == "no_geometry"
