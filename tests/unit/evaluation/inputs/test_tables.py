"""What people bring to be scored: both layouts of tubelets, patients and volumes, and what is refused."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harvester.errors import LabelError
from harvester.evaluation.inputs.annotations import read_annotations
from harvester.evaluation.inputs.detections import read_detections
from harvester.labels.deeplesion.mark_tables import read_marks
from harvester.records import TUBELETS

HEAD = "volume_id,tubelet_id,z,x1,y1,x2,y2,score"
ROWS = ["007,0,2,10,10,30,30,0.5", "007,0,3,10,10,31,30,0.9", "008,0,4,5,5,20,20,0.8", "008,1,4,1,1,2,2,0.7"]
MARKS = "volume_id,z,x1,y1,x2,y2\n007,3,10,10,30,30\n008,4,5,5,20,20\n"


def csv(folder: Path, rows: list[str], head: str = HEAD, name: str = "tubelets.csv") -> Path:
    file = folder / name
    file.write_text("\n".join([head, *rows]) + "\n")
    return file


def lists(file: Path, *wanted: str, score: str | None = None) -> list[list[Any]]:
    run = read_detections(file, ("007", "008"), score=score)
    return [run.table[name].to_pylist() for name in wanted] + [run.scores.tolist()]


def test_slices_become_tubelets_with_their_best_score(tmp_path: Path) -> None:
    volume, z, x2, scores = lists(csv(tmp_path, ROWS), "volume_id", "z", "x2")
    assert volume == ["007", "008", "008"]
    assert z == [[2, 3], [4], [4]]
    assert x2 == [[30, 31], [20], [2]]
    assert scores == [0.9, 0.8, 0.7]


def test_rows_may_come_in_any_order_and_tubelets_keep_that_of_their_first(tmp_path: Path) -> None:
    volume, z, x2, scores = lists(csv(tmp_path, [ROWS[i] for i in (2, 1, 3, 0)]), "volume_id", "z", "x2")
    assert volume == ["008", "007", "008"]
    assert (z, x2, scores) == ([[4], [2, 3], [4]], [[20], [30, 31], [2]], [0.8, 0.9, 0.7])


def test_tubelet_ids_may_be_words_or_hashes(tmp_path: Path) -> None:
    for names in (("a", "b"), (-(2**62), 2**62)):
        rows = [row.replace(",0,", f",{names[0]},", 1).replace(",1,4", f",{names[1]},4", 1) for row in ROWS]
        assert lists(csv(tmp_path, rows)) == [[0.9, 0.8, 0.7]]


def run_table(**columns: list[Any]) -> pa.Table:
    rows: dict[str, list[Any]] = {
        "volume_id": ["007", "008"],
        "patient_id": ["p", "q"],
        "tubelet_id": [0, 0],
        "lpg_score": [0.9, 0.8],
        "width_mm": [5.0, 5.0],
        "z": [[2, 3], [4]],
        "x1": [[10, 10], [5]],
        "y1": [[10, 10], [5]],
        "x2": [[30, 31], [20]],
        "y2": [[30, 30], [20]],
        "slice_score": [[0.5, 0.75], [0.25]],
    }
    return pa.table(rows | columns, schema=TUBELETS)


def parquet(folder: Path, table: pa.Table) -> Path:
    pq.write_table(table, folder / "tubelets.parquet")
    return folder / "tubelets.parquet"


def test_the_tables_of_a_run_are_read_with_the_best_slice_or_a_named_column(tmp_path: Path) -> None:
    file = parquet(tmp_path, run_table())
    assert lists(file, "z", "x2") == [[[2, 3], [4]], [[30, 31], [20]], [0.75, 0.25]]
    assert lists(file, score="lpg_score") == [[0.9, 0.8]]
    with pytest.raises(LabelError, match="no column lpc_score among"):
        lists(file, score="lpc_score")


def test_a_runs_folder_of_parts_is_read_as_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "scored-c0ffee.partials"
    folder.mkdir()
    (folder / "000000-a.json").write_text("{}")
    whole = run_table()
    for at in range(len(whole)):
        pq.write_table(whole.slice(at, 1), folder / f"00000{at}-a.parquet")
    assert lists(folder, "z", "x2") == lists(parquet(tmp_path, whole), "z", "x2")
    (tmp_path / "empty.partials").mkdir()
    with pytest.raises(LabelError, match=r"want a \.parquet or \.csv file, or a run's folder"):
        lists(tmp_path / "empty.partials")


def test_a_harvest_is_read_too(tmp_path: Path) -> None:
    names = {side: f"{side}_px" for side in ("x1", "y1", "x2", "y2")} | {
        "tubelet_id": "lesion_id",
        "lpg_score": "score",
    }
    table = run_table().drop_columns(["slice_score"])
    file = parquet(tmp_path, table.rename_columns([names.get(name, name) for name in table.column_names]))
    assert lists(file, "x2") == [[[30, 31], [20]], [0.9, 0.8]]


def test_sliced_and_chunked_files_are_read_alike(tmp_path: Path) -> None:
    file = tmp_path / "chunks.parquet"
    pq.write_table(run_table(), file, row_group_size=1)
    assert lists(file, "x2") == [[[30, 31], [20]], [0.75, 0.25]]


BAD_ROWS = {
    r"2 of 4 volumes are not annotated: 9, 10; .*--volumes": ["9,0,1,1,1,2,2,.1", "10,0,1,1,1,2,2,.1"],
    r"a slice that its tubelet already has in 1 row: row 5 \(volume_id 007, tubelet_id 0, z 3,": ["007,0,3,1,1,2,2,.1"],
    r"no finite number in 2 rows: row 5 .*x1 missing.*; row 6 .*y2 inf":
        ["007,3,3,nan,1,2,2,.1", "007,4,3,1,1,2,inf,.1"],
    r"x2 < x1 in 4 rows: row 5 \(.*\); row 6 \(.*\); row 7 \([^)]*\), \.\.\.;":
        ["007,3,3,5,1,2,2,.1", "007,4,3,5,1,2,2,.1", "008,3,3,5,1,2,2,.1", "008,4,3,5,1,2,2,.1"],
    r"y2 < y1 in 1 row: row 5": ["007,3,3,1,5,2,2,.1"],
    r"no score in 1 row: row 5": ["007,3,3,1,1,2,2,"],
    r"column z has 1 values that are no slice from 0: 3\.5 \(row 5\)": ["007,3,3.5,1,1,2,2,.1"],
    r"no slice from 0: -1": ["007,3,-1,1,1,2,2,.1"],
    r"column x1 holds string; want numbers": ["007,3,3,left,1,2,2,.1"],
    r"1 rows have no tubelet_id": ["007,,3,1,1,2,2,.1"],
}  # fmt: skip


@pytest.mark.parametrize("named", ["007", "008"])
def test_volumes_of_other_splits_can_be_left_out(tmp_path: Path, named: str) -> None:
    every = read_detections(csv(tmp_path, ROWS), ("007", "008"))
    mine = read_detections(csv(tmp_path, ROWS), (named,), annotated_only=True)
    kept = [volume == named for volume in every.table["volume_id"].to_pylist()]
    assert 0 < len(mine.scores) < len(every.scores)
    assert mine.table.to_pylist() == every.table.filter(pa.array(kept)).to_pylist()
    assert mine.scores.tolist() == every.scores[kept].tolist()
    with pytest.raises(LabelError, match="--annotated-only"):
        read_detections(csv(tmp_path, ROWS), (named,))


@pytest.mark.parametrize("message", BAD_ROWS)
def test_rows_at_fault_are_named(tmp_path: Path, message: str) -> None:
    with pytest.raises(LabelError, match=rf"^tubelets\.csv: .*{message}"):
        read_detections(csv(tmp_path, ROWS + BAD_ROWS[message]), ("007", "008"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"z": [[2, 2], [4]]}, r"already has in 1 row: row 2 \(volume_id 007, tubelet_id 0, z 2"),
        ({"x1": [[10, 40], [5]]}, r"x2 < x1 in 1 row: row 2 \(volume_id 007"),
        ({"y1": [[10, None], [5]]}, r"no finite number in 1 row"),
        ({"x1": [[10], [5]]}, r"lists of different lengths in 1 row: row 1 \(volume_id 007"),
        ({"z": [[2, 3], []]}, r"no slice in 1 row: row 2 \(volume_id 008"),
        ({"slice_score": [[0.5, 0.7], [float("nan")]]}, r"no score in 1 row: row 2"),
        ({"volume_id": ["007", "007"]}, r"a repeat of an earlier row in 1 row: row 2 \(volume_id 007, tubelet_id 0\)"),
        ({"volume_id": ["007", None]}, r"1 rows have no volume_id, the first is row 2"),
    ],
)  # fmt: skip
def test_rows_of_a_runs_table_at_fault_are_named(tmp_path: Path, columns: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_detections(parquet(tmp_path, run_table(**columns)), ("007", "008"))


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "a.csv", "the file is empty"),
        ("volume_id,z\n1,2\n", "a.csv", "no column x1, y1, x2, y2 among volume_id, z; want one row per slice"),
        (HEAD.replace("tubelet_id", "id") + "\n", "a.csv", "no column tubelet_id among"),
        ("a,b\n1\n", "a.csv", "cannot be read"),
        ("x", "a.parquet", "cannot be read"),
        ("x", "a.txt", "want a .parquet or .csv file"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path: Path, content: str, name: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(LabelError, match=f"{name}: .*{message}"):
        read_detections(tmp_path / name, ("1",))
    with pytest.raises(LabelError, match=r"nothing\.csv: cannot be read"):
        read_detections(tmp_path / "nothing.csv", ("1",))


def test_a_table_without_rows_has_no_detections(tmp_path: Path) -> None:
    for file in (csv(tmp_path, []), parquet(tmp_path, run_table().slice(0, 0))):
        assert lists(file, "z") == [[], []]


def test_boxes_in_3d_are_read_and_checked(tmp_path: Path) -> None:
    head = "volume_id,x1,y1,z1,x2,y2,z2,score"
    good = ["007,1,1,1,5,5,5,0.5", "007,1,1,1,5,5,5,0.4"]
    run = read_detections(csv(tmp_path, good, head), ("007",), boxes3d=True)
    assert (run.table["z2"].to_pylist(), run.scores.tolist()) == ([5, 5], [0.5, 0.4])
    for bad, message in (("007,1,1,6,5,5,5,0.1", "z2 < z1 in 1 row: row 3"), (good[0], "a repeat of an earlier row")):
        with pytest.raises(LabelError, match=message):
            read_detections(csv(tmp_path, [*good, bad], head), ("007",), boxes3d=True)


def annotations(folder: Path, marks: str = MARKS, volumes: str | None = None, name: str = "volumes.csv") -> Any:
    (folder / "marks.csv").write_text(marks)
    if volumes is not None:
        (folder / name).write_text(volumes)
    return read_annotations(folder / "marks.csv", folder / name if volumes is not None else None)


def test_a_mark_that_is_there_twice_counts_twice_and_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(annotations(tmp_path, MARKS + "007,3,10,10,30,30\n").marks) == len(annotations(tmp_path).marks) + 1
    assert caplog.text.count("marks.csv: 1 rows repeat earlier ones") == 1


def test_volumes_without_a_mark_count_where_they_are_listed(tmp_path: Path) -> None:
    assert annotations(tmp_path).volume_ids == ("007", "008")
    for name, text in (("volumes.txt", "009\n\n008\n007\n"), ("volumes.csv", "volume_id\n009\n008\n007\n")):
        read = annotations(tmp_path, MARKS, text, name)
        assert read.volume_ids == ("009", "008", "007")
        assert read.num_patients == 3
    with pytest.raises(LabelError, match="1 volumes are not in the list of volumes: 008"):
        annotations(tmp_path, MARKS, "007\n", "volumes.txt")
    with pytest.raises(LabelError, match="a repeat of an earlier row"):
        annotations(tmp_path, MARKS, "007\n008\n007\n", "volumes.txt")


def test_endings_in_capitals_are_read_as_the_others(tmp_path: Path) -> None:
    (tmp_path / "MARKS.CSV.GZ").write_bytes(gzip.compress(MARKS.encode()))
    (tmp_path / "VOLUMES.CSV").write_text("volume_id\n009\n008\n007\n")
    read = read_annotations(tmp_path / "MARKS.CSV.GZ", tmp_path / "VOLUMES.CSV")
    assert read.volume_ids == ("009", "008", "007")
    assert read.marks == annotations(tmp_path).marks
    assert len(read_marks(tmp_path / "MARKS.CSV.GZ").marks) == len(read.marks)


def test_patients_are_those_of_the_tables_then_deeplesions_then_the_volumes(tmp_path: Path) -> None:
    plain = annotations(tmp_path)
    assert (plain.patients_from, plain.num_patients) == ("volume_id: each volume its own patient", 2)
    own = MARKS.replace("y2\n", "y2,patient_id\n").replace("30,30\n", "30,30,p\n").replace("20,20\n", "20,20,p\n")
    assert annotations(tmp_path, own).num_patients == 1
    assert annotations(tmp_path, own).patients_from == "patient_id of the marks"
    listed = annotations(tmp_path, MARKS, "volume_id,patient_id\n007,p\n008,q\n009,p\n")
    assert listed.patients_from == "patient_id of the list of volumes"
    assert listed.patients.tolist() == [0, 1, 0]
    ours = MARKS.replace("007", "000046_03_02_086-104").replace("008", "000046_01_01_001-020")
    assert annotations(tmp_path, ours).num_patients == 1
    with pytest.raises(LabelError, match="1 volumes without a mark have no patient: 009"):
        annotations(tmp_path, own, "007\n008\n009\n", "volumes.txt")
    with pytest.raises(LabelError, match="volume 007 has two patients, q and p"):
        annotations(tmp_path, own, "volume_id,patient_id\n007,q\n008,p\n")


def test_the_spacing_may_come_with_the_volumes(tmp_path: Path) -> None:
    listed = "volume_id,spacing_x_mm,spacing_y_mm\n008,0.5,0.5\n007,2,2\n"
    assert annotations(tmp_path, MARKS, listed).marks["spacing_x_mm"].to_pylist() == [2, 0.5]


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (MARKS.splitlines()[0] + "\n", "has no marks"),
        (MARKS + "007,3,40,10,30,30\n", "x2 < x1 in 1 row: row 3"),
        (MARKS.replace(",z,", ",slice,"), "no column z among"),
    ],
)
def test_marks_at_fault_are_refused(tmp_path: Path, marks: str, message: str) -> None:
    with pytest.raises(LabelError, match=rf"marks\.csv: .*{message}"):
        annotations(tmp_path, marks)
