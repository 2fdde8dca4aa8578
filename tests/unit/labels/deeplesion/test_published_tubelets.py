"""MinedLesions, HardNegatives and 3D-Box: read as tubelets and boxes, through the same allow-list."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harvester.errors import LabelError
from harvester.labels.deeplesion.published_marks import read_published
from harvester.labels.deeplesion.published_tubelets import read_published_boxes3d, read_published_tubelets

VOLUME = "000001_01_01_003-040"


def write(folder: Path, tree: Any, protocol: int = 2) -> Path:
    file = folder / "mined.pkl"
    file.write_bytes(pickle.dumps(tree, protocol=protocol))
    return file


def tubelet() -> list[Any]:
    return [(7, [1.0, 2.0, 5.0, 6.0, 0.4]), (6, [1.5, 2.0, 5.0, 6.5, 0.9]), (8, [1.0, 2.0, 5.0, 6.0, 0.9])]


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("form", ["plain", "scalars", "arrays"])
def test_tubelets_are_read_slice_by_slice(tmp_path: Path, form: str, protocol: int) -> None:
    slices: list[Any] = tubelet()
    if form == "scalars":
        slices = [(np.int64(z), [np.float64(value) for value in box]) for z, box in slices]
    if form == "arrays":
        slices = [[z, np.array(box)] for z, box in slices]
    held = {f"{VOLUME}.annot": [slices, slices[:1]], "000001_01_02-001-009": []}
    published = read_published_tubelets(write(tmp_path, held, protocol))
    assert published.volume_ids == (VOLUME, "000001_01_02_001-009")
    first, second = published.table.to_pylist()
    assert first == {
        "volume_id": VOLUME, "tubelet_id": 0, "z": [6, 7, 8], "x1": [1.5, 1.0, 1.0], "y1": [2.0, 2.0, 2.0],
        "x2": [5.0, 5.0, 5.0], "y2": [6.5, 6.0, 6.0], "slice_score": [0.9, 0.4, 0.9],
    }  # fmt: skip
    assert (second["tubelet_id"], second["z"]) == (1, [7])


def test_a_tubelet_marks_its_best_slice(tmp_path: Path) -> None:
    (mark,) = read_published(write(tmp_path, {f"{VOLUME}.annot": [tubelet()]})).marks.to_pylist()
    assert (mark["volume_id"], mark["z"], mark["y2"], mark["clinical"]) == (VOLUME, 6, 6.5, False)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({6: []}, "holds a dict; want a list of tubelets"),
        ([[]], "tubelet 0 is no list"),
        ([tubelet()[0]], "tubelet 0 holds 7"),
        ([[(7, [1.0, 2.0, 5.0, 6.0])]], "tubelet 0 holds"),
        ([[(7.5, [1.0, 2.0, 5.0, 6.0, 0.4])]], "want a slice from 0"),
        ([[(-1, [1.0, 2.0, 5.0, 6.0, 0.4])]], "want a slice from 0"),
        ([[(7, [1.0, 2.0, 5.0, 6.0, float("nan")])]], "finite numbers"),
        ([[(7, [9.0, 2.0, 5.0, 6.0, 0.4])]], "ends out of order"),
        ([tubelet() + tubelet()[:1]], "two boxes on one slice"),
    ],
)
def test_broken_tubelets_are_refused(tmp_path: Path, held: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_published_tubelets(write(tmp_path, {VOLUME: held}))


def test_a_foreign_global_in_tubelets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="only numpy scalars and arrays"):
        read_published_tubelets(write(tmp_path, {VOLUME: [[(7, Path("/"))]]}))


def test_3d_boxes_are_read_with_their_own_order_of_ends(tmp_path: Path) -> None:
    held = {VOLUME: [[1.0, 2.0, 5.0, 6.0, 3.0, 4.0], np.arange(6.0) * 0], "empty": []}
    published = read_published_boxes3d(write(tmp_path, held))
    assert published.volume_ids == (VOLUME, "empty")
    first = published.table.to_pylist()[0]
    assert first == {"volume_id": VOLUME, "x1": 1.0, "y1": 2.0, "z1": 3.0, "x2": 5.0, "y2": 6.0, "z2": 4.0}
    assert len(published.table) == 2


@pytest.mark.parametrize(
    "held", [7, [[1.0, 2.0, 5.0, 6.0, 4.0, 3.0]], [[1.0, 2.0]], [[1.0, 2.0, float("inf"), 6.0, 3.0, 4.0]]]
)
def test_broken_3d_boxes_are_refused(tmp_path: Path, held: Any) -> None:
    with pytest.raises(LabelError, match=r"3D boxes|low ends first"):
        read_published_boxes3d(write(tmp_path, {VOLUME: held}))


def test_3d_boxes_are_no_marks(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="--boxes3d"):
        read_published(write(tmp_path, {VOLUME: [[1.0, 2.0, 5.0, 6.0, 3.0, 4.0]]}))


def test_a_volume_under_two_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=f"has volume {VOLUME} twice"):
        read_published(write(tmp_path, {VOLUME: {}, f"{VOLUME}.annot": {}}))
