"""Tables as types: what is checked where one is made or read."""

import math

import pyarrow as pa
import pytest

from harvester.errors import StoreError
from harvester.records import SCHEMAS, LedgerTable, MarkTable, Role, ScoredTable, checked, empty, rows_where
from tests.builders import label, labels, mark, marks, scored, tubelet


def test_a_table_of_a_kind_passes_with_more_columns_and_is_the_same() -> None:
    table = marks(mark("a", (1, 2, 3, 4)))
    assert checked(MarkTable, table) is table
    assert checked(MarkTable, table.append_column("note", pa.array(["x"]))).schema.names[-1] == "note"


def test_a_table_of_another_kind_is_refused_by_its_columns_and_its_source() -> None:
    other = marks(mark("a", (1, 2, 3, 4))).drop_columns(["kind"])
    wrong = other.set_column(2, "z", pa.array([1.5]))
    with pytest.raises(StoreError, match=r"^x/marks is no MarkTable: z \(double, want int32\), kind \(missing, .*"):
        checked(MarkTable, wrong, "x/marks")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", ["lpc_score", "width_mm", "slice_score", "x2"])
def test_a_table_with_a_number_that_is_none_is_refused(column: str, value: float) -> None:
    rows = [tubelet(name, (1, 2, 3, 4)) for name in "ab"]
    rows[1][column] = [value] * 3 if isinstance(rows[1][column], list) else value
    with pytest.raises(StoreError, match=rf"^s is no ScoredTable: {column} \(NaN or infinity\); make it again"):
        checked(ScoredTable, scored(*rows), "s")
    unknown = labels(label("a", (0, 0, 1, 1), "lesion", score=None))
    assert len(checked(LedgerTable, unknown)) == 1


def test_every_kind_has_its_empty_table() -> None:
    for kind, schema in SCHEMAS.items():
        assert empty(kind).schema.equals(schema)


def test_rows_where_a_column_has_one_of_the_values() -> None:
    ledger = labels(*(label("a", (0, 0, 1, 1), role) for role in ("lesion", "ignored", "lesion", "hard_negative")))
    assert len(rows_where(ledger, "role", Role.LESION)) == 2
    assert rows_where(ledger, "role", Role.IGNORED, Role.HARD_NEGATIVE)["role"].to_pylist() == [
        "ignored",
        "hard_negative",
    ]
    assert len(rows_where(ledger, "role")) == len(rows_where(empty(LedgerTable), "role", "lesion")) == 0
    nothing_known = labels(label("a", (0, 0, 1, 1), "lesion", run_id=None))
    assert len(rows_where(nothing_known, "run_id", "r")) == 0
