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

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from harvester.config.data import PhantomSettings
from harvester.config.models import GridSettings
from harvester.config.settings import Settings
from harvester.datasets.phantom import phantom
from harvester.imaging.dicom.reader import read_dicom_series
from harvester.imaging.nifti.reader import read_nifti
from harvester.records import Volume
from harvester.store.slab import GridFrame, read_slab
from harvester.store.store import finish_store, read_volume

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.store_candidates import candidates
from tests.builders import write_volume

RANGE = 9
SCANS = ("lung_dx_a0001", "chest_lidc1", "abd_c3l", "torso_1p5mm", "phantom")


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


if __name__ == "__main__":
    sys.exit(main())
