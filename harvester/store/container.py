"""A shard: volumes in one file, one after another, each readable without the others and without a table.

volume := prefix header frame...       one frame per slice
prefix := "HVSHARD1" header_bytes:u32 header_crc32:u32, little-endian
header := JSON: volume_id, patient_id, shape (z, y, x), spacing_zyx_mm, frame_bytes [z], frame_crc32 [z]

A manifest row says where a volume lies: shard (the file's name), offset and bytes (of the volume in it), checksum
(the header's, which holds those of the slices). A walk from 0 through all volumes needs no manifest.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.errors import StoreError
from harvester.records import Split, Volume
from harvester.storage.location import Location, writing

MAGIC: Final = b"HVSHARD1"
PREFIX: Final = struct.Struct("<8sII")
FIRST_READ: Final = 16 << 10
"""Holds the header of a volume of about 800 slices: one request in an object store."""


@dataclass(frozen=True)
class Span:
    """Where a volume lies: columns of the manifest."""

    shard: str
    offset: int
    bytes: int
    checksum: int


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """What a volume says of itself. starts: (depth + 1,) first byte of each slice's frame, from the volume's own."""

    volume_id: str
    span: Span
    patient_id: str
    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    starts: NDArray[np.int64]
    crc32: NDArray[np.uint32]


class ShardWriter:
    """Volumes into an open file, one at a time."""

    def __init__(self, name: str, sink: pa.NativeFile) -> None:
        self.name, self.sink, self.offset = name, sink, 0

    def add(self, volume: Volume, split: Split, source_hash: str) -> dict[str, Any]:
        """Write a volume and return its manifest row."""
        frames = [encode_slice(plane) for plane in volume.hu_zyx]
        header = _header_json(volume, frames)
        span = Span(self.name, self.offset, PREFIX.size + len(header) + sum(map(len, frames)), zlib.crc32(header))
        for part in (PREFIX.pack(MAGIC, len(header), span.checksum), header, *frames):
            self.sink.write(part)
        self.offset += span.bytes
        return _manifest_row(volume, split, source_hash, span)


@contextmanager
def open_shard(file: Location) -> Iterator[ShardWriter]:
    """A writer whose shard appears when the block ends well. Raises StoreError where it cannot be written."""
    with writing(file.parent), file.publish() as sink:
        yield ShardWriter(file.name, sink)


def read_header(file: Location, volume_id: str, span: Span) -> VolumeHeader:
    """The header of a volume, checked. Raises StoreError for a broken one, OSError for an unreadable file."""
    start = file.read(span.offset, min(span.bytes, FIRST_READ))
    magic, size, crc = PREFIX.unpack(start[: PREFIX.size]) if len(start) >= PREFIX.size else (b"", 0, 0)
    if (magic, crc) != (MAGIC, span.checksum) or PREFIX.size + size > span.bytes:
        raise _broken(volume_id)
    end = PREFIX.size + size
    text = start[PREFIX.size : end] if end <= len(start) else file.read(span.offset + PREFIX.size, size)
    if zlib.crc32(text) != crc:
        raise _broken(volume_id)
    header = json.loads(text)
    starts = end + np.concatenate([[0], np.cumsum(header["frame_bytes"])])
    crc32 = np.asarray(header["frame_crc32"], np.uint32)
    shape, spacing = tuple(header["shape"]), tuple(header["spacing_zyx_mm"])
    return VolumeHeader(volume_id, span, header["patient_id"], shape, spacing, starts, crc32)


def read_slices(file: Location, header: VolumeHeader, z_start: int, z_end: int) -> NDArray[np.int16]:
    """Slices [z_start, z_end) of a volume, by one read. Raises StoreError for a broken one, OSError."""
    first, last = int(header.starts[z_start]), int(header.starts[z_end])
    data = memoryview(file.read(header.span.offset + first, last - first))
    hu_zyx = np.empty((z_end - z_start, *header.shape_zyx[1:]), HU)
    for z, out in zip(range(z_start, z_end), hu_zyx, strict=True):
        frame = data[int(header.starts[z]) - first : int(header.starts[z + 1]) - first]
        if zlib.crc32(frame) != header.crc32[z]:
            raise _broken(header.volume_id)
        decode_slice(frame, out)
    return hu_zyx


def _header_json(volume: Volume, frames: list[bytes]) -> bytes:
    return json.dumps(
        {
            "volume_id": volume.volume_id,
            "patient_id": volume.patient_id,
            "shape": volume.hu_zyx.shape,
            "spacing_zyx_mm": [float(size) for size in volume.spacing_zyx_mm],
            "frame_bytes": [len(frame) for frame in frames],
            "frame_crc32": [zlib.crc32(frame) for frame in frames],
        }
    ).encode()


def voxel_hash(volume: Volume) -> str:
    """Names a volume's HU: the manifest's column."""
    return hashlib.sha256(np.ascontiguousarray(volume.hu_zyx, HU).data).hexdigest()[:16]


def _manifest_row(volume: Volume, split: Split, source_hash: str, span: Span) -> dict[str, Any]:
    names = ("spacing_z_mm", "spacing_y_mm", "spacing_x_mm", "depth", "height", "width")
    return {
        "volume_id": volume.volume_id,
        "patient_id": volume.patient_id,
        "split": split,
        **dict(zip(names, (*map(float, volume.spacing_zyx_mm), *volume.hu_zyx.shape), strict=True)),
        "source_hash": source_hash,
        "voxel_hash": voxel_hash(volume),
        **asdict(span),
    }


def _broken(volume_id: str) -> StoreError:
    return StoreError(
        f"volume {volume_id}: its bytes in the store are not those that were written; the disk or a copy is "
        "broken: prepare the store again"
    )


CODEC: Final = pa.Codec("lz4")
HU: Final = np.dtype("<i2")


def encode_slice(hu_yx: NDArray[np.int16]) -> bytes:
    """One slice, int16 (rows, columns), as bytes."""
    pairs = np.ascontiguousarray(hu_yx, HU).view(np.uint8).reshape(-1, 2)
    return CODEC.compress(np.ascontiguousarray(pairs.T).data, asbytes=True)


def decode_slice(frame: memoryview | bytes, out_yx: NDArray[np.int16]) -> None:
    """Bytes of encode_slice into a contiguous array of the slice's shape. Raises OSError for other bytes."""
    planes = np.frombuffer(memoryview(CODEC.decompress(frame, out_yx.nbytes)), np.uint8)
    low, high = planes[: out_yx.size], planes[out_yx.size :]
    flat = out_yx.reshape(-1)
    # Three passes over a slice in the cache are faster than one that writes every second byte.
    flat[:] = high
    flat <<= 8
    flat |= low
