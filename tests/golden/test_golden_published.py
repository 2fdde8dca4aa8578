"""The job's figures against those of the evaluators published with Lesion Harvester and LENS."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from harvester.labels.deeplesion.published_marks import read_published

DATA = Path(os.environ.get("HARVESTER_DATA") or Path(__file__).parents[3] / "shared" / "data")
GOLDEN = DATA.parent / "golden"
COUNTS = ("num_marks", "num_volumes", "num_tubelets", "tp", "fp_froc", "fp_ap", "num_boxes")
Evaluate = Callable[..., dict[str, Any]]


def files(case: str, marks: Path) -> tuple[object, ...]:
    """The arguments that name a golden case's files; skips where they are absent."""
    detections = GOLDEN / case / "detections.parquet"
    for file in (detections, marks):
        if not file.is_file():
            pytest.skip(f"golden case {case} needs {file.name}: set HARVESTER_DATA, golden/ lies beside it")
    return "--marks", marks, "--tubelets", detections


def same(got: dict[str, Any], want: dict[str, Any]) -> None:
    for name in set(COUNTS) & set(want):
        assert got[name] == want[name], name
    for name in {"ap", "sensitivity", "mean"} & set(want):
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("case", "annotations"), [("p3d_test1071", "Revised-Test1071.pkl"), ("p3d_train100", "Revised-Train100.pkl")]
)
def test_p3d(case: str, annotations: str, evaluate: Evaluate) -> None:
    named = files(case, DATA / "deeplesion" / annotations)
    want = json.loads((GOLDEN / case / "expected.json").read_text())
    got = evaluate(*named, "--resamples", "0")
    assert got["froc_fp_per_volume"] == want["froc_fp_per_volume"]
    assert got["threshold"] == want["p3d_iou_threshold"]
    same(got, want)


@pytest.mark.parametrize("metric", ["iobb", "iou", "iogt"])
def test_box3d(metric: str, evaluate: Evaluate) -> None:
    named = files("box3d_val200", GOLDEN / "box3d_val200" / "boxes.parquet")
    want = json.loads((GOLDEN / "box3d_val200" / "expected.json").read_text())
    got = evaluate("--boxes3d", "--metric", metric, *named, "--resamples", "0")
    assert got["froc_fp_per_volume"] == want["froc_fp_per_volume"]
    assert got["threshold"] == want[metric.upper()]["threshold"]
    same(got, want | want[metric.upper()])


def test_volumes_without_marks_count() -> None:
    file = DATA / "deeplesion" / "Revised-Test1071.pkl"
    if not file.is_file():
        pytest.skip("needs Revised-Test1071.pkl: set HARVESTER_DATA")
    published = read_published(file)
    marked = pc.count_distinct(published.marks["volume_id"]).as_py()
    assert (len(published.volume_ids), marked) == (1071, 1070)
