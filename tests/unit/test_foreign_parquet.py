"""Parquet of anybody: no more room is made than memory is given."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harvester import foreign_parquet
from harvester.errors import LabelError
from harvester.evaluation.inputs.read_table import read_table
from harvester.labels.deeplesion.mark_tables import read_marks
from tests.builders import mark, marks


def test_no_room_is_made_for_a_table_of_more_values_than_memory_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of a constant take no room in a file: what counts is what they become, in lists too."""
    table = marks(mark("a", (1, 2, 3, 4)), mark("b", (1, 2, 3, 4)))
    pq.write_table(table, tmp_path / "marks.parquet")
    pq.write_table(pa.table({"volume_id": ["a"], "z": [list(range(20))]}), tmp_path / "lists.parquet")
    monkeypatch.setattr(foreign_parquet, "MOST_VALUES", 2 * len(table.schema))
    assert read_table(tmp_path / "marks.parquet").num_rows == len(read_marks(tmp_path / "marks.parquet").marks) == 2
    with pytest.raises(LabelError, match=r"lists.parquet: claims 21 values, want at most 18; split the table"):
        read_table(tmp_path / "lists.parquet")
    monkeypatch.setattr(foreign_parquet, "MOST_VALUES", 2 * len(table.schema) - 1)
    for read in (read_table, read_marks):
        with pytest.raises(LabelError, match="claims 18 values"):
            read(tmp_path / "marks.parquet")
