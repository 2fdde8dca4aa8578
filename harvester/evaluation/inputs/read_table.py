"""Tables that people bring: Parquet or CSV, read with the columns that are needed, as numpy's numbers and strings."""

import importlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import numpy as np
import pyarrow as pa

from harvester.errors import LabelError
from harvester.evaluation.inputs.validate import NAMED
from harvester.evaluation.matching import Integers, numbers
from harvester.foreign_parquet import read_foreign
from harvester.geometry import Array
from harvester.labels.columns import refuse_columns
from harvester.labels.deeplesion.volume_ids import plain_id
from harvester.labels.sheets import read_arrow
from harvester.records import SIDES, Column

# pyarrow imports pandas, where there is one, at its first conversion: a quarter of a second that belongs here,
# with the other imports, and not into the time of the first table.
with suppress(ImportError):
    importlib.import_module("pandas")

Ids: TypeAlias = "pa.DictionaryArray[Any, Any]"
TEXT: Final = ("volume_id", "patient_id", "mark_id", "lesion_id", "kind")
"""Columns of a CSV that are read as text even where they look like numbers: 007 stays 007."""
KNOWN: Final = (*TEXT, "tubelet_id", "z", *SIDES, "z1", "z2", "score", "clinical")
"""By these the separator of a CSV and the case of its header are told."""
OPTIONAL: Final = ("volume_id", "patient_id", "spacing_x_mm", "spacing_y_mm")
"""Columns without which a table is scored otherwise: one that is nearly called so is a slip."""


def read_table(file: Path) -> pa.Table:
    """The table in a .parquet or .csv (.csv.gz) file, or in a run's folder of parts.

    volume_id may come dictionary-encoded, its ids as plain_id.
    Raises LabelError where the file is missing, empty, of another kind or cannot be parsed.
    """
    try:
        if file.stat().st_size == 0 and not file.is_dir():
            raise LabelError(f"{file.name}: the file is empty; want a table with one row per detection or mark")
        table = _parse(file)
        refuse_columns(file.name, table.column_names, OPTIONAL, others=True)
        return _with_plain_ids(table)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise LabelError(f"{file.name}: cannot be read ({reason})") from None


def _parse(file: Path) -> pa.Table:
    kind = file.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "partials" and (parts := sorted(file.glob("*.parquet"))):
        return pa.concat_tables([read_foreign(part) for part in parts])
    if kind == "parquet":
        # One thread and no dataset machinery: the files are small, the machine may be shared.
        return read_foreign(file, read_dictionary=["volume_id"])
    if kind == "csv":
        return read_arrow(file, KNOWN, TEXT)
    raise LabelError(f"{file.name}: want a .parquet or .csv file, or a run's folder round-<k>/scored-*.partials")


def _with_plain_ids(table: pa.Table) -> pa.Table:
    """DeepLesion's volumes have several names: those that a table uses need not be those of the other file."""
    names = table.column_names
    if "volume_id" not in names or not len(table):
        return table
    column = table["volume_id"]
    if pa.types.is_string(column.type):
        column = column.dictionary_encode()
    if not pa.types.is_dictionary(column.type) or not pa.types.is_string(column.type.value_type):
        return table
    array = _one_dictionary(column)
    given = array.dictionary.to_pylist()
    plain = [None if name is None else plain_id(name) for name in given]
    if plain == given:
        return table
    values = pa.array(plain, pa.string()).take(array.indices)
    return table.set_column(names.index("volume_id"), "volume_id", values)


def require(table: pa.Table, wanted: Sequence[str], file: Path, layout: str) -> None:
    """Raise LabelError where a wanted column is missing; `layout` says in words what is wanted."""
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise LabelError(
            f"{file.name}: no column {', '.join(missing)} among {', '.join(table.column_names)}; want {layout}"
        )


def floats(column: Column, name: str, file: Path) -> Array:
    """(n,) numbers of a column, nulls as nan; float32 stays float32. Raises LabelError where it holds none."""
    kind = column.type
    if pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    if not pa.types.is_floating(column.type):
        raise LabelError(f"{file.name}: column {name} holds {kind}; want numbers")
    return numbers(column)  # nulls of a floating column come as nan


def integers(column: Column, name: str, file: Path) -> Integers:
    """(n,) int64 counts from 0 of a column of whole numbers. Raises LabelError for fractions, nulls and negatives."""
    whole = pa.types.is_integer(column.type) and not column.null_count
    values = numbers(column) if whole else floats(column, name, file)
    wrong = np.flatnonzero(~((values >= 0) & (values < 2**31) & (values == np.floor(values))))
    if len(wrong):
        first = ", ".join(f"{values[row]} (row {row + 1})" for row in wrong[:NAMED])
        raise LabelError(f"{file.name}: column {name} has {len(wrong)} values that are no slice from 0: {first}")
    return values.astype(np.int64)


def ids(column: Column, name: str, file: Path) -> Ids:
    """The column as one dictionary array of strings. Raises LabelError for nulls."""
    if column.null_count:
        row = int(np.flatnonzero(numbers(column.is_null()))[0])
        raise LabelError(f"{file.name}: {column.null_count} rows have no {name}, the first is row {row + 1}")
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    array = _one_dictionary(column)
    if pa.types.is_string(array.dictionary.type):
        return array
    return pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.string()))


def names(column: Ids) -> "pa.Array[Any]":
    """The ids themselves, one per row."""
    return column.dictionary.take(column.indices)


def _one_dictionary(column: Column) -> Ids:
    """The chunks of a dictionary-encoded column as one array with one dictionary."""
    return cast(Ids, column.unify_dictionaries().combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
