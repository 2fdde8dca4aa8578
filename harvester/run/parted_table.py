"""A step's table as its workers published it: in parts, which pandas, DuckDB and Ray read as one.

    SELECT count(*) FROM 'RUN/round-0/scored-*.partials/*.parquet'

Parts hold some volumes each, in their order (partials.py). Who needs all rows at once asks for the whole.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import pyarrow as pa
import pyarrow.compute as pc

from harvester.records import SCHEMAS, Kind, checked
from harvester.run.partials import Partials


@dataclass(frozen=True)
class PartedTable(Generic[Kind]):
    """The published parts of a step. Small: it travels to every worker.

    kind    of the table: TubeletTable, ScoredTable
    """

    partials: Partials
    kind: Callable[[pa.Table], Kind]

    def each(self, names: Sequence[str] | None = None) -> Iterator[Kind]:
        """Parts in turn; all, where none are named. A damaged one is unpublished and a StepError."""
        wanted = self.partials.names() if names is None else names
        for table in self.partials.tables(wanted, SCHEMAS[self.kind]):
            yield checked(self.kind, table, self.partials.folder)

    def of(self, names: Sequence[str]) -> Kind:
        """Some parts as one table, in their order."""
        tables: list[Any] = [SCHEMAS[self.kind].empty_table(), *self.each(names)]
        return self.kind(pa.concat_tables(tables))

    def of_volumes(self, volume_ids: "pa.Array[Any]", names: Sequence[str]) -> Kind:
        """Rows of some volumes, all of which are in these parts; no more is held than one part besides."""
        parts: Iterator[Any] = self.each(names)
        kept = [part.filter(pc.is_in(part["volume_id"], volume_ids)) for part in parts]
        return self.kind(pa.concat_tables([SCHEMAS[self.kind].empty_table(), *kept]).combine_chunks())

    def whole(self) -> Kind:
        """All of it, one chunk per column."""
        tables: list[Any] = [SCHEMAS[self.kind].empty_table(), *self.each()]
        return self.kind(pa.concat_tables(tables).combine_chunks())
