"""Reviewed exports on their way back: what was exported and judged comes back as the same boxes with its verdict."""

import csv
import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harvester.errors import LabelError
from harvester.export.review_import import read_review
from harvester.labels.reviewed import share_reviewed
from harvester.records import ACCEPTED, REVIEWED
from harvester.storage.location import Location
from harvester.store.store import Store, write_reviewed

ROOT = Path(__file__).parents[3]
export = runpy.run_path(str(ROOT / "jobs" / "export.py"))["main"]
review = runpy.run_path(str(ROOT / "jobs" / "review.py"))["main"]
FIRST = {2: (3, 4, 9.25, 8), 3: (2.5, 4, 10, 9.5), 4: (4, 5, 8, 8)}
NEGATIVE = {7: (30, 20, 35, 25)}
RUN_ID = "0123456789ab"
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def exports(made_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both formats, in the files' own voxels, so that the way back has to turn them."""
    folder = tmp_path_factory.mktemp("exports")
    for to in ("csv", "coco"):
        given = ["--run", str(made_once.run), "--to", to, "--out", str(folder / to)]
        assert export([*given, "--source", str(made_once.source), "--merge", "--hard-negatives"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _to_review(finished: Any, exports: Path) -> None:
    shutil.copytree(exports, finished.run.parent / "exports")


def exported(finished: Any, to: str) -> Path:
    """A copy of the export that a test may edit."""
    name = {"csv": "DL_info.csv", "coco": "annotations.json"}[to]
    return Path(finished.run.parent / "exports" / to / name)


def edit_csv(file: Path, edit: Edit) -> None:
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        edit(row)
    with file.open("w", newline="") as lines:
        table = csv.DictWriter(lines, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def edit_coco(file: Path, edit: Edit) -> None:
    """`edit` sees each annotation with its image's volume_id."""
    tree = json.loads(file.read_text())
    images = {image["id"]: image for image in tree["images"]}
    for annotation in tree["annotations"]:
        annotation["volume_id"] = images[annotation["image_id"]]["volume_id"]
        edit(annotation)
    file.write_text(json.dumps(tree))


EDITS = {"csv": edit_csv, "coco": edit_coco}


def say(**words: str) -> Edit:
    """Write a verdict on the lesions of this id, in every volume."""
    by_id = {name.replace("_", "-"): word for name, word in words.items()}

    def edit(row: dict[str, Any]) -> None:
        row["review"] = by_id.get(row["label_id"], "")

    return edit


def placed(row: dict[str, Any]) -> dict[int, tuple[float, ...]]:
    return dict(zip(row["z"], zip(*(row[side] for side in ("x1", "y1", "x2", "y2")), strict=True), strict=True))


def assert_boxes(row: dict[str, Any], want: dict[int, tuple[float, ...]]) -> None:
    found = placed(row)
    assert found.keys() == want.keys()
    for z, box in found.items():
        np.testing.assert_allclose(box, want[z], atol=1e-5)


def kept(finished: Any, volume_id: str) -> dict[str, dict[str, Any]]:
    rows = Store.open(finished.run / "store").reviewed().to_pylist()
    return {row["label_id"]: row for row in rows if row["volume_id"] == volume_id}


@pytest.mark.parametrize("to", ["csv", "coco"])
def test_verdicts_come_back_in_the_stored_order(finished: Any, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = exported(finished, to)
    EDITS[to](file, say(harvested_0_1="accepted", harvested_0_2=" Rejected"))
    before = finished.store.data_hash()
    assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 0
    assert "3 accepted, 3 rejected" in capsys.readouterr().out
    assert Store.open(finished.run / "store").data_hash() != before
    for volume_id in (finished.supine, finished.turned, finished.nifti):
        rows = kept(finished, volume_id)
        good, bad = (rows[f"reviewed-{RUN_ID}-harvested-0-{number}"] for number in (1, 2))
        assert (good["role"], good["verdict"], good["source"]) == ("lesion", "accepted", "reviewed")
        assert (bad["role"], bad["verdict"]) == ("hard_negative", "rejected")
        assert (good["score"], good["model_hash"], good["run_id"]) == (0.9375, "ba9876543210", RUN_ID)
        assert_boxes(good, FIRST)
        assert len(rows) == 2


def test_a_moved_lesion_leaves_its_place_behind(finished: Any) -> None:
    file = exported(finished, "csv")

    def move(row: dict[str, Any]) -> None:
        if row["label_id"] == "harvested-0-1" and row["volume_id"] == finished.turned:
            # In the file, both axes run against the stored ones: 39 - x and 31 - y.
            row |= {"review": "moved", "Key_slice_index": "5", "Bounding_boxes": "9, 11, 19.5, 21"}

    edit_csv(file, move)
    assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 0
    rows = kept(finished, finished.turned)
    base = f"reviewed-{RUN_ID}-harvested-0-1"
    assert_boxes(rows[base], {5: (39 - 19.5, 31 - 21, 39 - 9, 31 - 11)})
    assert (rows[base]["role"], rows[f"{base}-before"]["role"]) == ("lesion", "ignored")
    assert_boxes(rows[f"{base}-before"], FIRST)


def test_a_moved_track_keeps_its_other_slices(finished: Any) -> None:
    file = exported(finished, "coco")

    def move(annotation: dict[str, Any]) -> None:
        if (annotation["volume_id"], annotation["label_id"]) == (finished.supine, "harvested-0-1"):
            annotation["review"] = "moved"
            if annotation["found"][0] == 4:
                annotation["bbox"] = [10, 10, 4, 6]

    edit_coco(file, move)
    assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 0
    rows = kept(finished, finished.supine)
    assert_boxes(rows[f"reviewed-{RUN_ID}-harvested-0-1"], FIRST | {4: (10, 10, 13, 15)})
    assert_boxes(rows[f"reviewed-{RUN_ID}-harvested-0-1-before"], FIRST)


def test_of_a_hard_negative_the_verdict_is_on_being_none(finished: Any) -> None:
    file = exported(finished, "coco")

    def judge(annotation: dict[str, Any]) -> None:
        if annotation["source"] == "hard_negative_vh":
            annotation["review"] = "rejected" if annotation["volume_id"] == finished.supine else "accepted"

    edit_coco(file, judge)
    assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 0
    name = f"reviewed-{RUN_ID}-hard_negative_vh-0-7"
    assert kept(finished, finished.supine)[name]["role"] == "lesion"
    assert kept(finished, finished.nifti)[name]["role"] == "hard_negative"
    assert_boxes(kept(finished, finished.nifti)[name], NEGATIVE)


def test_a_later_verdict_replaces_the_earlier_one(finished: Any) -> None:
    file = exported(finished, "csv")
    edit_csv(file, say(harvested_0_1="accepted", harvested_0_2="accepted"))
    assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 0
    edit_csv(file, say(harvested_0_1="rejected"))
    for _ in range(2):
        assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 0
        rows = kept(finished, finished.supine)
        roles = {row["label_id"][-1]: row["role"] for row in rows.values()}
        assert roles == {"1": "hard_negative", "2": "lesion"}


def test_as_much_of_vm_stops_counting_as_was_reviewed_of_vh(finished: Any) -> None:
    boxes = {"z": [1], "x1": [1.0], "y1": [1.0], "x2": [2.0], "y2": [2.0]}
    rows = [
        boxes | {"volume_id": "m", "tubelet_id": number, "score": number / 10, "correct": True} for number in range(10)
    ]
    pq.write_table(pa.Table.from_pylist(rows, ACCEPTED), finished.run / "calibration.parquet")
    file = exported(finished, "csv")
    edit_csv(file, say(harvested_0_1="accepted"))  # 3 of 6 lesions
    assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 0
    left_out = [row for row in kept(finished, "m").values() if row["role"] == "calibration"]
    assert sorted(row["score"] for row in left_out) == [0.5, 0.6, 0.7, 0.8, 0.9]
    edit_csv(file, say(harvested_0_1="accepted", harvested_0_2="rejected"))
    assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 0
    assert len(kept(finished, "m")) == 10
    assert share_reviewed(Store.open(finished.run / "store").reviewed(), 6, RUN_ID) == 1
    assert share_reviewed(Store.open(finished.run / "store").reviewed(), 6, "f" * 12) == 0


def test_hits_of_an_older_run_and_review_are_replaced_not_added_to(finished: Any) -> None:
    """Before version 0.2 both were called rehearsed."""
    boxes = {"z": [1], "x1": [1.0], "y1": [1.0], "x2": [2.0], "y2": [2.0]}
    hits = [boxes | {"volume_id": "m", "tubelet_id": number, "score": number / 10} for number in range(10)]
    (finished.run / "calibration.parquet").unlink()
    pq.write_table(pa.Table.from_pylist(hits, ACCEPTED), finished.run / "rehearsed.parquet")
    old = boxes | {"volume_id": "m", "role": "rehearsed", "source": "reviewed", "round": -1}
    rows = [old | {"label_id": f"rehearsed-{run_id}-0", "run_id": run_id} for run_id in (RUN_ID, "other")]
    write_reviewed(Location.of(finished.run / "store"), pa.Table.from_pylist(rows, REVIEWED))
    file = exported(finished, "csv")
    edit_csv(file, say(harvested_0_1="accepted"))  # 3 of 6 lesions
    assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 0
    roles = [row["role"] for row in kept(finished, "m").values()]
    assert sorted(roles) == ["calibration"] * 5 + ["rehearsed"]


def test_nothing_reviewed_leaves_the_stores_name(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = finished.store.data_hash()
    assert review(["--run", str(finished.run), "--reviewed", str(exported(finished, "csv"))]) == 0
    assert "nothing was reviewed" in capsys.readouterr().out
    assert Store.open(finished.run / "store").data_hash() == before


def test_people_accept_what_people_marked(finished: Any) -> None:
    file = exported(finished, "csv")
    edit_csv(file, lambda row: row.update(review="accepted" if row["source"] == "clinical" else ""))
    assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 0
    assert len(Store.open(finished.run / "store").reviewed()) == 0


WRONG: list[tuple[dict[str, str], str]] = [
    ({"review": "maybe"}, "line 2: review must be empty or one of"),
    ({"review": "accepted", "Bounding_boxes": "1, 1, 5, 5"}, "write moved"),
    ({"review": "moved"}, "as exported"),
    ({"review": "moved", "Bounding_boxes": "1, 1, 5"}, "not 4 numbers"),
    ({"review": "moved", "Bounding_boxes": "1, 1, nan, 5"}, "not 4 numbers"),
    ({"review": "moved", "Key_slice_index": "9"}, "outside its volume"),
    ({"review": "moved", "Key_slice_index": "1.5"}, "whole number"),
    ({"review": "moved", "Bounding_boxes": "1, 1, 500, 5"}, "outside its volume"),
    ({"review": "moved", "Bounding_boxes": "5, 9, 7, 3"}, "line 2: the ends"),
    ({"review": "accepted", "run_id": "1.2E+11"}, "spreadsheet"),
    ({"review": "accepted", "run_id": "f" * 12}, "another run"),
    ({"review": "accepted", "volume_id": "v1"}, "not in the store"),
    ({"review": "accepted", "turn": "ZEBRA"}, "line 2: `turn`"),
    ({"review": "accepted", "role": "ZEBRA"}, "role must be"),
    ({"review": "rejected", "source": "clinical"}, "a mark of the archive was rejected"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_a_wrong_row_is_one_line_and_changes_nothing(
    finished: Any, change: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = exported(finished, "csv")
    first = iter([True])
    edit_csv(
        file, lambda row: row.update(change) if row["label_id"] == "harvested-0-1" and next(first, False) else None
    )
    text = file.read_text().splitlines()
    changed = next(number for number, line in enumerate(text, 1) if "harvested-0-1" in line)
    capsys.readouterr()
    assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 1
    message = capsys.readouterr().err
    assert said.replace("line 2", f"line {changed}") in message
    assert message.count("\n") == 1
    assert "ZEBRA" not in message
    assert not (finished.run / "store" / "reviewed.parquet").exists()


def test_files_that_are_no_export_are_refused(finished: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("name,age\nZEBRA,3\n")
    with pytest.raises(LabelError, match="lacks the columns volume_id"):
        read_review(file)
    for content in (b"{", b"\xff\xfe\x00", b"[]", b'{"images": [{}], "annotations": []}'):
        broken = tmp_path / "a.json"
        broken.write_bytes(content)
        with pytest.raises(LabelError, match=r"a\.json"):
            read_review(broken)
    with pytest.raises(LabelError, match="cannot be read"):
        read_review(tmp_path / "none.csv")
    two = exported(finished, "coco")
    words = iter(["accepted", "rejected"] * 1000)
    edit_coco(two, lambda annotation: annotation.update(review=next(words)))
    with pytest.raises(LabelError, match="both accepted and rejected"):
        read_review(two)


def test_a_run_of_an_older_version_says_what_to_do(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = exported(finished, "csv")
    (finished.run / "calibration.parquet").unlink()
    capsys.readouterr()
    assert review(["--run", str(finished.run), "--reviewed", str(file)]) == 1
    assert "no calibration.parquet" in capsys.readouterr().err
