"""What names a table: a hash of its columns, without an object per value."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def table_hash(table: pa.Table) -> str:
    """Names a table's content, however its rows are chunked."""
    digest = hashlib.sha256(str([(field.name, str(field.type)) for field in table.schema]).encode())
    for column in table.columns:
        _add(digest, column)
    return digest.hexdigest()[:12]


def _add(digest: Any, column: Any) -> None:
    """A column's values to a digest: which are null, how long texts and lists are, then their bytes."""
    kind = column.type
    digest.update(np.packbits(column.is_null().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_list(kind):
        digest.update(pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64).tobytes())
        _add(digest, pc.list_flatten(column))
    elif pa.types.is_string(kind):
        texts: Any = pc.fill_null(column, "")
        digest.update(pc.binary_length(texts).to_numpy().astype(np.int64).tobytes())
        for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
            ends: Any
            _, ends, data = chunk.buffers()
            if len(chunk) and data:
                places = np.frombuffer(ends, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
                digest.update(memoryview(data)[places[0] : places[-1]])
    elif not pa.types.is_null(kind):
        numbers: Any = pc.fill_null(column.cast(pa.int8()) if pa.types.is_boolean(kind) else column, 0)
        digest.update(np.ascontiguousarray(numbers.to_numpy()).tobytes())
