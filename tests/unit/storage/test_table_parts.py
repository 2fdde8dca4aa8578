from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from harvester.errors import StoreError
from harvester.storage.location import Location
from harvester.storage.table_parts import is_table, write_table

FIVE = pa.table({"number": [0, 1, 2, 3, 4], "boxes": [[1.0], [2.0, 3.0], [], [4.0], [5.0]]})


def test_a_short_table_is_one_file(tmp_path: Path) -> None:
    where = Location.of(tmp_path / "harvest.parquet")
    write_table(FIVE, where, 5)
    assert (tmp_path / "harvest.parquet").is_file()
    assert where.read_table().equals(FIVE)


def test_a_long_one_is_a_folder_that_is_read_as_one(tmp_path: Path) -> None:
    where = Location.of(tmp_path / "harvest.parquet")
    write_table(FIVE, where, 2)
    assert where.files() == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert where.read_table(FIVE.schema).equals(FIVE)
    assert pd.read_parquet(tmp_path / "harvest.parquet")["number"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("before", "after"), [(2, 5), (5, 2), (1, 2), (2, 1)])
def test_what_lay_there_before_goes(tmp_path: Path, before: int, after: int) -> None:
    where = Location.of(tmp_path / "harvest.parquet")
    write_table(FIVE, where, before)
    write_table(FIVE.slice(1), where, after)
    assert where.read_table().equals(FIVE.slice(1))


def test_an_empty_table_is_a_file(tmp_path: Path) -> None:
    where = Location.of(tmp_path / "harvest.parquet")
    write_table(FIVE, where, 2)
    write_table(FIVE.schema.empty_table(), where, 2)
    assert where.read_table().equals(FIVE.schema.empty_table())
    assert where.is_file()


def test_is_table_knows_both_and_neither(tmp_path: Path) -> None:
    where = Location.of(tmp_path / "harvest.parquet")
    assert not is_table(where)
    for rows in (2, 5):
        write_table(FIVE, where, rows)
        assert is_table(where)
    assert not is_table(Location.of(tmp_path / "missing.parquet"))


def test_parts_are_not_touched_where_nothing_may_be_written(tmp_path: Path) -> None:
    where = Location.of(tmp_path / "harvest.parquet")
    write_table(FIVE, where, 2)
    with pytest.raises(StoreError, match="opened for reading alone"):
        write_table(FIVE, Location(where.base, read_only=True), 5)
    assert where.read_table().equals(FIVE)
