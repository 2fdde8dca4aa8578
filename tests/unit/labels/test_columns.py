"""Columns that would be passed over without a word."""

import pytest

from harvester.errors import LabelError
from harvester.labels.columns import refuse_columns

ALLOWED = ("file", "z", "x1", "clinical", "complete")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["file", "z", "x1", "clincal"], "no such column: clincal, did you mean clinical? Allowed: file, z, x1, "),
        (["file", "completed"], "did you mean complete?"),
        (["file", "Clinical"], "did you mean clinical?"),
        (["file", "remarks"], "no such column: remarks; Allowed: file, z"),
        (["file", "x1", "x1"], "two columns are called x1; keep one"),
    ],
)
def test_a_misspelt_or_doubled_column_is_named_with_what_is_allowed(names: list[str], said: str) -> None:
    with pytest.raises(LabelError, match=r"^marks.csv: ") as caught:
        refuse_columns("marks.csv", names, ALLOWED)
    assert said in str(caught.value)


def test_columns_without_a_name_and_those_that_are_allowed_are_taken() -> None:
    refuse_columns("marks.csv", ["file", "z", "", ""], ALLOWED)
    refuse_columns("marks.csv", [], ALLOWED)


def test_a_program_s_table_may_have_more_but_no_slip_and_nothing_twice() -> None:
    refuse_columns("marks.parquet", ["file", "z", "mark_id", "z_mm", "clinical"], ALLOWED, others=True)
    for names in (["file", "clincal"], ["mark_id", "mark_id"]):
        with pytest.raises(LabelError):
            refuse_columns("marks.parquet", names, ALLOWED, others=True)
