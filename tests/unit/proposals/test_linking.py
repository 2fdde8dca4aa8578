"""Linking against brute-force assignment, gaps, crossing tracks; suppression against a loop."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from harvester.config.models import LinkingSettings
from harvester.errors import LabelError
from harvester.geometry import iou_matrix, paired_iou
from harvester.proposals.linking import Tubelet, assign, link, suppress, trim
from tests.plain_linking import full_volume, plain_link


def boxes_at(centres: Any, side: float = 10.0) -> Any:
    centres = np.asarray(centres, dtype=np.float64)
    return np.concatenate([centres - (side - 1) / 2, centres + (side - 1) / 2], axis=1)


def settings(**changes: Any) -> LinkingSettings:
    return LinkingSettings(**changes)


def chains(tubelets: list[Tubelet]) -> list[tuple[list[int], list[float]]]:
    return [(tubelet.z.tolist(), tubelet.scores.tolist()) for tubelet in tubelets]


def brute_force_gain(iou: Any, floor: float) -> float:
    """Highest summed IoU over all one-to-one pairings, those below the floor worth nothing."""
    iou = iou if iou.shape[0] <= iou.shape[1] else iou.T
    worth = np.where(iou >= floor, iou, 0.0)
    return max(
        sum(worth[row, column] for row, column in enumerate(chosen))
        for chosen in permutations(range(iou.shape[1]), iou.shape[0])
    )


@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_every_pair_has_the_iou_of_pairs(kind: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (np.concatenate([low, low + rng.integers(0, 9, low.shape)], axis=1).astype(kind)
            for low in (rng.integers(0, 12, (7, 2)), rng.integers(0, 12, (5, 2))))  # fmt: skip
    one_by_one = [[float(paired_iou(one, other)) for other in b] for one in a]
    np.testing.assert_array_equal(iou_matrix(a, b), one_by_one)
    assert 0 < np.count_nonzero(one_by_one) < 35
    assert iou_matrix(a[:0], b).shape == (0, 5)


@pytest.mark.parametrize("seed", range(12))
def test_assignment_is_the_best_of_all_permutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tracks, found = (boxes_at(rng.uniform(0, 14, (rng.integers(1, 6), 2))), boxes_at(rng.uniform(0, 14, (4, 2))))
    iou = iou_matrix(tracks, found)
    rows, columns = assign(tracks, found, 0.3)
    assert (iou[rows, columns] >= 0.3).all()
    assert len(set(rows)) == len(set(columns)) == len(rows)
    assert iou[rows, columns].sum() == pytest.approx(brute_force_gain(iou, 0.3), abs=1e-12)


@pytest.mark.parametrize(
    ("seed", "more"), [(0, {}), (1, {"max_gap": 3}), (2, {"max_gap": 0, "min_length": 2}), (3, {"iou_floor": 0.1})]
)
def test_a_volume_is_linked_as_a_plain_filter_would(seed: int, more: Any) -> None:
    z, boxes, scores = full_volume(800, 40, seed)
    # Detectors miss slices: tracks have to bridge them.
    seen = np.random.default_rng(seed).random(len(z)) < 0.85
    z, boxes, scores = z[seen], boxes[seen], scores[seen]
    rows = {at: index for index, at in enumerate(zip(z.tolist(), map(tuple, boxes.tolist()), strict=True))}
    linked = [
        [rows[at] for at in zip(one.z.tolist(), map(tuple, one.boxes_xyxy.tolist()), strict=True)]
        for one in link(z, boxes, scores, settings(**more))
    ]
    assert {frozenset(one) for one in linked} == plain_link(z, boxes, settings(**more))
    assert max(map(len, linked)) > 10


@pytest.mark.parametrize("seed", range(6))
def test_two_slices_are_linked_as_brute_force_would(seed: int) -> None:
    # A new track stands still, so its prediction on the next slice is its own box.
    rng = np.random.default_rng(seed)
    first, second = boxes_at(rng.uniform(0, 16, (4, 2))), boxes_at(rng.uniform(0, 16, (4, 2)))
    tubelets = link(np.repeat([5, 6], 4), np.concatenate([first, second]), np.arange(8.0), settings(iou_floor=0.2))
    pairs = [tubelet.boxes_xyxy for tubelet in tubelets if len(tubelet.z) == 2]
    gain = sum(float(iou_matrix(pair[:1], pair[1:])[0, 0]) for pair in pairs)
    assert gain == pytest.approx(brute_force_gain(iou_matrix(first, second), 0.2), abs=1e-12)
    assert sum(len(tubelet.z) for tubelet in tubelets) == 8


def test_a_chain_keeps_its_measured_boxes_and_takes_its_highest_score() -> None:
    boxes = boxes_at([(50, 50), (51, 50), (51.5, 50.5)])
    (tubelet,) = link(np.array([3, 4, 5]), boxes, np.array([0.2, 0.9, 0.4]), settings())
    np.testing.assert_array_equal(tubelet.boxes_xyxy, boxes)
    assert (tubelet.z.tolist(), tubelet.score) == ([3, 4, 5], 0.9)


def test_a_gap_is_bridged_up_to_max_gap() -> None:
    boxes, scores = boxes_at([(50, 50)] * 4), np.array([0.4, 0.3, 0.2, 0.1])
    z = np.array([1, 2, 4, 7])
    assert chains(link(z, boxes, scores, settings(max_gap=0))) == [([1, 2], [0.4, 0.3]), ([4], [0.2]), ([7], [0.1])]
    assert chains(link(z, boxes, scores, settings(max_gap=1))) == [([1, 2, 4], [0.4, 0.3, 0.2]), ([7], [0.1])]
    assert chains(link(z, boxes, scores, settings(max_gap=2))) == [([1, 2, 4, 7], scores.tolist())]


def test_a_moving_track_is_found_again_after_a_gap() -> None:
    # 4 px a slice: after the gap the box has left the last one's place (IoU 0.11) but not the predicted one.
    z = np.array([0, 1, 2, 3, 5])
    tubelets = link(z, boxes_at([(50 + 4 * level, 50) for level in z]), np.full(5, 0.5), settings())
    assert [tubelet.z.tolist() for tubelet in tubelets] == [[0, 1, 2, 3, 5]]


def test_crossing_tracks_are_kept_apart_by_their_velocities() -> None:
    z = np.arange(11)
    falling = boxes_at(np.stack([40 + 4.0 * z, np.full(11, 50.0)], axis=1), side=14)
    rising = boxes_at(np.stack([80 - 4.0 * z, np.full(11, 54.0)], axis=1), side=14)
    scores = np.concatenate([np.full(11, 0.9), np.full(11, 0.8)])
    tubelets = link(np.tile(z, 2), np.concatenate([falling, rising]), scores, settings())
    assert [tubelet.scores.tolist() for tubelet in tubelets] == [[0.9] * 11, [0.8] * 11]
    np.testing.assert_array_equal(tubelets[0].boxes_xyxy, falling)
    np.testing.assert_array_equal(tubelets[1].boxes_xyxy, rising)


def test_a_growing_box_stays_in_its_track() -> None:
    sides = np.array([6.0, 9, 13, 17, 20, 21, 20, 17, 13, 9, 6])
    boxes = np.concatenate([boxes_at([(40, 40)], side) for side in sides])
    assert len(link(np.arange(11), boxes, np.full(11, 0.5), settings())) == 1


def test_boxes_below_the_floor_start_their_own_tracks() -> None:
    boxes = boxes_at([(50, 50), (56, 50)])  # IoU 0.25
    assert len(link(np.array([0, 1]), boxes, np.array([0.5, 0.4]), settings(iou_floor=0.3))) == 2
    assert len(link(np.array([0, 1]), boxes, np.array([0.5, 0.4]), settings(iou_floor=0.2))) == 1
    apart = boxes_at([(50, 50), (90, 50)])
    assert len(link(np.array([0, 1]), apart, np.array([0.5, 0.4]), settings(iou_floor=0.0))) == 2


def test_short_tracks_are_dropped_and_the_order_is_score_then_slice() -> None:
    z = np.array([9, 4, 5, 1, 0])
    boxes = boxes_at([(10, 10), (50, 50), (50, 50), (90, 90), (90, 90)])
    scores = np.array([0.9, 0.7, 0.1, 0.7, 0.2])
    assert [t.z.tolist() for t in link(z, boxes, scores, settings())] == [[9], [0, 1], [4, 5]]
    assert [t.z.tolist() for t in link(z, boxes, scores, settings(min_length=2))] == [[0, 1], [4, 5]]
    assert link(z, boxes, scores, settings(min_length=3)) == []


def test_no_boxes_no_tubelets() -> None:
    assert link(np.zeros(0, dtype=np.int64), np.zeros((0, 4)), np.zeros(0), settings()) == []
    assert suppress([], 0.5) == []


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LabelError, match=r"\(2,\), \(3, 4\), \(3,\)"):
        link(np.zeros(2, dtype=np.int64), np.zeros((3, 4)), np.zeros(3), settings())


def crowd(seed: int) -> tuple[Any, Any, Any]:
    """20 slices of 20 boxes: half of them wander from slice to slice, half lie anywhere."""
    rng = np.random.default_rng(seed)
    paths = rng.uniform(0, 120, (10, 2)) + np.cumsum(rng.normal(0, 1, (20, 10, 2)), axis=0)
    centres = np.concatenate([paths, rng.uniform(0, 120, (20, 10, 2))], axis=1).reshape(-1, 2)
    return np.repeat(np.arange(20), 20), boxes_at(centres, 12), rng.random(400)


def test_the_order_of_the_boxes_does_not_matter() -> None:
    z, boxes, scores = crowd(0)
    shuffled = np.random.default_rng(1).permutation(400)
    once = link(z, boxes, scores, settings())
    again = link(z[shuffled], boxes[shuffled], scores[shuffled], settings())
    assert chains(once) == chains(again)
    assert sum(len(tubelet.z) for tubelet in once) == 400
    assert all((np.diff(tubelet.z) > 0).all() and (np.diff(tubelet.z) <= 2).all() for tubelet in once)


def slow_iou_3d(a: Tubelet, b: Tubelet) -> float:
    shared = 0.0
    for z_a, box_a in zip(a.z, a.boxes_xyxy, strict=True):
        for z_b, box_b in zip(b.z, b.boxes_xyxy, strict=True):
            if z_a == z_b:
                width = min(box_a[2], box_b[2]) - max(box_a[0], box_b[0]) + 1
                height = min(box_a[3], box_b[3]) - max(box_a[1], box_b[1]) + 1
                shared += max(width, 0) * max(height, 0)
    volumes = [sum((x2 - x1 + 1) * (y2 - y1 + 1) for x1, y1, x2, y2 in t.boxes_xyxy) for t in (a, b)]
    return float(shared / (sum(volumes) - shared))


@pytest.mark.parametrize("iou", [0.05, 0.3, 0.6])
def test_suppression_is_that_of_a_loop(iou: float) -> None:
    tubelets = link(*crowd(2), settings())
    kept: list[Tubelet] = []
    for tubelet in sorted(tubelets, key=lambda one: -one.score):
        if all(slow_iou_3d(tubelet, better) < iou for better in kept):
            kept.append(tubelet)
    assert chains(suppress(tubelets, iou)) == chains(kept)
    assert chains(suppress(tubelets[::-1], iou)) == chains(kept)
    assert len(kept) < len(tubelets) or iou > 0.3


def test_suppression_compares_all_slices() -> None:
    def chain(levels: list[int], centre: float, score: float) -> Tubelet:
        boxes = boxes_at([(centre, 50)] * len(levels))
        return Tubelet(np.array(levels), boxes, np.full(len(levels), score))

    long, short, apart = chain([0, 1, 2, 3], 50, 0.9), chain([1, 2], 50, 0.8), chain([7, 8], 50, 0.7)
    assert len(suppress([short, long, apart], 0.51)) == 3
    assert suppress([short, long, apart], 0.5) == [long, apart]  # IoU 200 / 400, inclusive


def test_a_suppressed_tubelet_suppresses_nothing() -> None:
    row = [Tubelet(np.array([0]), boxes_at([(x, 0)]), np.array([s])) for x, s in ((0, 0.9), (4, 0.8), (8, 0.7))]
    assert suppress(row, 0.4) == [row[0], row[2]]


def test_weak_ends_are_cut_off_and_weak_middles_stay() -> None:
    scores = np.array([0.1, 0.5, 0.2, 0.8, 0.31, 0.1])
    whole = Tubelet(np.arange(6) + 3, np.arange(24.0).reshape(6, 4), scores)
    cut = trim(whole, 0.4)
    assert cut.z.tolist() == [4, 5, 6]
    assert cut.scores.tolist() == [0.5, 0.2, 0.8]
    assert cut.boxes_xyxy.tolist() == whole.boxes_xyxy[1:4].tolist()
    assert trim(whole, 0.0).z.tolist() == whole.z.tolist()
    assert trim(whole, 1.0).z.tolist() == [6]
