"""A step's volumes in shards: each is published once, whole, with its record, and never done again.

folder/
  <shard>.parquet       the rows of its volumes
  <shard>.json          its record, written after it: what is not recorded is not there
  plan.json             how many volumes there are
  begun-<volume>.json   who works on this volume, and what became of those that did and had no other
"""

import json
import logging
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.config.loading import settings_hash
from harvester.errors import StepError
from harvester.records import only_data
from harvester.storage.location import Location

logger = logging.getLogger(__name__)

Row = dict[str, Any]

SHARDS_WANTED: Final = 64
"""Few volumes make shards of one; many make shards of MOST_VOLUMES."""
MOST_VOLUMES: Final = 16
"""A shard's loss is the loss of so many volumes' work, and a restart asks for one record a shard."""
PLAN: Final = "plan.json"
MARK: Final = "begun-"
READERS: Final = 16
"""Threads that read small files: an object store takes its time for each."""
AT_ONCE: Final = 2 * READERS
"""Shards that are read before the next ones are asked for: their bytes wait in memory."""
DEATHS: Final = 2
"""Of workers that had one volume alone: then it is the volume's doing, and it is left out."""
SHARED_DEATH: Final = 0.25
"""What a worker's death counts that died with its node or its driver: preemptions and restarts do that too, but so
does a volume that takes its machine along."""


@dataclass(frozen=True)
class Shard:
    """Some of a step's volumes, under a name that says which."""

    name: str
    rows: list[Row]


def planned(rows: Sequence[Mapping[str, Any]]) -> list[Shard]:
    """The manifest's rows in shards. They depend on the volumes alone, so that other workers find the same ones."""
    size = min(MOST_VOLUMES, max(1, len(rows) // SHARDS_WANTED))
    parts = [[dict(row) for row in rows[start : start + size]] for start in range(0, len(rows), size)]
    return [
        Shard(f"{index:06d}-{settings_hash([row['volume_id'] for row in part])}", part)
        for index, part in enumerate(parts)
    ]


@dataclass(frozen=True)
class Worker:
    """Who works on a volume: the names of its driver (one a start) and of its node."""

    driver: str
    node: str


@dataclass(frozen=True)
class Shards:
    """The published shards of one step in its folder. Small: it travels to every worker."""

    folder: Location

    def plan(self, shards: Sequence[Shard]) -> None:
        """Write down how much there is to do."""
        volumes = sum(len(shard.rows) for shard in shards)
        told = {"shards": len(shards), "volumes": volumes, "at": time.time()}
        (self.folder / PLAN).write_bytes(json.dumps(told).encode())

    def volumes(self) -> int:
        """How many volumes the step has; 0 before it is planned."""
        return int(self._plan().get("volumes", 0))

    def planned_at(self) -> float:
        """When it was last begun, as time.time() has it; 0 before it is planned."""
        return float(self._plan().get("at", 0.0))

    def _plan(self) -> Row:
        file = self.folder / PLAN
        return json.loads(file.read_bytes()) if file.is_file() else {}

    def done(self) -> set[str]:
        """Names of the recorded shards."""
        return {name.removesuffix(".json") for name in self.folder.files() if _is_record(name)}

    def record(self, name: str) -> Row | None:
        """A shard's record (what `publish` was told, bytes, crc32, when), or None where it is not published."""
        file = self.folder / f"{name}.json"
        return json.loads(file.read_bytes()) if file.is_file() else None

    def publish(self, name: str, table: pa.Table, told: Row) -> Row:
        """The rows, then the record. Gives the record. Raises OSError; then nothing is published."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        data = sink.getvalue().to_pybytes()
        earlier = self.record(name)
        published = earlier["published"] + 1 if earlier else 1
        record = told | {
            "bytes": len(data),
            "crc32": zlib.crc32(data),
            "published": published,
            "ended": time.time(),
        }
        (self.folder / f"{name}.parquet").write_bytes(data)
        (self.folder / f"{name}.json").write_bytes(json.dumps(record).encode())
        return record

    def records(self, names: Sequence[str]) -> list[Row]:
        """The records of these shards, {} for one that is not published."""
        with ThreadPoolExecutor(READERS) as pool:
            return [record or {} for record in pool.map(self.record, names)]

    def tables(self, names: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows of published shards, in turn. A damaged one is unpublished and a StepError."""
        with ThreadPoolExecutor(READERS) as pool:
            some = [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]
            read = (each for part in some for each in pool.map(self._published, part))
            for name, (record, data) in zip(names, read, strict=True):
                if record is None or zlib.crc32(data) != record["crc32"]:
                    self.withdraw([name])
                    raise StepError(
                        f"{self.folder}: shard {name} is damaged; start the same command again: it alone is made anew"
                    )
                yield only_data(pq.read_table(pa.BufferReader(data))).cast(schema)

    def _published(self, name: str) -> tuple[Row | None, bytes]:
        return self.record(name), self._bytes(name)

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.folder / f"{name}.parquet").read_bytes()
        except FileNotFoundError:
            return b""

    def withdraw(self, names: Iterable[str]) -> None:
        """Unpublish shards: the next start makes them anew."""
        for name in names:
            (self.folder / f"{name}.json").delete()

    def suspects(self, rows: Iterable[Mapping[str, Any]]) -> set[str]:
        """The volumes of these rows that a worker began and did not come back from."""
        marks = {name for name in self.folder.files() if name.startswith(MARK)}
        return {row["volume_id"] for row in rows if self._begun(row["volume_id"]).name in marks}

    def deaths(self, volume_id: str, driver: str, nodes: Collection[str]) -> float:
        """How many workers that had this volume alone have died.

        driver, nodes: those alive now; a worker that died with its own counts SHARED_DEATH.
        """
        file = self._begun(volume_id)
        told = json.loads(file.read_bytes()) if file.is_file() else {}
        before = float(told.get("deaths", 0.0))
        if not told.get("alone"):
            return before
        own = told.get("driver") == driver and told.get("node") in nodes
        return before + (1.0 if own else SHARED_DEATH)

    def begin(self, volume_id: str, worker: Worker, alone: bool, deaths: float = 0.0) -> None:
        """Write down who begins a volume, whether it has no other, and the deaths before."""
        told = {"driver": worker.driver, "node": worker.node, "alone": alone, "deaths": deaths}
        self._begun(volume_id).write_bytes(json.dumps(told).encode())

    def end(self, volume_id: str) -> None:
        """The worker lives."""
        self._begun(volume_id).delete()

    def _begun(self, volume_id: str) -> Location:
        return self.folder / f"{MARK}{settings_hash(volume_id)}.json"


def _is_record(name: str) -> bool:
    return name.endswith(".json") and name != PLAN and not name.startswith((MARK, "."))
