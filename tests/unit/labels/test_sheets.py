"""Tables as spreadsheets write them come out alike, row by row and by pyarrow."""

import gzip
from pathlib import Path

import pytest

from harvester.errors import LabelError
from harvester.labels.sheets import read_arrow, read_sheet

KNOWN = ("file", "z", "x1", "kind")
WRITTEN = {
    "plain": "file,z,x1,kind\na.nii,4,16.5,node\n",
    "German Excel": "file;z;x1;kind\r\na.nii;4;16,5;node\r\n",
    "tabs": "file\tz\tx1\tkind\na.nii\t4\t16,5\tnode\n",
    "semicolons with points": "file;z;x1;kind\na.nii;4;16.5;node\n",
    "blank rows and columns": "file,z,x1,kind,,\n,,,,,\na.nii,4,16.5,node,,\n,,,,,\n\n",
    "sep=": "sep=,\r\nfile,z,x1,kind\r\na.nii,4,16.5,node\r\n",
    "sep=;": "sep=;\r\nfile;z;x1;kind\r\na.nii;4;16,5;node\r\n",
    "capitals and blanks": "File, Z , X1,KIND\na.nii,4,16.5,node\n",
    "a byte order mark": "\ufefffile,z,x1,kind\na.nii,4,16.5,node\n",
    "pandas": "file,z,x1,kind\na.nii,4.0,16.5,node\n",
}


@pytest.fixture(params=[*WRITTEN, "UTF-16"])
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    text = WRITTEN.get(request.param, WRITTEN["tabs"])
    path = tmp_path / "marks.csv"
    path.write_bytes(text.encode("utf-8" if request.param in WRITTEN else "utf-16"))
    return path


def test_rows_come_out_alike(file: Path) -> None:
    names, rows = read_sheet(file, KNOWN)
    assert [name for name in names if name] == list(KNOWN)
    ((_, row),) = rows
    assert (row["file"], float(row["z"]), float(row["x1"]), row["kind"]) == ("a.nii", 4.0, 16.5, "node")


def test_so_do_large_tables(file: Path) -> None:
    table = read_arrow(file, KNOWN, ("file", "kind"))
    assert table.column_names == list(KNOWN)
    ((name, z, x1, kind),) = zip(*(table[each].to_pylist() for each in KNOWN), strict=True)
    assert (name, float(z), float(x1), kind) == ("a.nii", 4.0, 16.5, "node")


def test_packed_tables_are_read(tmp_path: Path) -> None:
    file = tmp_path / "marks.csv.GZ"
    file.write_bytes(gzip.compress(WRITTEN["German Excel"].encode()))
    assert read_arrow(file, KNOWN, ("file",))["x1"].to_pylist() == [16.5]


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "marks.csv"
    file.write_text("sep=;\nfile;z\n\na;1\n;\nb;2\n")
    assert read_sheet(file, KNOWN)[1] == [(4, {"file": "a", "z": "1"}), (6, {"file": "b", "z": "2"})]


def test_too_many_or_too_few_cells_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "marks.csv"
    file.write_text("file,z\na,1,5\nb\n")
    assert read_sheet(file, KNOWN)[1] == [(2, {"file": "a", "z": "1", "": "5"}), (3, {"file": "b"})]


def test_a_decimal_comma_may_be_something_else(tmp_path: Path) -> None:
    file = tmp_path / "info.csv"
    file.write_text("file;z\n1,5;2,5\n")
    assert read_sheet(file, KNOWN, decimal_comma=False)[1] == [(2, {"file": "1,5", "z": "2,5"})]


@pytest.mark.parametrize("content", [b"file,z\n\xe4,1\n", b"\xff\xfef"])
def test_what_is_no_text_is_said(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "marks.csv"
    file.write_bytes(content)
    with pytest.raises(LabelError, match="save it as CSV in UTF-8"):
        read_sheet(file, KNOWN)
    with pytest.raises(LabelError, match=r"cannot be read \(No such file"):
        read_sheet(tmp_path / "gone.csv", KNOWN)


def test_an_empty_file_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "marks.csv").write_text("")
    assert read_sheet(tmp_path / "marks.csv", KNOWN) == ((), [])
