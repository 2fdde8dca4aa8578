"""How fast scans come back from the store, from other encodings, and from the files that they come in.

    python benchmarks/store.py [--scans NAME ...] [--repeats 5] [--json FILE]

Every candidate is written to disk and read there, on one core: whole scans, and random ranges of 9 slices. Slices a
second are medians over rounds in which the candidates take turns (processor time: other work on the machine counts
little), size is the share of 16-bit voxels. Then: in-plane resampling on reading, and random reads of small volumes.
Scans are looked for in $HARVESTER_DATA, then in ../shared/data; blosc2 takes part where it is installed.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
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

from harvester.config.data import PhantomSettings
from harvester.config.settings import GridSettings, Settings
from harvester.datasets.phantom import phantom
from harvester.imaging.dicom.reader import read_dicom_series
from harvester.imaging.nifti.reader import read_nifti
from harvester.records import Volume
from harvester.store.slab import GridFrame, read_slab
from harvester.store.store import finish_store, read_volume

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.builders import write_volume

Read = Callable[[int, int], Any]
Candidate = Callable[[Path, Any], Read]
"""Writes a scan below a folder; gives what reads slices [z1, z2) of it."""
RANGE = 9
SCANS = ("lung_dx_a0001", "chest_lidc1", "abd_c3l", "torso_1p5mm", "phantom")


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


def measure(hu: Any, repeats: int, folder: Path) -> list[dict[str, Any]]:
    """One row a candidate: slices a second whole and in ranges, slices a second written, share of the voxels' bytes."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(hu) - RANGE + 1, max(4, len(hu) // RANGE)).tolist()
    readers, rows = {}, {}
    for name, write in candidates().items():
        own = folder / name.replace(" ", "-")
        own.mkdir()
        try:
            seconds, read = timed(lambda write=write, own=own: write(own, hu))
            equal = np.array_equal(read(0, len(hu)).astype(np.int16), hu)
        except (RuntimeError, NotImplementedError, ImportError, AttributeError) as error:
            print(f"{name}: left out ({type(error).__name__})", file=sys.stderr)
            continue
        assert equal, name
        size = sum(file.stat().st_size for file in own.rglob("*") if (file.is_file() and file.suffix != ".parquet")
                   or file.name == "v.parquet")  # fmt: skip
        readers[name] = read
        rows[name] = {"name": name, "written": len(hu) / seconds, "size": size / hu.nbytes, "whole": [], "range": []}
    for _ in range(repeats):
        for name, read in readers.items():
            rows[name]["whole"].append(len(hu) / timed(lambda read=read: read(0, len(hu)))[0])
            seconds = timed(lambda read=read: [read(z, z + RANGE) for z in starts])[0]
            rows[name]["range"].append(len(starts) * RANGE / seconds)
    return [row | {key: statistics.median(row[key]) for key in ("whole", "range")} for row in rows.values()]


def resampling(hu: Any, spacing: tuple[float, float, float], folder: Path) -> dict[str, float]:
    """Slices a second of slabs of 9: as stored, and brought to a coarser in-plane spacing on reading."""
    store = finish_store(folder, [write_volume(folder, Volume("v", "p", hu, spacing), "vm", "h")], [], [])
    (row,) = store.manifest.to_pylist()
    starts, figures = range(0, len(hu) - RANGE, RANGE), {}
    for name, ratio in {"as stored": 1.0, "1.14 as coarse": 1.14, "twice as coarse": 2.0}.items():
        grid = GridSettings(spacing_zyx_mm=(spacing[0], spacing[1] * ratio, spacing[2] * ratio), max_side_px=1024)
        frame = GridFrame.of(row, grid)

        def read(frame: GridFrame = frame) -> None:
            for z in starts:
                read_slab(store.path, frame, z, z + RANGE)

        figures[name] = len(starts) * RANGE / statistics.median(timed(read)[0] for _ in range(5))
    return figures


def small_reads(folder: Path, count: int = 2000) -> float:
    """Microseconds of a read of 7 slices from one of 40 small volumes, as training reads phantoms."""
    settings, rng = PhantomSettings(depth=24), np.random.default_rng(0)
    hu = phantom.make(settings, Settings().grid.spacing_zyx_mm, phantom.plan(settings)[0], 0)[0].hu_zyx
    rows = [write_volume(folder, Volume(f"v{i}", "p", hu, (4, 1.6, 1.6)), "vm", "h") for i in range(40)]
    store = finish_store(folder, rows, [], [])
    places = list(zip(rng.integers(40, size=count).tolist(), rng.integers(17, size=count).tolist(), strict=True))
    seconds = [timed(lambda: [read_volume(store.path, f"v{i}", z, z + 7) for i, z in places])[0] for _ in range(5)]
    return statistics.median(seconds) / count * 1e6


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and the result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def load(name: str, data: Path) -> tuple[Any, tuple[float, float, float]]:
    """HU and spacing of a scan of the development data, or of a phantom."""
    if name == "phantom":
        settings = PhantomSettings(depth=64)
        volume = phantom.make(settings, Settings().grid.spacing_zyx_mm, phantom.plan(settings)[0], 0)[0]
    elif (data / "ct" / name).is_dir():
        volume = read_dicom_series(data / "ct" / name, name, "p")
    else:
        volume = read_nifti(data / "ct" / f"{name}.nii.gz", name, "p")
    return np.ascontiguousarray(volume.hu_zyx), volume.spacing_zyx_mm


def main() -> int:
    """Measure, print, write."""
    options = parse()
    pa.set_cpu_count(1)
    data = Path(os.environ.get("HARVESTER_DATA", "../shared/data"))
    figures: dict[str, Any] = {}
    for name in options.scans:
        hu, spacing = load(name, data)
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(hu, options.repeats, Path(folder))
        base = next(row for row in rows if row["name"] == "PNG")["whole"]
        print(f"\n{name} {hu.shape}\n{'':26}{'whole':>9}{'ranges':>9}{'x PNG':>7}{'written':>9}{'size':>7}")
        for row in rows:
            print(
                f"{row['name']:26}{row['whole']:9.0f}{row['range']:9.0f}{row['whole'] / base:7.1f}"
                f"{row['written']:9.0f}{row['size']:7.3f}"
            )
        with tempfile.TemporaryDirectory() as folder:
            grid = resampling(hu, spacing, Path(folder))
        print("slabs of 9: " + ", ".join(f"{key} {value:.0f} slices a second" for key, value in grid.items()))
        figures[name] = {"shape": hu.shape, "candidates": rows, "slabs": grid}
    with tempfile.TemporaryDirectory() as folder:
        figures["small_read_us"] = small_reads(Path(folder))
    print(f"\na random read of a small volume: {figures['small_read_us']:.1f} microseconds")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", nargs="+", default=SCANS, choices=SCANS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


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


if __name__ == "__main__":
    sys.exit(main())
