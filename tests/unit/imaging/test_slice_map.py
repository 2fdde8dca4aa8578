"""Boxes on slices that were moved or made, and the text that carries the way back."""

import pytest

from harvester.errors import LabelError
from harvester.imaging.orientation import Orientation
from harvester.imaging.slice_map import SliceMap

UPRIGHT = Orientation((0, 1, 2), (False, False, False), (40, 36, 6))
GAP = SliceMap(UPRIGHT, (40, 32), (0, 1, 2, 5), ((0, 0), (0, 1), (0, 2), (0, 4)))
"""Two slices are missing between the third and the fourth; each slides by a row, and so do the made ones."""
ONE, OTHER = (1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)


def test_a_made_slice_goes_to_its_nearest_neighbour_by_that_ones_shift() -> None:
    assert GAP.file_boxes([(3, ONE)]) == [(2, (1, 0, 3, 2))]
    assert GAP.file_boxes([(4, OTHER)]) == [(3, (5, 2, 7, 4))]


def test_a_made_slice_is_silent_where_the_files_own_has_a_box() -> None:
    own = [(2, (1, 0, 3, 2))]
    assert GAP.file_boxes([(2, ONE), (3, OTHER)]) == own
    assert GAP.file_boxes([(3, OTHER), (2, ONE)]) == own


def test_a_slice_of_the_file_stands_for_the_made_ones_beside_it() -> None:
    assert GAP.stored_boxes(2, (1, 0, 3, 2)) == [(2, ONE), (3, ONE)]
    assert GAP.stored_boxes(3, (1, -2, 3, 0)) == [(5, ONE), (4, ONE)]
    assert GAP.stored_boxes(0, ONE) == [(0, ONE)]
    assert GAP.box(3, (1, -2, 3, 0)) == (5, *ONE)


def test_the_text_of_a_regular_file_is_what_it_always_was() -> None:
    orientation = Orientation((1, 0, 2), (True, False, True), (40, 32, 8))
    assert SliceMap.of(orientation).text() == "-1+0-2 40x32x8"
    assert SliceMap.of_text("-1+0-2 40x32x8") == SliceMap.of(orientation)


def test_the_text_of_another_one_has_its_steps() -> None:
    assert GAP.text() == "+0+1+2 40x36x6 40x32 0,1*2,3 0*4 0,1*2,2"
    assert SliceMap.of_text(GAP.text()) == GAP


BROKEN = [
    "",
    "zebra",
    "+0+1 4x4x4",
    "+0+0+2 4x4x4",
    "+0+1+2 4x4x99999999999999999999",
    "+0+1+2 4x4x999999",
    "+0+1+2 40x36x6 40x32 0,1*2,3 0*4",
    "+0+1+2 40x36x6 40x32 0,1*2,3 0*4 0*3",
    "+0+1+2 40x36x6 40x32 0,1*2,4 0*4 0*4",
    "+0+1+2 40x36x6 40x32 0,1*999999 0*4 0*4",
    "+0+1+2 40x36x6 40x32 0,1*2,,3 0*4 0*4",
    "+0+1+2 40x36x6 40x32 5,1,0 0*4 0*4",
    "+0+1+2 40x36x6 40x32 " + "1*9," * 5000 + "1 0 0",
]


@pytest.mark.parametrize("text", BROKEN)
def test_texts_that_nobody_exported_are_refused(text: str) -> None:
    with pytest.raises(LabelError, match="as it was exported"):
        SliceMap.of_text(text)
