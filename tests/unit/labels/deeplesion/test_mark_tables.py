"""Full annotation as a table: the same marks as from a pickle, and a wrong row is named."""

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from harvester.errors import LabelError
from harvester.labels.deeplesion.mark_tables import read_marks
from harvester.records import MARKS

VOLUME, EMPTY = "000001_01_01_003-040", "000002_01_01_001-009"
ROWS = [
    {"volume_id": f"{VOLUME}.annot", "z": 6, "x1": 1.0, "y1": 2.0, "x2": 5.5, "y2": 6.0},
    {"volume_id": "000001_01_01-003-040", "z": 7, "x1": 1.0, "y1": 2.0, "x2": 5.0, "y2": 6.0},
    {"volume_id": EMPTY, "z": None, "x1": None, "y1": None, "x2": None, "y2": None},
]


def write(folder: Path, kind: str, rows: list[dict[str, object]]) -> Path:
    file, table = folder / f"marks.{kind}", pa.Table.from_pylist(rows)
    if kind == "parquet":
        pq.write_table(table, file)
    else:
        pacsv.write_csv(table, file)
    return file


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_says_what_a_pickle_says(tmp_path: Path, kind: str) -> None:
    table = read_marks(write(tmp_path, kind, ROWS))
    tree = {VOLUME: {6: [[1.0, 2.0, 5.5, 6.0, 6, 6]], 7: [[1.0, 2.0, 5.0, 6.0, 7, 7]]}, f"{EMPTY}.annot": {}}
    (tmp_path / "marks.pkl").write_bytes(pickle.dumps(tree))
    pickled = read_marks(tmp_path / "marks.pkl")
    assert table.volume_ids == pickled.volume_ids == (VOLUME, EMPTY)
    assert table.marks.schema == MARKS
    assert table.marks.drop(["mark_id"]).equals(pickled.marks.drop(["mark_id"]))
    assert not table.knows_clinical and not pickled.knows_clinical
    assert len(set(table.marks["mark_id"].to_pylist())) == 2


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_clinical_and_kind_are_kept(tmp_path: Path, kind: str) -> None:
    rows = [ROWS[0] | {"clinical": 1, "kind": "liver"}, ROWS[1] | {"clinical": 0, "kind": None}]
    table = read_marks(write(tmp_path, kind, rows))
    assert table.knows_clinical
    assert table.marks["clinical"].to_pylist() == [True, False]
    assert table.marks["kind"].to_pylist() == ["liver", ""]


WRONG = {
    "no box": ({"x2": None}, "row 1: want a slice"),
    "a fraction of a slice": ({"z": 6.5}, "row 1: want a slice"),
    "before the first slice": ({"z": -1}, "row 1: want a slice"),
    "not finite": ({"y2": float("inf")}, "row 1: want a slice"),
    "out of order": ({"x1": 9.0}, "row 1: box ends out of order"),
    "no volume": ({"volume_id": ""}, "row 1 has no volume_id"),
    "no truth": ({"clinical": "perhaps"}, "row 1: clinical"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_named(tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    with pytest.raises(LabelError, match=message):
        read_marks(write(tmp_path, "parquet", [ROWS[0] | change]))


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"junk")
    (tmp_path / "b.csv").write_text("volume_id,z\na,1\n")
    (tmp_path / "c.txt").write_text("hello")
    for name, message in (("a.parquet", "is no table"), ("b.csv", "lacks the columns x1"), ("c.txt", "want a .pkl"),
                          ("d.csv", "cannot be read")):  # fmt: skip
        with pytest.raises(LabelError, match=message):
            read_marks(tmp_path / name)
