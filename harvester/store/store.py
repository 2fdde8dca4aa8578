"""The store: volumes decoded once, kept compressed slice by slice, read by slice range without decoding the rest.

store/                        a folder on a disk or in an object store (storage/location.py)
  shards/<name>.shard   volumes, one after another (container.py)
  shards/<name>.json    what harvester prepare made it from, to go on after a stop (shard_plan.py)
  manifest.parquet      one row per volume (records.MANIFEST), and where it lies
  marks.parquet         what the archive knows (records.MARKS)
  truth.parquet         hidden truth of vh_test and vd_test, for scoring alone
  ignore.parquet        regions left out of harvest and scoring (records.IGNORE)
  rejects.parquet       what was refused and why (records.REJECTS)
  splits.csv            of an archive: each patient's split, and whether it was given or drawn
  reviewed.parquet      what people said of exported labels (records.REVIEWED); absent before the first review
  looks/                which runs proved something on V_M (looks.py)
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from harvester.columns import in_order, place_in
from harvester.config.fingerprint import settings_hash
from harvester.errors import StoreError
from harvester.records import (
    IGNORE,
    MANIFEST,
    MARKS,
    REJECTS,
    REVIEWED,
    SCHEMAS,
    IgnoreTable,
    Kind,
    ManifestTable,
    Mark,
    MarkTable,
    RejectTable,
    ReviewedTable,
    Volume,
    each_row,
    empty,
    values,
)
from harvester.storage import location as locations
from harvester.storage.location import Location, cast_to, writing
from harvester.store.container import Span, VolumeHeader, read_header, read_slices

VOLUME_NAME: Final = r"^[0-9A-Za-z_][^/\\\x00-\x1f]*$"
SHARD_NAME: Final = re.compile(r"[A-Za-z0-9_-]+\.shard")
FORMAT: Final = 1
"""Of a store, in its manifest's metadata. Raised by one where a release lays it out so that an older one would read it
wrongly. A store without is older than formats and is read as it is."""
FORMAT_KEY: Final = b"harvester.format"
OF_ITS_VOLUMES: Final = ("marks", "truth", "ignore")
"""Tables that speak of the manifest's volumes alone."""
WHERE_IT_LIES: Final = ("shard", "offset", "bytes", "checksum")
"""Columns of the manifest that say where a volume lies; the same data may lie otherwise."""
SPANS: Final = pa.schema([MANIFEST.field(name) for name in ("volume_id", *WHERE_IT_LIES)])


@dataclass(frozen=True, eq=False)
class Store:
    """A finished store: where it lies, and its volumes (records.MANIFEST). `open` reads one."""

    path: Location
    manifest: ManifestTable

    @classmethod
    def open(cls, where: Location | Path | str) -> "Store":
        """The store in a folder or at a URI, as it is now: this process forgets what it remembers of stores.

        Raises StoreError where there is none.
        """
        path = Location.of(where)
        for cached in (_spans, _header, _read_whole):
            cached.cache_clear()
        locations.forget()
        if not (path / "manifest.parquet").is_file():
            raise StoreError(f"{path}: no manifest.parquet; make a store with harvester prepare")
        return cls(path, _manifest(path))

    def read(self, volume_id: str, z_start: int = 0, z_end: int | None = None) -> Volume:
        """Slices [z_start, z_end) of a volume, decoding only those."""
        return read_volume(self.path, volume_id, z_start, z_end)

    def marks(self) -> MarkTable:
        """What the archive knows (records.MARKS), read once."""
        return self._marks

    @cached_property
    def _marks(self) -> MarkTable:
        return self._read(MarkTable, "marks")

    def truth(self) -> MarkTable:
        """The hidden truth, for scoring alone (records.MARKS); empty where there is none."""
        return self._table(MarkTable, "truth")

    def ignore(self) -> IgnoreTable:
        """Regions left out of harvest and scoring (records.IGNORE)."""
        return self._table(IgnoreTable, "ignore")

    def rejects(self) -> RejectTable:
        """What was refused and why (records.REJECTS)."""
        return self._table(RejectTable, "rejects")

    def reviewed(self) -> ReviewedTable:
        """What people said of labels that were exported (records.REVIEWED); empty before the first review."""
        return self._table(ReviewedTable, "reviewed")

    def data_hash(self) -> str:
        """Names what the store holds: voxels, spacings, splits, marks, regions left out, reviews; not where it lies."""
        here = [name for name in self.manifest.column_names if name not in WHERE_IT_LIES]
        tables = [self.manifest.select(here), self.marks(), self.ignore()]
        # A store that nobody reviewed keeps the name that it had before there were reviews.
        tables += [table for table in (self.reviewed(),) if len(table)]
        return settings_hash(*map(_rows_hash, tables))

    def is_whole(self) -> bool:
        """Whether each shard is there as far as its volumes reach; one may hold others that are in no table."""
        wanted: dict[str, int] = {}
        for shard, *span in zip(*(values(self.manifest[name]) for name in ("shard", "offset", "bytes")), strict=True):
            wanted[shard] = max(sum(span), wanted.get(shard, 0))
        found = (self.path / "shards").sizes()
        return all(found.get(shard, -1) >= size for shard, size in wanted.items())

    def _table(self, kind: Callable[[pa.Table], Kind], name: str) -> Kind:
        """A table of the store, without rows where it has none."""
        return self._read(kind, name) if (self.path / f"{name}.parquet").is_file() else empty(kind)

    def _read(self, kind: Callable[[pa.Table], Kind], name: str) -> Kind:
        file = self.path / f"{name}.parquet"
        table = file.read_table(SCHEMAS[kind])
        if name in OF_ITS_VOLUMES:
            strange = pc.invert(pc.is_in(table["volume_id"], self.manifest["volume_id"].combine_chunks()))
            for volume_id in table["volume_id"].filter(strange)[:1].to_pylist():
                raise StoreError(
                    f"{file}: names volume {volume_id}, which is not in the manifest; make the store again"
                )
        return kind(table)


CACHED_BYTES: Final = 4 << 20
CACHED_VOLUMES: Final = 192
"""Small volumes stay decoded in the process that read them (192 x 4 MiB at most), for training's random reads."""


def read_volume(store: Location, volume_id: str, z_start: int = 0, z_end: int | None = None) -> Volume:
    """Slices [z_start, z_end) of a stored volume, decoding only those; a small volume is decoded whole, once."""
    header = _header(store, volume_id)
    depth, height, width = header.shape_zyx
    z_end = depth if z_end is None else z_end
    if not 0 <= z_start < z_end <= depth:
        raise StoreError(f"volume {volume_id}: slices {z_start} to {z_end} asked of {depth}")
    if depth * height * width * 2 <= CACHED_BYTES:
        whole = _read_whole(store, volume_id)
        return replace(whole, hu_zyx=whole.hu_zyx[z_start:z_end])
    return _read_slices(store, volume_id, z_start, z_end)


def write_reviewed(store: Location, reviewed: ReviewedTable) -> None:
    """Put what people said (records.REVIEWED) into a store, in place of what was there."""
    ordered = reviewed.sort_by([(name, "ascending") for name in ("volume_id", "label_id", "role")])
    with writing(store):
        (store / "reviewed.parquet").write_table(ordered.cast(REVIEWED))


def finish_store(
    store: Location | Path | str,
    manifest_rows: Iterable[Mapping[str, Any]],
    marks: Iterable[Mark],
    truth: Iterable[Mark],
    rejects: Iterable[Mapping[str, Any]] = (),
    ignore: Iterable[Mapping[str, Any]] = (),
) -> Store:
    """Write the tables, the manifest last: a folder without one is not a store yet."""
    tables = {
        "marks": pa.Table.from_pylist([asdict(mark) for mark in marks], MARKS),
        "truth": pa.Table.from_pylist([asdict(mark) for mark in truth], MARKS),
        "ignore": pa.Table.from_pylist(list(ignore), IGNORE),
        "rejects": pa.Table.from_pylist(list(rejects), REJECTS),
        "manifest": pa.Table.from_pylist(sorted(manifest_rows, key=lambda row: row["volume_id"]), MANIFEST),
    }
    tables["manifest"] = tables["manifest"].replace_schema_metadata({FORMAT_KEY: str(FORMAT)})
    folder = Location.of(store)
    with writing(folder):
        (folder / "manifest.parquet").delete()  # tables of two makings are never seen together
        for name, table in tables.items():
            (folder / f"{name}.parquet").write_table(table)
    return Store.open(folder)


def _manifest(path: Location, schema: pa.Schema = MANIFEST) -> ManifestTable:
    """The manifest, or some of its columns, volume_id and shard among them.

    Raises StoreError for another version and for names that lead out, OSError for none.
    """
    file = path / "manifest.parquet"
    written = file.read_table(columns=[name for name in file.column_names() if name in schema.names])
    _require_known_format(path, written)
    try:
        manifest = cast_to(written, schema)
    except pa.ArrowInvalid as error:
        raise StoreError(
            f"{file}: cannot be read as a table ({error}); make it again with harvester prepare"
        ) from error
    named = pc.match_substring_regex(manifest["volume_id"], VOLUME_NAME)
    if not pc.all(named, skip_nulls=False, min_count=0).as_py():
        raise StoreError(
            f"{path}: manifest.parquet holds volume ids that are no file names; want a letter or digit first and no "
            "slash, for exports name files by them"
        )
    if any(not SHARD_NAME.fullmatch(name or "") for name in values(manifest["shard"].unique())):
        raise StoreError(f"{path}: manifest.parquet names shards outside the store; make it again")
    return ManifestTable(manifest)


def _require_known_format(path: Location, manifest: pa.Table) -> None:
    written = (manifest.schema.metadata or {}).get(FORMAT_KEY, b"0")
    if not written.isdigit() or int(written) > FORMAT:
        raise StoreError(
            f"{path}: a store of a newer harvester's format; this one reads formats up to {FORMAT}: use the release "
            "that made it, or make another store with harvester prepare"
        )


@lru_cache(maxsize=4)
def _spans(store: Location) -> pa.Table:
    """Where each volume lies, sorted by volume, once per process."""
    try:
        table = _manifest(store, SPANS)
    except OSError as error:
        raise StoreError(f"{store}: no manifest.parquet that can be read; make a store first") from error
    return in_order(table, "volume_id")


@lru_cache(maxsize=4096)
def _header(store: Location, volume_id: str) -> VolumeHeader:
    spans = _spans(store)
    place = place_in(spans["volume_id"], volume_id)
    if place is None:
        raise StoreError(f"volume {volume_id}: not in the store")
    span = Span(*(spans[name][place].as_py() for name in WHERE_IT_LIES))
    try:
        return read_header(store / "shards" / span.shard, volume_id, span)
    except (OSError, KeyError, ValueError) as error:
        raise _unreadable(volume_id, error) from error


@lru_cache(maxsize=CACHED_VOLUMES)
def _read_whole(store: Location, volume_id: str) -> Volume:
    volume = _read_slices(store, volume_id, 0, _header(store, volume_id).shape_zyx[0])
    volume.hu_zyx.setflags(write=False)
    return volume


def _read_slices(store: Location, volume_id: str, z_start: int, z_end: int) -> Volume:
    header = _header(store, volume_id)
    try:
        hu_zyx = read_slices(store / "shards" / header.span.shard, header, z_start, z_end)
    except (OSError, ValueError) as error:
        raise _unreadable(volume_id, error) from error
    return Volume(volume_id, header.patient_id, hu_zyx, header.spacing_zyx_mm)


def _unreadable(volume_id: str, error: Exception) -> StoreError:
    return StoreError(f"volume {volume_id}: cannot be read from the store: {error}; prepare the store again")


def _rows_hash(table: pa.Table) -> str:
    """Names a table's rows, whatever their order: each has a digest, and only those are held."""
    rows = (json.dumps(row, sort_keys=True).encode() for row in each_row(table))
    digests = sorted(hashlib.sha256(row).digest() for row in rows)
    return hashlib.sha256(b"".join(digests)).hexdigest()
