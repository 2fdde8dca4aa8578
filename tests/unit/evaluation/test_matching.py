"""Overlaps and hits: hand-made cases and a loop over every pair."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.errors import LabelError, SettingsError
from harvester.evaluation.matching import Overlaps, hits, overlaps
from harvester.records import MARKS, TUBELETS

SIDES = ("x1", "y1", "x2", "y2")
Box = tuple[float, float, float, float]


def tubelet_row(volume_id: str, boxes_by_z: dict[int, Box]) -> dict[str, Any]:
    sides = {side: [box[i] for box in boxes_by_z.values()] for i, side in enumerate(SIDES)}
    return {"volume_id": volume_id, "z": list(boxes_by_z), **sides}


def mark_row(volume_id: str, z: int, box: Box) -> dict[str, Any]:
    return {"volume_id": volume_id, "z": z, **dict(zip(SIDES, box, strict=True))}


def tables(tubelets: list[dict[str, Any]], marks: list[dict[str, Any]]) -> tuple[pa.Table, pa.Table]:
    return pa.Table.from_pylist(tubelets, TUBELETS), pa.Table.from_pylist(marks, MARKS)


def slow_overlaps(tubelets: pa.Table, marks: pa.Table) -> list[tuple[int, int, float]]:
    found = []
    for i, tubelet in enumerate(tubelets.to_pylist()):
        for j, mark in enumerate(marks.to_pylist()):
            for at, z in enumerate(tubelet["z"]):
                if tubelet["volume_id"] != mark["volume_id"] or z != mark["z"]:
                    continue
                a, b = [tubelet[side][at] for side in SIDES], [mark[side] for side in SIDES]
                width = min(a[2], b[2]) - max(a[0], b[0]) + 1
                height = min(a[3], b[3]) - max(a[1], b[1]) + 1
                if width > 0 and height > 0:
                    areas = sum((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
                    found.append((i, j, width * height / (areas - width * height)))
    return found


def some_tables(seed: int, tubelets: int = 60, marks: int = 40) -> tuple[pa.Table, pa.Table]:
    rng = np.random.default_rng(seed)

    def box() -> Box:
        low, side = rng.integers(0, 30, 2), rng.integers(0, 20, 2)
        return tuple(float(np.float32(v)) for v in (*low, *(low + side + 0.25)))  # type: ignore[return-value]

    rows = [
        tubelet_row(f"v{rng.integers(4)}", {int(z): box() for z in range(start, start + rng.integers(0, 4))})
        for start in rng.integers(0, 4, tubelets).tolist()
    ]
    return tables(rows, [mark_row(f"v{rng.integers(5)}", int(rng.integers(8)), box()) for _ in range(marks)])


@pytest.mark.parametrize("seed", range(3))
def test_overlaps_are_those_of_a_loop_over_all_pairs(seed: int) -> None:
    tubelets, marks = some_tables(seed)
    found = overlaps(tubelets, marks)
    slow = slow_overlaps(tubelets, marks)
    assert len(slow) > 20
    assert list(zip(found.tubelet.tolist(), found.mark.tolist(), strict=True)) == [(i, j) for i, j, _ in slow]
    np.testing.assert_allclose(found.iou, [iou for _, _, iou in slow], rtol=0, atol=1e-15)
    assert found.iou.dtype == np.float64


def test_overlaps_read_chunked_and_sliced_tables_alike() -> None:
    tubelets, marks = some_tables(3)
    chunked = pa.concat_tables([tubelets.slice(0, 7), tubelets.slice(7)])
    for some, others in ((chunked, marks), (tubelets.slice(7), marks.slice(5))):
        found = overlaps(some, others)
        assert [(i, j) for i, j, _ in slow_overlaps(some, others)] == list(
            zip(found.tubelet.tolist(), found.mark.tolist(), strict=True)
        )


def test_p3d_iou_has_inclusive_ends_and_looks_at_the_marks_slice_only() -> None:
    tubelets, marks = tables(
        [tubelet_row("a", {3: (0, 0, 9, 9), 4: (0, 0, 4, 9)}), tubelet_row("b", {3: (0, 0, 9, 9)})],
        [
            mark_row("a", 3, (0, 0, 9, 9)),
            mark_row("a", 4, (0, 0, 9, 9)),
            mark_row("a", 5, (0, 0, 9, 9)),
            mark_row("a", 3, (10, 0, 19, 9)),
        ],
    )
    found = overlaps(tubelets, marks)
    assert (found.tubelet.tolist(), found.mark.tolist(), found.iou.tolist()) == ([0, 0], [0, 1], [1.0, 0.5])


@pytest.mark.parametrize(("tubelets", "marks"), [(0, 5), (5, 0), (0, 0)])
def test_no_tubelets_or_no_marks_have_no_overlaps_and_no_hits(tubelets: int, marks: int) -> None:
    found = overlaps(*some_tables(0, tubelets, marks))
    assert len(found.tubelet) == len(found.mark) == len(found.iou) == 0
    visited = hits(found, np.zeros(tubelets), marks)
    assert visited.mark_hit_by.tolist() == [-1] * marks
    assert visited.correct.tolist() == visited.duplicate.tolist() == [False] * tubelets


def found_pairs(*pairs: tuple[int, int, float]) -> Overlaps:
    tubelet, mark, iou = zip(*pairs, strict=True)
    return Overlaps(np.array(tubelet), np.array(mark), np.array(iou, dtype=np.float64))


def test_hits_are_given_by_descending_score() -> None:
    found = found_pairs((0, 0, 0.9), (1, 0, 0.5), (1, 1, 0.6), (2, 0, 0.8), (2, 2, 0.49), (3, 2, 0.3))
    visited = hits(found, np.array([0.1, 0.9, 0.5, 0.7]), 3)
    assert visited.order.tolist() == [1, 3, 2, 0]
    assert visited.mark_hit_by.tolist() == [1, 1, -1]
    assert visited.new_hits.tolist() == [0, 2, 0, 0]
    assert visited.repeat_hits.tolist() == [1, 0, 1, 0]
    assert visited.correct.tolist() == [False, True, False, False]
    assert visited.duplicate.tolist() == [True, False, True, False]


def test_a_tubelet_with_new_and_repeated_hits_is_correct_and_no_duplicate() -> None:
    visited = hits(found_pairs((0, 0, 1.0), (1, 0, 1.0), (1, 1, 1.0)), np.array([0.9, 0.8]), 2)
    assert visited.correct.tolist() == [True, True]
    assert (visited.new_hits.tolist(), visited.repeat_hits.tolist()) == ([1, 1], [0, 1])
    assert visited.duplicate.tolist() == [False, False]


def test_equal_scores_go_by_row_and_minus_infinity_comes_last() -> None:
    found = found_pairs((0, 0, 0.9), (1, 0, 0.9), (2, 0, 0.9))
    assert hits(found, np.array([0.5, 0.5, 0.5]), 1).mark_hit_by.tolist() == [0]
    assert hits(found, np.array([-np.inf, 0.5, 0.5]), 1).mark_hit_by.tolist() == [1]


def test_the_threshold_is_inclusive() -> None:
    found = found_pairs((0, 0, 0.3))
    assert hits(found, np.zeros(1), 1, threshold=0.3).correct.tolist() == [True]
    assert hits(found, np.zeros(1), 1, threshold=0.31).correct.tolist() == [False]


def test_scores_that_are_no_numbers_and_thresholds_out_of_range_are_refused() -> None:
    with pytest.raises(LabelError, match="1 of 2 scores"):
        hits(found_pairs((0, 0, 0.9)), np.array([0.1, np.nan]), 1)
    for threshold in (0.0, 1.1):
        with pytest.raises(SettingsError, match="match_iou"):
            hits(found_pairs((0, 0, 0.9)), np.zeros(1), 1, threshold)
