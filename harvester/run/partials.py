"""A step's volumes in parts: each is published once, whole, with its record, and never done again.

folder/
  <part>.parquet        the rows of its volumes, sorted; all of them together are the step's table
  <part>.json           its record, written after it: what is not recorded is not there
  plan.json             how many volumes there are
  begun-<name>.json     who works on a part now, or on a volume alone (quarantine.py)
"""

import json
import logging
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harvester.config.fingerprint import settings_hash
from harvester.errors import StepError
from harvester.foreign_parquet import only_data
from harvester.run.quarantine import BEGUN
from harvester.storage.location import Location

logger = logging.getLogger(__name__)

Row = dict[str, Any]

PARTS_WANTED: Final = 64
"""Few volumes make parts of one; many make parts of MOST_VOLUMES."""
MOST_VOLUMES: Final = 16
"""A part's loss is the loss of so many volumes' work, and a restart asks for one record per part."""
PLAN: Final = "plan.json"
READERS: Final = 16
"""Threads that read small files: an object store takes its time for each."""
AT_ONCE: Final = 2 * READERS
"""Parts that are read before the next ones are asked for: their bytes wait in memory."""


@dataclass(frozen=True)
class Part:
    """Some of a step's volumes, under a name that says which. rows: each has a volume_id."""

    name: str
    rows: Sequence[Row]


class Rows(Sequence[Row]):
    """Some rows of a table, made when they are asked for: a million of them take no more than the table does."""

    def __init__(self, table: pa.Table, start: int, stop: int) -> None:
        self.table, self.start, self.stop = table, start, min(stop, len(table))

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, at: Any) -> Any:
        return self.table.slice(self.start, len(self)).to_pylist()[at]

    def __iter__(self) -> Iterator[Row]:
        return iter(self[:])


def plan_parts(manifest: pa.Table) -> list[Part]:
    """A table's rows in parts, in the order of their volumes. They depend on the volumes alone, so that other workers
    find the same ones."""
    ordered = manifest.sort_by("volume_id") if len(manifest) else manifest
    size = min(MOST_VOLUMES, max(1, len(ordered) // PARTS_WANTED))
    starts = range(0, len(ordered), size)
    names = (settings_hash(ordered["volume_id"].slice(start, size).to_pylist()) for start in starts)
    return [
        Part(f"{index:06d}-{name}", Rows(ordered, start, start + size))
        for index, (start, name) in enumerate(zip(starts, names, strict=True))
    ]


def to_table(parts: Sequence[Part]) -> pa.Table:
    """Planned parts as rows: name, and rows as a list of structs."""
    rows: list[Any] = [part.rows for part in parts]
    structs = pa.concat_tables([each.table.slice(each.start, len(each)) for each in rows]).to_struct_array()
    ends = pa.array(np.cumsum([0, *map(len, rows)]), pa.int32())
    return pa.table(
        {"name": [part.name for part in parts], "rows": pa.ListArray.from_arrays(ends, structs.combine_chunks())}
    )


def from_table(table: pa.Table) -> list[Part]:
    """The parts of to_table."""
    return [Part(**row) for row in table.to_pylist()]


def parts_with(manifest: pa.Table, volume_ids: "pa.Array[Any]") -> list[str]:
    """Names of the parts of a manifest (plan_parts) that hold any of these volumes, in their order."""
    parts = plan_parts(manifest.select(["volume_id"]))  # they are named by it alone
    if not parts:
        return []
    at = pc.index_in(manifest["volume_id"].combine_chunks().sort(), volume_ids).to_numpy(zero_copy_only=False)
    found = np.unique(np.flatnonzero(np.isfinite(at.astype(float))) // len(parts[0].rows))
    return [parts[index].name for index in found]


@dataclass(frozen=True)
class Partials:
    """The published parts of one step in its folder. Small: it travels to every worker."""

    folder: Location

    def plan(self, parts: Sequence[Part]) -> None:
        """Write down how much there is to do."""
        volumes = sum(len(part.rows) for part in parts)
        plan = {"parts": len(parts), "volumes": volumes, "at": time.time()}
        (self.folder / PLAN).write_bytes(json.dumps(plan).encode())

    def planned(self) -> Row:
        """How many volumes the step has, and when it was last begun (time.time()); zeros before it is planned."""
        return (self.folder / PLAN).read_json(volumes=int, at=Real) or {"volumes": 0, "at": 0.0}

    def names(self) -> list[str]:
        """Of the published parts, in the order of their volumes."""
        return sorted(name.removesuffix(".json") for name in self.folder.files() if _is_record(name))

    def done(self) -> set[str]:
        """Names of the published parts."""
        return set(self.published())

    def published(self) -> dict[str, Row]:
        """The records of all published parts, by name; a damaged one is none."""
        names = self.names()
        return {name: record for name, record in zip(names, self.records(names), strict=True) if record}

    def record(self, name: str) -> Row | None:
        """A part's record (`publish`'s note, bytes, crc32, when), or None where it is not published or damaged."""
        return (self.folder / f"{name}.json").read_json(crc32=int, published=int, ended=Real)

    def publish(self, name: str, table: pa.Table, note: Row) -> Row:
        """The rows, then the record. Gives the record. Raises OSError; then nothing is published."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        data = sink.getvalue().to_pybytes()
        published = 1 + (earlier["published"] if (earlier := self.record(name)) else 0)
        record = note | {"bytes": len(data), "crc32": zlib.crc32(data), "published": published, "ended": time.time()}
        (self.folder / f"{name}.parquet").write_bytes(data)
        (self.folder / f"{name}.json").write_bytes(json.dumps(record).encode())
        return record

    def records(self, names: Sequence[str]) -> list[Row]:
        """The records of these parts, {} for one that is not published."""
        with ThreadPoolExecutor(READERS) as pool:
            return [record or {} for record in pool.map(self.record, names)]

    def errors(self) -> dict[str, str]:
        """Why each of the volumes that a published part leaves out was left out, by id."""
        records = self.published().values()
        return {volume: str(why) for record in records for volume, why in record.get("errors", {}).items()}

    def tables(self, names: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows of published parts, in turn. A damaged one is unpublished and a StepError."""
        with ThreadPoolExecutor(READERS) as pool:
            some = [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]
            read = (each for group in some for each in pool.map(self._published, group))
            for name, (record, data) in zip(names, read, strict=True):
                if record is None or zlib.crc32(data) != record["crc32"]:
                    self.withdraw([name])
                    raise StepError(
                        f"{self.folder}: part {name} is damaged; start the harvest again: it alone is made anew"
                    )
                yield only_data(pq.read_table(pa.BufferReader(data))).cast(schema)

    def _published(self, name: str) -> tuple[Row | None, bytes]:
        try:
            return self.record(name), (self.folder / f"{name}.parquet").read_bytes()
        except FileNotFoundError:
            return None, b""

    def withdraw_without_rows(self) -> None:
        """Unpublish the parts whose rows are gone."""
        files = set(self.folder.files())
        self.withdraw(name for name in self.names() if f"{name}.parquet" not in files)

    def withdraw(self, names: Iterable[str]) -> None:
        """Unpublish parts: the next start makes them anew."""
        for name in names:
            (self.folder / f"{name}.json").delete()


def _is_record(name: str) -> bool:
    return name.endswith(".json") and name != PLAN and not name.startswith((BEGUN, "."))
