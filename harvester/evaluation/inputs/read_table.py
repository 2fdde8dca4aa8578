"""Tables that people bring: Parquet or CSV, read with the columns that are needed, as numpy's numbers and strings."""

import importlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harvester.errors import LabelError
from harvester.evaluation.inputs.validate import NAMED
from harvester.labels.deeplesion.volume_ids import plain_id
from harvester.records import only_data

# pyarrow imports pandas, where there is one, at its first conversion: a quarter of a second that belongs here,
# with the other imports, and not into the time of the first table.
with suppress(ImportError):
    importlib.import_module("pandas")

Array = NDArray[Any]
TEXT: Final = ("volume_id", "patient_id", "mark_id", "lesion_id", "kind")
"""Columns of a CSV that are read as text even where they look like numbers: 007 stays 007."""


def read_table(file: Path) -> pa.Table:
    """The table in a .parquet or .csv (.csv.gz) file; volume_id may come dictionary-encoded, its ids as plain_id.

    Raises LabelError where the file is missing, empty, of another kind or cannot be parsed.
    """
    try:
        if file.stat().st_size == 0:
            raise LabelError(f"{file.name}: the file is empty; want a table with a row a detection or a mark")
        return _with_plain_ids(_parse(file))
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise LabelError(f"{file.name}: cannot be read ({reason})") from None


def _parse(file: Path) -> pa.Table:
    kind = file.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "parquet":
        # One thread and no dataset machinery: the files are small, the machine may be shared.
        return only_data(pq.ParquetFile(file, read_dictionary=["volume_id"]).read(use_threads=False))
    if kind == "csv":
        options = pacsv.ConvertOptions(column_types=dict.fromkeys(TEXT, pa.string()))
        return pacsv.read_csv(file, pacsv.ReadOptions(use_threads=False), convert_options=options)
    raise LabelError(f"{file.name}: want a .parquet or .csv file")


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
    array = column.unify_dictionaries().combine_chunks()
    told = array.dictionary.to_pylist()
    plain = [None if name is None else plain_id(name) for name in told]
    if plain == told:
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


def floats(column: pa.ChunkedArray, name: str, file: Path) -> Array:
    """(n,) numbers of a column, nulls as nan; float32 stays float32. Raises LabelError where it holds none."""
    kind = column.type
    if pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    if not pa.types.is_floating(column.type):
        raise LabelError(f"{file.name}: column {name} holds {kind}; want numbers")
    values: Array = column.to_numpy()  # nulls of a floating column come as nan
    return values


def integers(column: pa.ChunkedArray, name: str, file: Path) -> Array:
    """(n,) int64 counts from 0 of a column of whole numbers. Raises LabelError for fractions, nulls and negatives."""
    if pa.types.is_integer(column.type) and not column.null_count:
        values = column.to_numpy()
    else:
        values = floats(column, name, file)
    wrong = np.flatnonzero(~((values >= 0) & (values < 2**31) & (values == np.floor(values))))
    if len(wrong):
        told = ", ".join(f"{values[row]} (row {row + 1})" for row in wrong[:NAMED])
        raise LabelError(
            f"{file.name}: column {name} has {len(wrong)} values that are no slice from 0: {told}"
        )
    return values.astype(np.int64)


def ids(column: pa.ChunkedArray, name: str, file: Path) -> pa.DictionaryArray:
    """The column as one dictionary array of strings. Raises LabelError for nulls."""
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise LabelError(f"{file.name}: {column.null_count} rows have no {name}, the first is row {row + 1}")
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    if pa.types.is_string(array.dictionary.type):
        return array
    return pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.string()))
