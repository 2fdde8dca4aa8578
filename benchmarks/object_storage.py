"""A whole harvest with store and run folder in a bucket, quiet and with 503s, against the same one on a disk.

    python benchmarks/object_storage.py --out DIR --json FILE

The S3 server is moto's, on loopback. In the last harvest a share of all requests is answered with 503, and all of
them for some seconds now and then. Prints, and writes as JSON: whether harvest and ledger are equal to the disk's,
requests, how many of them were refused, minutes. Exit code 1 where something differs.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from harvester.storage.location import Location
from tests.s3_serving import Door, serving

SETTINGS = """
rounds: 2
min_gain: 0.0
data:
  kind: phantom
  phantom: {vm_volumes: 8, vh_test_volumes: 6, volumes_per_patient: 1, depth: 12, lesion_contrast: 3, noise_hu: 3,
            distractors_per_volume: 0}
generator: {crop_px: 96, slab_depth: 2, batch_slabs: 4, steps: 60, finetune_steps: 20}
classifier: {steps: 20, batch_size: 8, max_tubelets: 10, match_iou: 0.3}
operating_point: {target_precision: 0.01, confidence: 0.6, match_iou: 0.2, lpg_floors: [0.1, 0.2], min_slices: [1],
                  min_patients: 6}
compute: {train_workers: 2, cpus_per_train_worker: 0.9}
"""
TABLES = {"harvest": ["volume_id", "lesion_id"], "ledger": ["volume_id", "label_id", "source"]}


def main() -> int:
    """Three harvests and what they share."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    config = options.out / "small.yaml"
    config.write_text(SETTINGS)
    near = Location.of(options.out / "disk")
    outcome: dict[str, Any] = {"disk": {"minutes": harvested(config, near.uri)}}
    with serving("archive") as door:
        for name, share in (("bucket", 0.0), ("busy_bucket", options.share)):
            far = Location.of(door.uri("archive", name))
            before = (door.asked, door.refused)
            with moody(door, share, options.closed_s):
                minutes = harvested(config, far.uri)
            outcome[name] = {
                "minutes": minutes,
                "requests": door.asked - before[0],
                "refused": door.refused - before[1],
                **{f"{table}_equal": same(near, far, table, keys) for table, keys in TABLES.items()},
            }
        outcome["harvested"] = len((near / "harvest.parquet").read_table())
    print(json.dumps(outcome, indent=1))
    if options.json:
        options.json.write_text(json.dumps(outcome, indent=1) + "\n")
    equal = all(outcome[name][f"{table}_equal"] for name in ("bucket", "busy_bucket") for table in TABLES)
    return 0 if equal and outcome["harvested"] and outcome["busy_bucket"]["refused"] else 1


def harvested(config: Path, run: str) -> float:
    """Minutes that the public command took; the store is made in the run's folder."""
    command = [sys.executable, "jobs/harvest.py", "--config", str(config), "--run", run]
    began = time.monotonic()
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"})
    return (time.monotonic() - began) / 60


@contextmanager
def moody(door: Door, share: float, closed_s: float) -> Iterator[None]:
    """With a share, the door refuses that many, and everybody for `closed_s` seconds in a minute."""
    over = threading.Event()

    def swing() -> None:
        while not over.wait(60.0 - closed_s):
            door.closed.set()
            over.wait(closed_s)
            door.closed.clear()

    door.share = share
    if share:
        threading.Thread(target=swing, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        door.share = 0.0
        door.closed.clear()


def same(near: Location, far: Location, table: str, keys: list[str]) -> bool:
    """Whether two runs' tables hold the same bytes once sorted."""
    packed = []
    for folder in (near, far):
        rows = (folder / f"{table}.parquet").read_table().sort_by([(key, "ascending") for key in keys])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows.combine_chunks())
        packed.append(sink.getvalue().to_pybytes())
    return packed[0] == packed[1]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the run on a disk")
    parser.add_argument("--share", type=float, default=0.03, help="of requests refused (default: %(default)s)")
    parser.add_argument("--closed-s", type=float, default=8.0, help="seconds a minute (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
