"""Parquet that may come from anybody: plain data within bounds, or refused."""

from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.errors import LabelError

MOST_VALUES: Final = 1 << 28
"""Of a table that somebody brings: 2 GiB of numbers."""


def only_data(table: pa.Table) -> pa.Table:
    """The table, which may come from anybody. Raises pa.ArrowInvalid where it holds more than data.

    Ray teaches Arrow a type whose values are pickled Python objects: to look at one runs what it says.
    """
    odd = [field.name for field in table.schema if not _is_data(field.type)]
    if odd:
        raise pa.ArrowInvalid(f"columns {', '.join(odd)} hold objects, which could run code, instead of data")
    return table


def read_foreign(file: Path, **options: Any) -> pa.Table:
    """A Parquet file that may come from anybody; options: pyarrow.parquet.ParquetFile's.

    Raises OSError; pa.ArrowInvalid as only_data does; LabelError past MOST_VALUES, which a small file may claim.
    """
    parquet = pq.ParquetFile(file, **options)
    groups = [parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups)]
    count = sum(group.column(index).num_values for group in groups for index in range(group.num_columns))
    if count > MOST_VALUES:
        raise LabelError(f"{file.name}: claims {count:,} values, want at most {MOST_VALUES:,}; split the table")
    return only_data(parquet.read(use_threads=False))


def _is_data(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return False
    inner = [kind.value_type] if pa.types.is_dictionary(kind) else []
    return all(map(_is_data, [*inner, *(kind.field(i).type for i in range(kind.num_fields))]))
