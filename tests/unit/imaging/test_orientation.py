"""Turning to the stored order and back, for all 48 ways in which a file's axes may lie."""

from itertools import permutations, product

import numpy as np
import pytest

from harvester.errors import VolumeError
from harvester.imaging.orientation import Orientation

SHAPE = (4, 5, 6)
ORIENTATIONS = [
    Orientation((a, b, c), (flips[0], flips[1], flips[2]), SHAPE)
    for a, b, c in permutations(range(3))
    for flips in product((False, True), repeat=3)
]


def test_an_array_comes_back_from_all_48_turns() -> None:
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    assert len(ORIENTATIONS) == 48
    for orientation in ORIENTATIONS:
        np.testing.assert_array_equal(orientation.file_array(orientation.array(values)), values)


def test_a_box_comes_back_from_every_axial_turn() -> None:
    for orientation in ORIENTATIONS:
        drawn = (2, 0.5, 1.0, 2.25, 3.0)
        if orientation.axes[2] == 2:
            z, *box = orientation.box(drawn[0], drawn[1:])
            assert orientation.file_box(z, (box[0], box[1], box[2], box[3])) == drawn
        else:
            with pytest.raises(VolumeError, match="not axial"):
                orientation.file_box(0, (0, 0, 1, 1))


def test_a_box_in_the_file_holds_the_voxels_of_the_stored_one() -> None:
    """Voxels, not formulas: what is drawn in the stored order lies in the file's box."""
    for orientation in (orientation for orientation in ORIENTATIONS if orientation.axes[2] == 2):
        stored = np.zeros(orientation.array(np.zeros(SHAPE)).shape)
        stored[2, 1:3, 0:2] = 1
        k, i1, j1, i2, j2 = orientation.file_box(2, (0, 1, 1, 2))
        inside = np.argwhere(orientation.file_array(stored))
        assert inside.min(axis=0).tolist() == [i1, j1, k]
        assert inside.max(axis=0).tolist() == [i2, j2, k]
