"""AP and FROC against the evaluator published with Lesion Harvester, and against a slow version of it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from harvester.evaluation.curves import (
    FROC_RATES,
    average_precision,
    false_positives,
    froc,
    sensitivity_at,
    true_positives,
)
from harvester.evaluation.matching import hits, overlaps
from harvester.labels.published import read_published
from harvester.records import MARKS

DATA = Path(os.environ.get("HARVESTER_DATA") or Path(__file__).parents[3] / "shared" / "data")
GOLDEN = DATA.parent / "golden"
SIDES = ("x1", "y1", "x2", "y2")


def tubelets_of(detections: Path) -> tuple[pa.Table, Any]:
    """One row a tubelet from one row a box, and its highest slice score; the file keeps tubelets together."""
    table = pq.read_table(detections).combine_chunks()
    volume = table["volume_id"].combine_chunks()
    changes = [np.diff(column) != 0 for column in (volume.indices.to_numpy(), table["tubelet_id"].to_numpy())]
    start = np.flatnonzero(np.append(True, changes[0] | changes[1]))
    ends = pa.array(np.append(start, len(table)), pa.int32())
    lists = {name: pa.ListArray.from_arrays(ends, table[name].combine_chunks()) for name in ("z", *SIDES)}
    scores = np.maximum.reduceat(table["score"].to_numpy(), start).astype(np.float64)
    return pa.table({"volume_id": volume.take(pa.array(start)).cast(pa.string()), **lists}), scores


@pytest.mark.parametrize(
    ("case", "annotations"),
    [("p3d_test1071", "Revised-Test1071.pkl"), ("p3d_train100", "Revised-Train100.pkl")],
)
def test_published_figures(case: str, annotations: str) -> None:
    detections, published_file = GOLDEN / case / "detections.parquet", DATA / "deeplesion" / annotations
    for file in (detections, published_file):
        if not file.is_file():
            pytest.skip(f"golden case {case} needs {file.name}: set HARVESTER_DATA, golden/ lies beside it")
    want = json.loads((GOLDEN / case / "expected.json").read_text())
    tubelets, scores = tubelets_of(detections)
    published = read_published(published_file)
    counts = (len(tubelets), len(published.marks), len(published.volume_ids))
    assert counts == tuple(want[name] for name in ("num_tubelets", "num_marks", "num_volumes"))

    seen = hits(overlaps(tubelets, published.marks), scores, counts[1], want["p3d_iou_threshold"])

    assert true_positives(seen)[-1] == (seen.mark_hit_by >= 0).sum() == want["tp"]
    assert false_positives(seen, repeats=False)[-1] == want["fp_froc"]
    assert false_positives(seen, repeats=True)[-1] == want["fp_ap"]
    assert average_precision(seen) == pytest.approx(want["ap"], rel=0, abs=1e-9)
    sensitivity = sensitivity_at(seen, want["froc_fp_per_volume"], counts[2])
    np.testing.assert_allclose(sensitivity, want["sensitivity"], rtol=0, atol=1e-9)
    assert tuple(want["froc_fp_per_volume"]) == FROC_RATES


def slow_iou(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + 1, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + 1, 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_p3d(tubelet: dict[str, Any], mark: dict[str, Any]) -> float:
    if tubelet["volume_id"] != mark["volume_id"] or mark["z"] not in tubelet["z"]:
        return 0.0
    at = tubelet["z"].index(mark["z"])
    return slow_iou([tubelet[side][at] for side in SIDES], [mark[side] for side in SIDES])


def slow_points(tubelets: pa.Table, scores: Any, marks: pa.Table) -> list[tuple[int, int, int]]:
    """(marks hit, false positives of FROC, of AP) after each tubelet, best score first."""
    ranked = sorted(zip(scores.tolist(), tubelets.to_pylist(), strict=True), key=lambda pair: -pair[0])
    marks_left, all_marks = list(range(len(marks))), marks.to_pylist()
    fp_froc = fp_ap = 0
    points = []
    for _, tubelet in ranked:
        matched = [j for j, mark in enumerate(all_marks) if slow_p3d(tubelet, mark) >= 0.5]
        if not matched:
            fp_froc, fp_ap = fp_froc + 1, fp_ap + 1
        for j in matched:
            if j in marks_left:
                marks_left.remove(j)
            else:
                fp_ap += 1
        points.append((len(all_marks) - len(marks_left), fp_froc, fp_ap))
    return points


def slow_average_precision(points: list[tuple[int, int, int]], num_marks: int) -> float:
    """For each further recall, its width times the best precision from there on."""
    area, before = 0.0, 0
    for at, (tp, _, _) in enumerate(points):
        best = max(tp_later / (tp_later + fp_later) for tp_later, _, fp_later in points[at:])
        area += (tp - before) / num_marks * best
        before = tp
    return area


def made_case(seed: int) -> tuple[pa.Table, Any, pa.Table]:
    """Five volumes, one without a mark: tubelets on marks, some double, some on two marks, some astray."""
    rng = np.random.default_rng(seed)
    marks = []
    for _ in range(30):
        x, y, side = *rng.integers(0, 80, 2).tolist(), int(rng.integers(10, 30))
        box = dict(zip(SIDES, (float(x), float(y), float(x + side), float(y + side)), strict=True))
        marks.append({"volume_id": f"v{rng.integers(4)}", "z": int(rng.integers(6)), **box})
    tubelets = []
    for number in range(150):
        like = marks[number % 30]
        shift = rng.normal(0, 1 if number < 30 else 4 if number % 5 < 3 else 30, 4)
        z = list(range(max(like["z"] - 1, 0), like["z"] + 2))
        low_high = [like[side] + moved for side, moved in zip(SIDES, shift, strict=True)]
        x1, x2, y1, y2 = *sorted(low_high[::2]), *sorted(low_high[1::2])
        lists = {side: [v] * len(z) for side, v in zip(SIDES, (x1, y1, x2, y2), strict=True)}
        tubelets.append({"volume_id": like["volume_id"] if number % 7 else "v4", "z": z, **lists})
    twins = [{**marks[1], "x2": marks[1]["x2"] + 1}, {**marks[2], "y2": marks[2]["y2"] + 1}]
    table = pa.Table.from_pylist(tubelets)
    return table, rng.permutation(150) / 150, pa.Table.from_pylist(marks + twins, MARKS)


@pytest.mark.parametrize("seed", range(3))
def test_our_own_case_equals_the_slow_obvious_version(seed: int) -> None:
    tubelets, scores, marks = made_case(seed)
    points = slow_points(tubelets, scores, marks)
    seen = hits(overlaps(tubelets, marks), scores, len(marks))
    assert seen.duplicate.any()
    assert (seen.new_hits > 1).any()
    assert true_positives(seen).tolist() == [tp for tp, _, _ in points]
    assert false_positives(seen, repeats=False).tolist() == [fp for _, fp, _ in points]
    assert false_positives(seen, repeats=True).tolist() == [fp for _, _, fp in points]
    assert average_precision(seen) == pytest.approx(slow_average_precision(points, len(marks)), abs=1e-12)
    assert froc(seen, 5).fp_per_volume.tolist() == [fp / 5 for _, fp, _ in points]
    for rate, sensitivity in zip(FROC_RATES, sensitivity_at(seen, FROC_RATES, 5), strict=True):
        within = [tp for tp, fp, _ in points if fp / 5 < rate]
        assert sensitivity == pytest.approx(max(within, default=0) / len(marks), abs=1e-12)


def test_volumes_without_marks_count() -> None:
    file = DATA / "deeplesion" / "Revised-Test1071.pkl"
    if not file.is_file():
        pytest.skip("needs Revised-Test1071.pkl: set HARVESTER_DATA")
    published = read_published(file)
    marked = pc.count_distinct(published.marks["volume_id"]).as_py()
    assert (len(published.volume_ids), marked) == (1071, 1070)
