"""Ways to keep a scan on disk and to read ranges of its slices: the store, what scans come in, others (store.py)."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from harvester.records import Volume
from harvester.store.store import finish_store, read_volume

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.builders import write_volume

Read = Callable[[int, int], Any]
Candidate = Callable[[Path, Any], Read]
"""Writes a scan below a folder; gives what reads slices [z1, z2) of it."""


def the_store(folder: Path, hu: Any) -> Read:
    """As harvester keeps it."""
    path = finish_store(folder, [write_volume(folder, Volume("v", "p", hu, (5, 0.8, 0.8)), "vm", "h")], [], []).path
    return lambda z1, z2: read_volume(path, "v", z1, z2).hu_zyx


def png(folder: Path, hu: Any) -> Read:
    """One 16-bit PNG a slice, as DeepLesion comes."""
    for z, plane in enumerate(hu):
        Image.fromarray((plane.astype(np.int32) + 32768).astype(np.uint16)).save(folder / f"{z}.png")

    def read(z1: int, z2: int) -> Any:
        planes = [np.asarray(Image.open(folder / f"{z}.png")) for z in range(z1, z2)]
        return (np.stack(planes).astype(np.int32) - 32768).astype(np.int16)

    return read


def dicom(folder: Path, hu: Any, syntax: str | None = None) -> Read:
    """One DICOM file a slice, plain or compressed; pixels decoded by pydicom, no header work."""
    for z, plane in enumerate(hu):
        item = _dicom_slice(plane)
        if syntax:
            item.compress(syntax)
        item.save_as(folder / f"{z}.dcm", enforce_file_format=True)
    return lambda z1, z2: np.stack([pydicom.dcmread(folder / f"{z}.dcm").pixel_array for z in range(z1, z2)])


def jpeg2000(folder: Path, hu: Any) -> Read:
    """Lossless JPEG 2000 in DICOM, where a codec is installed."""
    return dicom(folder, hu, pydicom.uid.JPEG2000Lossless)


def jpeg_ls(folder: Path, hu: Any) -> Read:
    """JPEG-LS in DICOM, where a codec is installed."""
    return dicom(folder, hu, pydicom.uid.JPEGLSLossless)


def nii_gz(folder: Path, hu: Any) -> Read:
    """NIfTI: a range means decoding all that lies before it."""
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.eye(4), dtype=np.int16), folder / "v.nii.gz")
    return lambda z1, z2: np.asarray(nibabel.load(folder / "v.nii.gz").dataobj[..., z1:z2]).transpose(2, 1, 0)


def arrow(compression: str | None) -> Candidate:
    """Arrow IPC, a batch a slice, values whole (the first store: lz4)."""

    def write(folder: Path, hu: Any) -> Read:
        schema, file = pa.schema([("hu", pa.int16())]), str(folder / "v.arrow")
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.OSFile(file, "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
            for plane in hu:
                writer.write_batch(pa.record_batch([pa.array(plane.ravel())], schema=schema))

        def read(z1: int, z2: int) -> Any:
            with pa.memory_map(file) as source, pa.ipc.open_file(source) as reader:
                planes = [np.asarray(reader.get_batch(z).column(0)) for z in range(z1, z2)]
            return np.stack(planes).reshape(z2 - z1, *hu.shape[1:])

        return read

    return write


def parquet(compression: str, encoding: str) -> Candidate:
    """Parquet, a row group a slice. It has no 16-bit integers."""

    def write(folder: Path, hu: Any) -> Read:
        flat = pa.table({"hu": hu.reshape(-1).astype(np.int32)})
        file, pixels = folder / "v.parquet", hu[0].size
        pq.write_table(
            flat, file, row_group_size=pixels, compression=compression, use_dictionary=False,
            column_encoding={"hu": encoding}, write_statistics=False,
        )  # fmt: skip

        def read(z1: int, z2: int) -> Any:
            table = pq.ParquetFile(file).read_row_groups(list(range(z1, z2)), use_threads=False)
            return table["hu"].to_numpy().astype(np.int16).reshape(z2 - z1, *hu.shape[1:])

        return read

    return write


def framed(pack: Callable[[Any], bytes], unpack: Callable[[Any, Any], None]) -> Candidate:
    """Slices packed one by one into a file, their ends kept in memory."""

    def write(folder: Path, hu: Any) -> Read:
        frames = [pack(plane) for plane in hu]
        file, ends = folder / "v.bin", np.concatenate([[0], np.cumsum([len(frame) for frame in frames])])
        file.write_bytes(b"".join(frames))

        def read(z1: int, z2: int) -> Any:
            out = np.empty((z2 - z1, *hu.shape[1:]), np.int16)
            with file.open("rb") as source:
                source.seek(int(ends[z1]))
                data = memoryview(source.read(int(ends[z2] - ends[z1])))
            for z, plane in zip(range(z1, z2), out, strict=True):
                unpack(data[int(ends[z] - ends[z1]) : int(ends[z + 1] - ends[z1])], plane)
            return out

        return read

    return write


def planes_apart(codec: pa.Codec) -> Candidate:
    """Low bytes, then high bytes, one frame: the store's own way, without its checksums and header."""

    def pack(plane: Any) -> bytes:
        return codec.compress(np.ascontiguousarray(plane.view(np.uint8).reshape(-1, 2).T), asbytes=True)

    def unpack(frame: Any, out: Any) -> None:
        both, flat = np.frombuffer(codec.decompress(frame, out.nbytes), np.uint8), out.reshape(-1)
        flat[:] = both[out.size :]
        flat <<= 8
        flat |= both[: out.size]

    return framed(pack, unpack)


def row_deltas(codec: pa.Codec) -> Candidate:
    """Each row less the one above, low and high bytes apart."""

    def pack(plane: Any) -> bytes:
        delta = np.diff(plane, axis=0, prepend=np.zeros_like(plane[:1]))
        return codec.compress(np.ascontiguousarray(delta.view(np.uint8).reshape(-1, 2).T), asbytes=True)

    def unpack(frame: Any, out: Any) -> None:
        both, flat = np.frombuffer(codec.decompress(frame, out.nbytes), np.uint8), out.reshape(-1)
        flat[:] = both[out.size :]
        flat <<= 8
        flat |= both[: out.size]
        np.cumsum(out, axis=0, dtype=np.int16, out=out)

    return framed(pack, unpack)


def whole_values(codec: pa.Codec) -> Candidate:
    """Plain int16, one frame a slice."""

    def unpack(frame: Any, out: Any) -> None:
        out[...] = np.frombuffer(codec.decompress(frame, out.nbytes), np.int16).reshape(out.shape)

    return framed(lambda plane: codec.compress(plane.tobytes(), asbytes=True), unpack)


def blosc(codec: str, shuffle: str, level: int) -> Candidate:
    """blosc2 with its own shuffling."""
    import blosc2

    settings = {
        "typesize": 2, "clevel": level, "nthreads": 1,
        "codec": getattr(blosc2.Codec, codec), "filters": [getattr(blosc2.Filter, shuffle)], "filters_meta": [0],
    }  # fmt: skip
    return framed(
        lambda plane: blosc2.compress2(np.ascontiguousarray(plane), **settings),
        lambda frame, out: blosc2.decompress2(frame, dst=out, nthreads=1),
    )


def candidates() -> dict[str, Candidate]:
    """All that are compared; the files that scans come in first."""
    given: dict[str, Candidate] = {
        "PNG": png, "DICOM": dicom, "DICOM JPEG 2000": jpeg2000, "DICOM JPEG-LS": jpeg_ls, "nii.gz": nii_gz,
        "the store": the_store,
        "uncompressed": framed(lambda plane: plane.tobytes(), _copy),
        "arrow lz4": arrow("lz4"), "arrow zstd": arrow("zstd"),
        "parquet split zstd": parquet("zstd", "BYTE_STREAM_SPLIT"),
        "parquet split lz4": parquet("lz4", "BYTE_STREAM_SPLIT"),
        "parquet delta zstd": parquet("zstd", "DELTA_BINARY_PACKED"),
        "whole values lz4": whole_values(pa.Codec("lz4")), "whole values zstd": whole_values(pa.Codec("zstd", 1)),
        "planes lz4": planes_apart(pa.Codec("lz4")), "planes zstd": planes_apart(pa.Codec("zstd", 1)),
        "row deltas lz4": row_deltas(pa.Codec("lz4")), "row deltas zstd": row_deltas(pa.Codec("zstd", 1)),
    }  # fmt: skip
    try:
        for codec, shuffle, level in (
            ("LZ4", "BITSHUFFLE", 5), ("LZ4", "SHUFFLE", 5), ("ZSTD", "BITSHUFFLE", 1), ("ZSTD", "SHUFFLE", 1),
        ):  # fmt: skip
            given[f"blosc2 {shuffle.lower()} {codec.lower()}"] = blosc(codec, shuffle, level)
    except ImportError:
        print("blosc2 is not installed: left out", file=sys.stderr)
    return given


def _copy(frame: Any, out: Any) -> None:
    out[...] = np.frombuffer(frame, np.int16).reshape(out.shape)


def _dicom_slice(plane: Any) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    item.SOPClassUID, item.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    item.Rows, item.Columns = plane.shape
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated = item.BitsStored = 16
    item.HighBit, item.PixelRepresentation = 15, 1
    item.PixelData = plane.astype("<i2").tobytes()
    return item
