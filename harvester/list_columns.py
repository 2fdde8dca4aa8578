"""Columns of lists as numpy sees them: a tubelet's boxes, a label's slices, without an object per value."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.geometry import Array
from harvester.records import Column


@dataclass(frozen=True)
class Lists:
    """A column of lists as numpy sees it: all values one after the other, where each list starts, how long it is."""

    values: Array
    starts: Array
    lengths: Array

    @classmethod
    def of(cls, column: Column) -> "Lists":
        """Of a column without nulls."""
        lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
        return cls(pc.list_flatten(column).to_numpy(), np.cumsum(lengths) - lengths, lengths)

    def map(self, values: Array) -> "pa.ListArray[Any]":
        """Other numbers in the same lists."""
        return lists(values, self.lengths, pa.float64())

    def each(self, numbers: Array) -> Array:
        """A number of each list for each of its values."""
        return np.repeat(numbers, self.lengths)

    def first(self) -> Array:
        """(n,) of each list its first value; 0 of an empty one."""
        padded = np.append(self.values, np.zeros(1, self.values.dtype))
        return np.where(self.lengths > 0, padded[np.minimum(self.starts, len(self.values))], 0)


def lists(flat: Array, lengths: Array, kind: pa.DataType) -> "pa.ListArray[Any]":
    """A column of lists of these lengths."""
    ends: Any = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    made: pa.ListArray[Any] = pa.ListArray.from_arrays(ends, pa.array(flat, kind))
    return made


def one_each(column: Column) -> "pa.ListArray[Any]":
    """A column's values as lists of one."""
    return lists(column.to_numpy(), np.ones(len(column), np.int64), column.type)
