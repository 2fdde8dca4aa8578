"""Overlaps of 3D boxes by hand, and the rule by which LENS' evaluator reads the sensitivity."""

import numpy as np
import pyarrow as pa
import pytest

from harvester.evaluation.boxes3d import overlaps_3d
from harvester.evaluation.curves import sensitivity_at, sensitivity_by_lens
from harvester.evaluation.matching import hits
from harvester.labels.deeplesion.published_tubelets import SIDES_3D
from tests.builders import overlapping


def table(*rows: tuple[object, ...]) -> pa.Table:
    names = ("volume_id", *SIDES_3D)
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])


@pytest.mark.parametrize(("metric", "want"), [("iobb", 0.5), ("iou", 500 / 1500), ("iogt", 0.5)])
def test_ends_are_inclusive_on_all_three_axes(metric: str, want: float) -> None:
    detections = table(("a", 0, 0, 5, 9, 9, 14), ("a", 10, 0, 0, 19, 9, 9), ("b", 0, 0, 0, 9, 9, 9))
    boxes = table(("a", 0, 0, 0, 9, 9, 9))
    found = overlaps_3d(detections, boxes, metric)
    assert (found.tubelet.tolist(), found.mark.tolist()) == ([0], [0])
    assert found.iou.tolist() == [pytest.approx(want, abs=1e-15)]


def test_a_small_box_in_a_large_one_is_whole_by_iobb_only() -> None:
    small, large = table(("a", 2, 2, 2, 3, 3, 3)), table(("a", 0, 0, 0, 3, 3, 3))
    by_metric = {metric: overlaps_3d(small, large, metric).iou[0] for metric in ("iobb", "iou", "iogt")}
    assert by_metric == {"iobb": 1.0, "iou": 8 / 64, "iogt": 8 / 64}
    assert overlaps_3d(large, small, "iogt").iou.tolist() == [1.0]


def test_no_rows_have_no_overlaps() -> None:
    some = table(("a", 0, 0, 0, 9, 9, 9))
    for detections, boxes in ((some.slice(1), some), (some, some.slice(1))):
        assert len(overlaps_3d(detections, boxes, "iou").iou) == 0


def test_lens_counts_a_point_at_the_rate_and_is_flat_beyond_the_ends() -> None:
    # Miss, hit, miss, hit: (1, 0) (1, .5) (2, .5) (2, 1).
    seen = hits(overlapping((1, 0, 1.0), (3, 1, 1.0)), np.array([0.9, 0.8, 0.7, 0.6]), 2)
    assert sensitivity_by_lens(seen, [0.5, 1, 1.5, 2, 9], 1).tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]
    assert sensitivity_at(seen, [0.5, 1, 1.5, 2, 9], 1).tolist() == [0.0, 0.0, 0.5, 0.5, 1.0]
    none = hits(overlapping(), np.zeros(0), 2)
    assert sensitivity_by_lens(none, [1], 1).tolist() == [0.0]
