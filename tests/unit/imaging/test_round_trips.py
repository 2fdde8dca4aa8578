"""Properties of the way there and back: frames, orientations, series however they were tilted, filled or shuffled."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.geometry import boxes_to_mm, iou_matrix, scale_boxes, scale_slices
from harvester.imaging.dicom.assembly import GAP_TOLERANCE, AssembledGrid, Stack, assemble
from harvester.imaging.orientation import Orientation
from harvester.imaging.slice_map import SliceMap
from harvester.records import Box

stable = settings(derandomize=True, deadline=None, max_examples=60)
COLUMNS, ROWS = 12, 9
sides = st.floats(0.3, 6.0)


@st.composite
def boxes(draw: st.DrawFn, columns: int = 60, rows: int = 60) -> Box:
    """Inclusive boxes of at least a pixel, on eighths of one, so that float arithmetic is exact."""
    x1, x2 = sorted(draw(st.tuples(*[st.integers(0, 8 * (columns - 1))] * 2)))
    y1, y2 = sorted(draw(st.tuples(*[st.integers(0, 8 * (rows - 1))] * 2)))
    return x1 / 8, y1 / 8, x2 / 8, y2 / 8


@stable
@given(boxes(), sides, sides, sides, sides)
def test_a_box_is_the_same_in_pixels_on_the_grid_and_in_mm(box: Box, x: float, y: float, u: float, v: float) -> None:
    px = np.array([box])
    grid = scale_boxes(px, x / u, y / v)
    np.testing.assert_allclose(scale_boxes(grid, u / x, v / y), px, atol=1e-9)
    np.testing.assert_allclose(boxes_to_mm(grid, u, v), boxes_to_mm(px, x, y), atol=1e-9)
    z = np.arange(7)
    np.testing.assert_allclose(scale_slices(scale_slices(z, x / u), u / x), z, atol=1e-9)


@st.composite
def orientations(draw: st.DrawFn) -> Orientation:
    a, b, c = draw(st.permutations(range(3)))
    flips = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    return Orientation((a, b, c), flips, draw(st.tuples(*[st.integers(1, 7)] * 3)))


@stable
@given(orientations(), st.data())
def test_turning_and_turning_back_change_nothing(orientation: Orientation, data: st.DataObject) -> None:
    values = np.arange(np.prod(orientation.shape)).reshape(orientation.shape)
    np.testing.assert_array_equal(orientation.file_array(orientation.array(values)), values)
    assert SliceMap.of_text(SliceMap.of(orientation).text()) == SliceMap.of(orientation)
    if orientation.axes[2] == 2:
        columns, rows, depth = orientation.shape
        k, box = data.draw(st.integers(0, depth - 1)), data.draw(boxes(columns, rows))
        z, x1, y1, x2, y2 = orientation.box(k, box)
        assert orientation.file_box(z, (x1, y1, x2, y2)) == (k, *box)


@stable
@given(orientations(), boxes(), boxes())
def test_orientation_changes_no_iou(orientation: Orientation, one: Box, other: Box) -> None:
    if orientation.axes[2] != 2:
        return
    turned = np.array([orientation.box(0, box)[1:] for box in (one, other)])
    straight = np.array([one, other])
    if orientation.axes[0] == 1:  # rows became columns
        straight = straight[:, [1, 0, 3, 2]]
    np.testing.assert_allclose(iou_matrix(turned, turned), iou_matrix(straight, straight), atol=1e-12)


class Layout(NamedTuple):
    """A stack of slices in any order, and the number of each ascending one in the complete series."""

    stack: Stack
    numbers: list[int]


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Twenty to thirty slices: tilted or not, one missing or not, jittered or not, either way up, shuffled."""
    count, gap = draw(st.integers(20, 30)), draw(st.floats(0.5, 6.0))
    missing = draw(st.none() | st.integers(1, count - 2))
    numbers = [number for number in range(count) if number != missing]
    slides = draw(st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4)))
    jitter = draw(st.sampled_from([0.0, 0.02]))
    way = draw(st.sampled_from([1, -1]))
    right, down = np.array([1.0, 0, 0]) * way, np.array([0, 1.0, 0]) * draw(st.sampled_from([1, -1]))
    heights = np.array([number + jitter * (number % 2) for number in numbers]) * gap
    positions = np.outer(heights, [*slides, 1.0]) + np.array([-40.0, 25.0, 300.0])
    order = draw(st.permutations(range(len(numbers))))
    stack = Stack(
        positions_mm=positions[list(order)],
        right=right,
        down=down,
        pixel_mm=(0.6, 0.9),
        size_px=(COLUMNS, ROWS),
        thickness_mm=gap,
        names=[""] * len(numbers),
    )
    return Layout(stack, numbers)


def ascending(assembled: AssembledGrid, layout: Layout) -> Any:
    """(n, 3) positions of the slices, ascending along their normal."""
    return layout.stack.positions_mm[list(assembled.order)]


@stable
@given(layouts(), st.data())
def test_boxes_come_back_to_their_own_slice_and_pixels(layout: Layout, data: st.DataObject) -> None:
    slices = assemble(layout.stack).slices
    box = data.draw(boxes(COLUMNS, ROWS))
    for k in range(slices.shape[2]):
        own, *made = slices.stored_boxes(k, box)
        assert slices.box(k, box) == (own[0], *own[1])
        for placed in (own, *made):
            assert slices.file_boxes([placed]) == [(k, box)]


@stable
@given(layouts())
def test_every_stored_slice_has_one_of_the_file_and_the_text_says_which(layout: Layout) -> None:
    slices = assemble(layout.stack).slices
    assert SliceMap.of_text(slices.text()) == slices
    box = (1.0, 2.0, 3.0, 4.0)
    sent = [z for k in range(slices.shape[2]) for z, _ in slices.stored_boxes(k, box)]
    assert sorted(sent) == list(range(slices.orientation.shape[2]))
    stored = [(z, slices.orientation.box(0, box)[1:]) for z in range(slices.orientation.shape[2])]
    back = slices.file_boxes([(z, (a, b, c, d)) for z, (a, b, c, d) in stored])
    assert sorted(k for k, _ in back) == list(range(slices.shape[2]))


@settings(stable, max_examples=25)
@given(layouts(), st.data())
def test_a_box_holds_the_voxels_that_were_drawn_in_the_file(layout: Layout, data: st.DataObject) -> None:
    """Voxels, not formulas: a lesion on one slice of the file, found again in the assembled volume."""
    assembled = assemble(layout.stack)
    k = data.draw(st.integers(0, len(layout.numbers) - 1))
    x1, y1, x2, y2 = (int(side) for side in data.draw(boxes(COLUMNS, ROWS)))
    planes = [np.zeros((ROWS, COLUMNS), np.int16) for _ in layout.numbers]
    planes[assembled.order[k]][y1 : y2 + 1, x1 : x2 + 1] = 1000
    inside = np.argwhere(assembled.array(planes) == 1000)
    z, *box = assembled.slices.box(k, (x1, y1, x2, y2))
    assert inside.min(axis=0).tolist() == [z, box[1], box[0]]
    assert inside.max(axis=0).tolist() == [z, box[3], box[2]]


@stable
@given(layouts())
def test_the_grid_lies_where_the_files_slices_lie(layout: Layout) -> None:
    """In mm, to half a pixel for moved slices (a whole one for a slide that is left) and a share of the gap."""
    assembled = assemble(layout.stack)
    near = [round(place) for place in assembled.slices.places]
    voxels = np.column_stack([assembled.slices.shift_ij, near, np.ones(len(near))])
    off = (voxels @ assembled.affine_lps[:3].T - ascending(assembled, layout)) @ np.linalg.inv(
        assembled.affine_lps[:3, :3]
    ).T
    assert np.abs(off[:, :2]).max() <= 1.0
    assert np.abs(off[:, 2]).max() <= 2 * GAP_TOLERANCE


def test_a_missing_and_an_additional_slice_move_no_other_slices_boxes() -> None:
    """As many files as slices in the grid: the n-th of one is not the n-th of the other between the two."""
    heights = np.sort([*np.delete(np.arange(60.0), 20), 40.5])
    positions = np.outer(heights, [0.0, 0.0, 3.0])
    right, down = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    slices = assemble(Stack(positions, right, down, (0.7, 0.7), (COLUMNS, ROWS), 3.0, [""] * 60)).slices
    assert slices.shape[2] == slices.orientation.shape[2] == 60
    box = (5.0, 5.0, 9.0, 9.0)
    found = {
        k: slices.file_boxes([(z, (x1, y1, x2, y2))]) for k in range(60) for z, x1, y1, x2, y2 in [slices.box(k, box)]
    }
    additional = int(np.flatnonzero(heights == 40.5)[0])
    # The additional one is not stored: a box on it comes back on a neighbour, half a gap away.
    assert found.pop(additional) == [(additional - 1, box)]
    assert found == {k: [(k, box)] for k in found}
