"""A large table as a folder of Parquet files under the name of one: pandas, DuckDB and Ray read either as one table.

pandas.read_parquet("harvest.parquet")
duckdb: SELECT * FROM 'harvest.parquet/*.parquet'
ray.data.read_parquet("harvest.parquet")
"""

from typing import Final

import pyarrow as pa

from harvester.storage.location import Location

ROWS_OF_A_FILE: Final = 1_000_000
"""A table of more rows is a folder: some 100 MB a file, which a worker reads at once."""

ROWS_AT_ONCE: Final = 1 << 14
"""A row group: as much is encoded, and read, at a time."""


def write_table(table: pa.Table, where: Location, rows_of_a_file: int = ROWS_OF_A_FILE) -> None:
    """The table as the file `where`, or, if it is longer, as files of so many rows in a folder of that name.

    What lay there before goes. A file appears whole or not at all; a folder does not: what tells that it is finished
    (a summary) is written after it.
    """
    parts = {
        f"part-{number:05d}.parquet": table.slice(start, rows_of_a_file)
        for number, start in enumerate(range(0, len(table), rows_of_a_file))
    }
    if len(parts) <= 1:
        if not where.is_file():
            where.delete_folder()
        where.write_table(table, row_group_size=ROWS_AT_ONCE)
        return
    if where.is_file():
        where.delete()
    for name, part in parts.items():
        (where / name).write_table(part, row_group_size=ROWS_AT_ONCE)
    for name in set(where.files()) - parts.keys():
        (where / name).delete()


def is_table(where: Location) -> bool:
    """Whether there is a table, as a file or as a folder of files. `Location.read_table` reads both."""
    return where.is_file() or any(name.endswith(".parquet") for name in where.files())
