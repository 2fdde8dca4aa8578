"""The store: volumes decoded once, kept lz4-compressed, read by slice range without decoding the rest.

store/
  volumes/<volume_id>.arrow   Arrow IPC file, one record batch a slice, metadata: id, patient, spacing, shape
  manifest.parquet            one row a volume (records.MANIFEST)
  marks.parquet               what the archive knows (records.MARKS)
  truth.parquet               hidden truth of vh_test and vd_test, for scoring alone
  rejects.parquet             what was refused and why (records.REJECTS)
  reviewed.parquet            what people said of exported labels (records.REVIEWED); absent before the first review
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from harvester.config import settings_hash
from harvester.errors import StoreError
from harvester.records import IGNORE, MANIFEST, MARKS, REJECTS, REVIEWED, Mark, Volume

SLICE = pa.schema([("hu", pa.int16())])


class Store:
    """A finished store, opened for reading. Raises StoreError where the folder is no store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "manifest.parquet").is_file():
            raise StoreError(f"{path}: no manifest.parquet; make a store with jobs/prepare.py")
        self.manifest: pa.Table = pq.read_table(path / "manifest.parquet", schema=MANIFEST)

    def read(self, volume_id: str, z_start: int = 0, z_end: int | None = None) -> Volume:
        """Slices [z_start, z_end) of a volume, decoding only those."""
        return read_volume(self.path, volume_id, z_start, z_end)

    def marks(self) -> pa.Table:
        """What the archive knows (records.MARKS)."""
        return pq.read_table(self.path / "marks.parquet", schema=MARKS)

    def truth(self) -> pa.Table:
        """The hidden truth, for scoring alone (records.MARKS); empty where there is none."""
        file = self.path / "truth.parquet"
        return pq.read_table(file, schema=MARKS) if file.is_file() else MARKS.empty_table()

    def ignore(self) -> pa.Table:
        """Regions left out of harvest and scoring (records.IGNORE)."""
        file = self.path / "ignore.parquet"
        return pq.read_table(file, schema=IGNORE) if file.is_file() else IGNORE.empty_table()

    def rejects(self) -> pa.Table:
        """What was refused and why (records.REJECTS)."""
        file = self.path / "rejects.parquet"
        return pq.read_table(file, schema=REJECTS) if file.is_file() else REJECTS.empty_table()

    def reviewed(self) -> pa.Table:
        """What people said of labels that were exported (records.REVIEWED); empty before the first review."""
        file = self.path / "reviewed.parquet"
        return pq.read_table(file, schema=REVIEWED) if file.is_file() else REVIEWED.empty_table()

    def data_hash(self) -> str:
        """Names what the store holds: the manifest's rows, the marks, the regions left out, what was reviewed."""
        rows = sorted(self.manifest.to_pylist(), key=lambda row: row["volume_id"])
        marks = sorted(self.marks().to_pylist(), key=lambda row: (row["volume_id"], row["mark_id"]))
        reviewed = self.reviewed().to_pylist()
        # A store that nobody reviewed keeps the name that it had before there were reviews.
        return settings_hash(rows, marks, self.ignore().to_pylist(), *([reviewed] if reviewed else []))


CACHED_BYTES: Final = 4 << 20
CACHED_VOLUMES: Final = 192
"""Small volumes stay decoded in the process that read them (192 x 4 MiB at most), for training's random reads."""


def read_volume(store: Path, volume_id: str, z_start: int = 0, z_end: int | None = None) -> Volume:
    """Slices [z_start, z_end) of a stored volume, decoding only those; a small volume is decoded whole, once."""
    file = store / "volumes" / f"{volume_id}.arrow"
    if file.is_file() and file.stat().st_size <= CACHED_BYTES:
        whole = _read_whole(store, volume_id)
        depth = len(whole.hu_zyx)
        end = depth if z_end is None else z_end
        if whole.hu_zyx.nbytes <= CACHED_BYTES and 0 <= z_start < end <= depth:
            return replace(whole, hu_zyx=whole.hu_zyx[z_start:z_end])
    return _read_slices(store, volume_id, z_start, z_end)


@lru_cache(maxsize=CACHED_VOLUMES)
def _read_whole(store: Path, volume_id: str) -> Volume:
    volume = _read_slices(store, volume_id, 0, None)
    volume.hu_zyx.setflags(write=False)
    return volume


def _read_slices(store: Path, volume_id: str, z_start: int, z_end: int | None) -> Volume:
    file = store / "volumes" / f"{volume_id}.arrow"
    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
            meta = json.loads((reader.schema.metadata or {})[b"harvester"])
            depth, height, width = meta["shape"]
            z_end = depth if z_end is None else z_end
            if not 0 <= z_start < z_end <= depth:
                raise StoreError(f"volume {volume_id}: slices {z_start} to {z_end} asked of {depth}")
            slices = [np.asarray(reader.get_batch(z).column(0)) for z in range(z_start, z_end)]
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        raise StoreError(f"volume {volume_id}: cannot be read from the store: {error}") from error
    hu = np.stack(slices).reshape(z_end - z_start, height, width)
    z, y, x = meta["spacing_zyx_mm"]
    return Volume(volume_id, meta["patient_id"], hu, (z, y, x))


def write_volume(store: Path, volume: Volume, split: str, source_hash: str) -> dict[str, Any]:
    """Write one volume (aside, then renamed) and return its manifest row."""
    folder = store / "volumes"
    folder.mkdir(parents=True, exist_ok=True)
    file, aside = folder / f"{volume.volume_id}.arrow", folder / f".{volume.volume_id}.part"
    meta = {
        "patient_id": volume.patient_id,
        "shape": volume.hu_zyx.shape,
        "spacing_zyx_mm": volume.spacing_zyx_mm,
    }
    schema = SLICE.with_metadata({"harvester": json.dumps(meta)})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        for plane in volume.hu_zyx:
            writer.write_batch(pa.record_batch([pa.array(plane.ravel())], schema=schema))
    aside.replace(file)
    z, y, x = volume.spacing_zyx_mm
    depth, height, width = volume.hu_zyx.shape
    return {
        "volume_id": volume.volume_id,
        "patient_id": volume.patient_id,
        "split": split,
        "spacing_z_mm": z,
        "spacing_y_mm": y,
        "spacing_x_mm": x,
        "depth": depth,
        "height": height,
        "width": width,
        "source_hash": source_hash,
    }


def write_reviewed(store: Path, reviewed: pa.Table) -> None:
    """Put what people said (records.REVIEWED) into a store, in place of what was there."""
    keys: list[tuple[str, Any]] = [(name, "ascending") for name in ("volume_id", "label_id", "role")]
    aside = store / ".reviewed.part"
    pq.write_table(reviewed.cast(REVIEWED).sort_by(keys), aside)
    aside.replace(store / "reviewed.parquet")


def finish_store(
    store: Path,
    manifest_rows: Iterable[dict[str, Any]],
    marks: Iterable[Mark],
    truth: Iterable[Mark],
    rejects: Iterable[dict[str, Any]] = (),
    ignore: Iterable[dict[str, Any]] = (),
) -> Store:
    """Write the tables, the manifest last: a folder without one is not a store yet."""
    tables = {
        "marks": pa.Table.from_pylist([asdict(mark) for mark in marks], MARKS),
        "truth": pa.Table.from_pylist([asdict(mark) for mark in truth], MARKS),
        "ignore": pa.Table.from_pylist(list(ignore), IGNORE),
        "rejects": pa.Table.from_pylist(list(rejects), REJECTS),
        "manifest": pa.Table.from_pylist(sorted(manifest_rows, key=lambda row: row["volume_id"]), MANIFEST),
    }
    for name, table in tables.items():
        aside = store / f".{name}.part"
        pq.write_table(table, aside)
        aside.replace(store / f"{name}.parquet")
    return Store(store)
