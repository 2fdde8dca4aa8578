"""Overlaps and hits: hand-made cases and a loop over every pair."""

import numpy as np
import pyarrow as pa
import pytest

from harvester.errors import LabelError, SettingsError
from harvester.evaluation.matching import Hits, hits, overlaps
from harvester.records import SIDES
from tests.builders import Box, mark, marks, overlapping, scored, tubelet


def duplicates(found: Hits) -> list[bool]:
    """Which tubelets hit marks, all of them hit before."""
    return [bool(each) for each in (found.new_hits == 0) & (found.repeat_hits > 0)]


def slow_overlaps(tubelets: pa.Table, marked: pa.Table) -> list[tuple[int, int, float]]:
    found = []
    for i, row in enumerate(tubelets.to_pylist()):
        for j, lesion in enumerate(marked.to_pylist()):
            for at, z in enumerate(row["z"]):
                if row["volume_id"] != lesion["volume_id"] or z != lesion["z"]:
                    continue
                a, b = [row[side][at] for side in SIDES], [lesion[side] for side in SIDES]
                width = min(a[2], b[2]) - max(a[0], b[0]) + 1
                height = min(a[3], b[3]) - max(a[1], b[1]) + 1
                if width > 0 and height > 0:
                    areas = sum((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
                    found.append((i, j, width * height / (areas - width * height)))
    return found


def some_tables(seed: int, num_tubelets: int = 60, num_marks: int = 40) -> tuple[pa.Table, pa.Table]:
    rng = np.random.default_rng(seed)

    def box() -> Box:
        low, side = rng.integers(0, 30, 2), rng.integers(0, 20, 2)
        return tuple(float(np.float32(v)) for v in (*low, *(low + side + 0.25)))  # type: ignore[return-value]

    rows = [
        tubelet(f"v{rng.integers(4)}", {int(z): box() for z in range(start, start + rng.integers(0, 4))})
        for start in rng.integers(0, 4, num_tubelets).tolist()
    ]
    lesions = [mark(f"v{rng.integers(5)}", z=int(rng.integers(8)), box=box()) for _ in range(num_marks)]
    return scored(*rows), marks(*lesions)


@pytest.mark.parametrize("seed", range(3))
def test_overlaps_are_those_of_a_loop_over_all_pairs(seed: int) -> None:
    tubelets, lesions = some_tables(seed)
    found = overlaps(tubelets, lesions)
    slow = slow_overlaps(tubelets, lesions)
    assert len(slow) > 20
    assert list(zip(found.tubelet.tolist(), found.mark.tolist(), strict=True)) == [(i, j) for i, j, _ in slow]
    np.testing.assert_allclose(found.iou, [iou for _, _, iou in slow], rtol=0, atol=1e-15)
    assert found.iou.dtype == np.float64


def test_overlaps_read_chunked_and_sliced_tables_alike() -> None:
    tubelets, lesions = some_tables(3)
    chunked = pa.concat_tables([tubelets.slice(0, 7), tubelets.slice(7)])
    for some, others in ((chunked, lesions), (tubelets.slice(7), lesions.slice(5))):
        found = overlaps(some, others)
        assert [(i, j) for i, j, _ in slow_overlaps(some, others)] == list(
            zip(found.tubelet.tolist(), found.mark.tolist(), strict=True)
        )


def test_p3d_iou_has_inclusive_ends_and_looks_at_the_marks_slice_only() -> None:
    tubelets = scored(tubelet("a", {3: (0, 0, 9, 9), 4: (0, 0, 4, 9)}), tubelet("b", {3: (0, 0, 9, 9)}))
    lesions = [mark("a", (0, 0, 9, 9), z=z) for z in (3, 4, 5)]
    found = overlaps(tubelets, marks(*lesions, mark("a", (10, 0, 19, 9), z=3)))
    assert (found.tubelet.tolist(), found.mark.tolist(), found.iou.tolist()) == ([0, 0], [0, 1], [1.0, 0.5])


@pytest.mark.parametrize(("num_tubelets", "num_marks"), [(0, 5), (5, 0), (0, 0)])
def test_no_tubelets_or_no_marks_have_no_overlaps_and_no_hits(num_tubelets: int, num_marks: int) -> None:
    found = overlaps(*some_tables(0, num_tubelets, num_marks))
    assert len(found.tubelet) == len(found.mark) == len(found.iou) == 0
    visited = hits(found, np.zeros(num_tubelets), num_marks)
    assert visited.mark_hit_by.tolist() == [-1] * num_marks
    assert visited.correct.tolist() == duplicates(visited) == [False] * num_tubelets


def test_hits_are_given_by_descending_score() -> None:
    found = overlapping((0, 0, 0.9), (1, 0, 0.5), (1, 1, 0.6), (2, 0, 0.8), (2, 2, 0.49), (3, 2, 0.3))
    visited = hits(found, np.array([0.1, 0.9, 0.5, 0.7]), 3)
    assert visited.order.tolist() == [1, 3, 2, 0]
    assert visited.mark_hit_by.tolist() == [1, 1, -1]
    assert visited.new_hits.tolist() == [0, 2, 0, 0]
    assert visited.repeat_hits.tolist() == [1, 0, 1, 0]
    assert visited.correct.tolist() == [False, True, False, False]
    assert duplicates(visited) == [True, False, True, False]


def test_a_tubelet_with_new_and_repeated_hits_is_correct_and_no_duplicate() -> None:
    visited = hits(overlapping((0, 0, 1.0), (1, 0, 1.0), (1, 1, 1.0)), np.array([0.9, 0.8]), 2)
    assert visited.correct.tolist() == [True, True]
    assert (visited.new_hits.tolist(), visited.repeat_hits.tolist()) == ([1, 1], [0, 1])
    assert duplicates(visited) == [False, False]


def test_equal_scores_go_by_row_and_minus_infinity_comes_last() -> None:
    found = overlapping((0, 0, 0.9), (1, 0, 0.9), (2, 0, 0.9))
    assert hits(found, np.array([0.5, 0.5, 0.5]), 1).mark_hit_by.tolist() == [0]
    assert hits(found, np.array([-np.inf, 0.5, 0.5]), 1).mark_hit_by.tolist() == [1]


def test_the_threshold_is_inclusive() -> None:
    found = overlapping((0, 0, 0.3))
    assert hits(found, np.zeros(1), 1, threshold=0.3).correct.tolist() == [True]
    assert hits(found, np.zeros(1), 1, threshold=0.31).correct.tolist() == [False]


def test_scores_that_are_no_numbers_and_thresholds_out_of_range_are_refused() -> None:
    with pytest.raises(LabelError, match="1 of 2 scores"):
        hits(overlapping((0, 0, 0.9)), np.array([0.1, np.nan]), 1)
    for threshold in (0.0, 1.1):
        with pytest.raises(SettingsError, match="match_iou"):
            hits(overlapping((0, 0, 0.9)), np.zeros(1), 1, threshold)
