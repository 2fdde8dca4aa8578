"""Where the classifier looks: places along a tubelet, squares that are square in mm, shape profiles."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from harvester.classifier.views import (
    DESCRIPTORS,
    MARGIN_MM,
    STILL,
    STREAMS,
    Squares,
    Tubelet,
    shape_profile,
    slices_needed,
    view_places,
    view_squares,
)
from harvester.config.models import ClassifierSettings
from harvester.records import Box
from harvester.store.slab import GridFrame
from tests.builders import tubelet

OWN = ClassifierSettings(views=3, local_mm_min=10.0, global_mm=60.0)
FRAME = GridFrame("v", (30, 100, 120), (2.5, 0.8, 0.5), (4.0, 1.6, 1.6))


def of(z: list[int], box: Box, **columns: Any) -> Tubelet:
    return Tubelet.of(tubelet("v", box, z, **columns))


def test_a_tubelet_is_in_the_volumes_pixels_slices_ascending_each_once() -> None:
    row = tubelet("v", {5: (1, 2, 3, 4), 4: (2, 2, 9, 9), 6: (0, 0, 5, 5)}, slice_score=[0.5, 0.4, 0.6])
    made = Tubelet.of(row)
    assert made.z.tolist() == [4, 5, 6]
    assert made.boxes_xyxy.tolist() == [[2, 2, 9, 9], [1, 2, 3, 4], [0, 0, 5, 5]]
    assert made.scores.tolist() == [0.4, 0.5, 0.6]


def test_views_reach_beyond_the_tubelet_and_stop_at_the_ends() -> None:
    def places(slices: list[int], views: int = 5) -> Any:
        boxes = np.arange(4.0 * len(slices)).reshape(-1, 4)
        return view_places(Tubelet(np.array(slices), boxes, np.ones(len(slices))), views, 2.0, 12)

    z, boxes = places([4, 5, 7])
    assert z.tolist() == [2, 4, 6, 7, 9]
    # Each view has the box of the tubelet's nearest slice; beyond an end, the end's.
    assert boxes[:, 0].tolist() == [0, 0, 4, 8, 8]
    assert places([0])[0].tolist() == [0, 0, 0, 1, 2]
    assert places([10, 11])[0].tolist() == [8, 9, 10, 11, 11]
    assert places([10, 11])[1][:, 0].tolist() == [0, 0, 0, 4, 4]
    assert places([4, 5, 7, 8], 1)[0].tolist() == [6]  # one alone looks at the middle


def test_views_are_axial_along_the_tubelet_then_coronal_and_sagittal_through_its_centre() -> None:
    # 20 x 12 px of 0.5 x 0.8 mm: 10 x 9.6 mm; five slices of 2.5 mm are 12.5 mm.
    one = of([10, 11, 12, 13, 14], (40.0, 50.0, 59.0, 61.0))
    squares = view_squares(one, FRAME, OWN)
    margin = MARGIN_MM / 2.5
    expected = [round(10 - margin), 12, round(14 + margin), 12, 12]
    for name in STREAMS:
        np.testing.assert_allclose(squares[name].centres_zyx, [[z, 55.5, 49.5] for z in expected])
        assert squares[name].axial.tolist() == [True, True, True, False, False]
    mm = squares["local"].axes_zyx * (2.5, 0.8, 0.5)
    np.testing.assert_allclose(mm[0], np.diag([2.5, 20.0, 20.0]))
    np.testing.assert_allclose(mm[3], [[0, 2.0, 0], [25.0, 0, 0], [0, 0, 25.0]])
    np.testing.assert_allclose(mm[4], [[0, 0, 2.0], [25.0, 0, 0], [0, 25.0, 0]])
    sides = np.linalg.norm(squares["global"].axes_zyx[:, 1:] * (2.5, 0.8, 0.5), axis=-1)
    np.testing.assert_allclose(sides, 60.0)
    alone = view_squares(one, FRAME, OWN.model_copy(update={"reformats": False}))
    assert len(alone["local"]) == 3
    np.testing.assert_allclose(alone["local"].axes_zyx, squares["local"].axes_zyx[:3])


def test_reformats_go_through_the_best_scored_box() -> None:
    one = Tubelet.of(tubelet("v", {3: (10, 10, 19, 19), 4: (20, 30, 29, 39)}, slice_score=[0.3, 0.6]))
    centres = view_squares(one, FRAME, OWN)["local"].centres_zyx
    np.testing.assert_allclose(centres[3:], [[3.5, 34.5, 24.5]] * 2)


def test_planes_are_two_mm_apart_or_a_slice_and_small_boxes_are_seen_with_their_surroundings() -> None:
    thin = dataclasses.replace(FRAME, spacing_px_zyx_mm=(1.0, 0.5, 0.5))
    axes = view_squares(of([9], (10.0, 10.0, 13.0, 13.0)), thin, OWN)["local"].axes_zyx
    assert axes[0, 0].tolist() == [2.0, 0.0, 0.0]
    assert axes[0, 1].tolist() == [0.0, 20.0, 0.0]


def test_a_pose_shifts_scales_mirrors_and_turns() -> None:
    one = of([9], (40.0, 50.0, 59.0, 69.0))
    turn = np.array([[-1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    pose = dataclasses.replace(STILL, shift_xy=(0.1, -0.05), scale=1.5, turn_zyx=turn)
    still, moved = view_squares(one, FRAME, OWN), view_squares(one, FRAME, OWN, pose)
    shifted = moved["local"].centres_zyx - still["local"].centres_zyx
    np.testing.assert_allclose(shifted, [[0, -1.0, 2.0]] * 5, atol=1e-12)
    spacing = np.array(FRAME.spacing_px_zyx_mm)
    for name, scale in (("local", 1.5), ("global", 1.0)):
        # To the next parallel is as far as before.
        scales = np.array([1.0, scale, scale])[:, None]
        before, after = (each[name].axes_zyx * spacing for each in (still, moved))
        np.testing.assert_allclose(after[:, :, 0], -before[:, :, 0] * scales[:, 0], atol=1e-12)
        np.testing.assert_allclose(after[:, :, 1], -before[:, :, 2] * scales[:, 0], atol=1e-12)
        np.testing.assert_allclose(after[:, :, 2], before[:, :, 1] * scales[:, 0], atol=1e-12)


def test_a_pixel_is_the_mean_of_more_samples_the_more_voxels_it_covers() -> None:
    axes = np.zeros((3, 3, 3))
    axes[:, 0, 0] = 1
    axes[:, 1, 1], axes[:, 2, 2] = (10.0, 32.0, 999.0), (10.0, 25.0, 15.5)
    squares = Squares(np.zeros((3, 3)), axes)
    # Of 10 pixels: 1, 3.2 and 99.9 voxels down; 1, 2.5 and 1.55 across; up to 1.5 voxels go without.
    assert squares.subsamples(10).tolist() == [[1, 1], [3, 2], [3, 2]]


def test_only_slices_that_are_shown_are_needed() -> None:
    squares = view_squares(of([14, 15], (40.0, 50.0, 59.0, 69.0)), FRAME, OWN)
    # 60 mm about slice 14.5, slices of 2.5 mm.
    assert slices_needed(list(squares.values()), 30) == (2, 28)
    assert slices_needed(list(squares.values()), 20) == (2, 20)
    axial = {name: own[:3] for name, own in squares.items()}
    assert slices_needed(list(axial.values()), 30) == (10, 20)
    later = axial["local"].after(10)
    assert later.centres_zyx[:, 0].tolist() == (axial["local"].centres_zyx[:, 0] - 10).tolist()
    assert len(Squares.joined([later, later[1:]])) == 5


def test_the_shape_profile_tells_size_length_and_scores() -> None:
    # 4 mm slices of 1.6 mm pixels; 20 x 10 px at the widest, slices 2 to 5 with a gap.
    frame = GridFrame("v", (9, 64, 64), (4.0, 1.6, 1.6), (4.0, 1.6, 1.6))
    boxes = np.array([[10.0, 10.0, 19.0, 19.0], [5.0, 10.0, 24.0, 19.0], [10.0, 10.0, 17.0, 17.0]])
    one = Tubelet(np.array([2, 3, 5]), boxes, np.array([0.5, 0.8, 0.2]))
    odds = [1.0, 4.0, 0.25]
    width, length = 20 * 1.6, 4 * 4.0
    expected = [np.log2(width / 16), np.log2(length / width), np.log(4.0), np.log(odds).mean(), 0.0, np.log(0.25)]
    profile = shape_profile([one], frame)
    assert profile.shape == (1, DESCRIPTORS)
    np.testing.assert_allclose(profile[0], expected, atol=1e-6)
    sure = dataclasses.replace(one, scores=np.array([0.0, 1.0, 1.0]))
    assert np.isfinite(shape_profile([sure], frame)).all()


def test_a_training_step_is_whole_volumes() -> None:
    assert ClassifierSettings(batch_size=24, tubelets_per_volume=6).volumes_per_step == 4
    with pytest.raises(ValueError, match="batch_size = 30 is no multiple of tubelets_per_volume = 4"):
        ClassifierSettings(batch_size=30)
