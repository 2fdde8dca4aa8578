"""Long columns, without an object per value and without a second copy of their table."""

from bisect import bisect_left
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harvester.records import Column


def in_order(table: pa.Table, *columns: str) -> pa.Table:
    """The rows sorted by these columns; of what is copied, two columns are held at a time and never two tables."""
    order = pc.sort_indices(table, [(name, "ascending") for name in columns])
    taken = {name: table[name].combine_chunks().take(order) for name in table.column_names}
    return pa.table(taken, schema=table.schema)


def count_sorted(column: Column) -> int:
    """How many different values a sorted column holds."""
    differs: Any = pc.not_equal(column[1:], column[:-1])
    return min(1, len(column)) + (pc.sum(differs).as_py() or 0)


def place_in(ordered: Column, text: str) -> int | None:
    """Where a text is among sorted ones, None where it is not: a dict of millions takes ten times their memory."""
    place = bisect_left(ordered, text, key=lambda scalar: scalar.as_py())
    return place if place < len(ordered) and ordered[place].as_py() == text else None


def joined(separator: str, *parts: "str | Column") -> "pa.Array[Any]":
    """Texts of some parts each: of columns their values, of any type."""
    texts: list[Any] = [part if isinstance(part, str) else part.cast(pa.string()) for part in parts]
    made: Any = pc.binary_join_element_wise(*texts, separator)
    return made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made
