"""Does a volume cost the same among 100 as among 10,000, and does the driver stay small?

    python benchmarks/scale.py --work DIR --json FILE [--counts 100 1000 10000]

Tiny volumes (8 slices of 64 x 64) are proposed and scored by the pipeline of a harvest with the quickstart's networks
(random weights) on two actors. For each count: seconds a volume once warm, both steps together, the median of several
goes where they are short; the driver's resident memory at its highest less that after its start; bytes that Ray's
object store spilled. Then what planning, publishing and reading back cost at 1,000,000 rows of a manifest.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pyarrow as pa
from overhead import STEPS, job_in, make_models, settings_of, warm_rate  # beside this file
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from harvester.config.settings import Settings
from harvester.distributed.cluster import start_ray
from harvester.distributed.inference import Proposer, Scorer, run_over_volumes
from harvester.records import TUBELETS, Volume
from harvester.run.partials import Partials, plan_parts
from harvester.storage.location import Location
from harvester.store.container import open_shard
from harvester.store.store import Store, finish_store

SHAPE: Final = (8, 64, 64)
IN_A_FILE: Final = 500
MIB: Final = 2**20
GOES: Final = {100: 3, 1000: 2}
ROWS: Final = 1_000_000
RECORDED: Final = 2_000
"""Shards that are really published and read back; what one costs times their number is what all would."""


@dataclass
class Watch:
    """The driver's resident memory, sampled in a thread."""

    began_mib: float = 0.0
    most_mib: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        self.began_mib = self.most_mib = psutil.Process().memory_info().rss / MIB
        threading.Thread(target=self._sample, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()

    def _sample(self) -> None:
        while not self.over.wait(0.1):
            self.most_mib = max(self.most_mib, psutil.Process().memory_info().rss / MIB)


def main() -> int:
    """Volumes, one harvest's sweeps a count, the manifest of a million rows."""
    options = parse()
    settings = settings_of()
    make_models(options.work, settings)
    start_ray()
    seconds, growth = {}, {}
    warm_up(options.work, settings)
    for count in options.counts:
        store = made(options.work / f"store-{count}", count)
        with Watch() as watch:
            goes = [swept(store, settings, options.work) for _ in range(GOES.get(count, 1))]
        seconds[count], growth[count] = statistics.median(goes), watch.most_mib - watch.began_mib
        print(f"{count:6} volumes: {1000 * seconds[count]:.2f} ms each, driver + {growth[count]:.0f} MiB", flush=True)
    figures = {
        "seconds_per_volume": seconds,
        "spread": max(seconds.values()) / min(seconds.values()) - 1,
        "driver_growth_mib": growth,
        "spilled_bytes": spilled(),
        "manifest": million(),
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def warm_up(work: Path, settings: Settings) -> None:
    """What only the first sweep pays: imports in the actors, and the driver's own."""
    swept(made(work / "store-warm", 20), settings, work)


def made(folder: Path, count: int) -> Store:
    """A store of `count` volumes of noise, made once."""
    if (folder / "manifest.parquet").exists():
        return Store.open(folder)
    hu = np.random.default_rng(0).normal(40, 200, (8, *SHAPE)).astype(np.int16)
    rows = []
    for first in range(0, count, IN_A_FILE):
        with open_shard(Location.of(folder) / "shards" / f"s{first:06d}.shard") as shard:
            for index in range(first, min(count, first + IN_A_FILE)):
                volume = Volume(f"v{index:06d}", f"p{index:06d}", hu[index % 8], (4.0, 1.6, 1.6))
                rows.append(shard.add(volume, "vh", f"h{index}"))
    return finish_store(folder, rows, [], [])


def swept(store: Store, settings: Settings, work: Path) -> float:
    """Warm seconds a volume, proposed and scored, tables and all."""
    rows, total = store.manifest.to_pylist(), 0.0
    with tempfile.TemporaryDirectory(dir=work) as aside:
        for step, actor, models in ((STEPS[0], Proposer, "generator"), (STEPS[1], Scorer, "classifier")):
            partials = Partials(Location.of(aside) / f"{step}.partials")
            job = replace(job_in(settings, store, work, models), partials=partials)
            began = time.time()
            table, _ = run_over_volumes(actor, job, rows)  # type: ignore[arg-type]
            if step == STEPS[0]:
                job.tubelets.write_table(table, row_group_size=4096)  # type: ignore[union-attr]
            records = [partials.record(shard.name) or {} for shard in plan_parts(rows)]
            times = sorted(record["ended"] - began for record in records for _ in record["volumes"])
            total += 1 / warm_rate(times)
    return total


def spilled() -> int:
    """Bytes that the object stores of all nodes have written to disks."""
    reply = get_memory_info_reply(get_state_from_address())
    return int(reply.store_stats.spilled_bytes_total)


def million() -> dict[str, Any]:
    """Seconds at a million rows: to plan, and from a sample of published shards to list and to read back."""
    rows = [{"volume_id": f"v{i:07d}", "patient_id": f"p{i:07d}"} for i in range(ROWS)]
    began = time.monotonic()
    plan = plan_parts(rows)
    figures: dict[str, Any] = {"rows": ROWS, "shards": len(plan), "plan_seconds": time.monotonic() - began}
    table = pa.Table.from_pylist([{"volume_id": "v", "patient_id": "p"}], TUBELETS)
    with tempfile.TemporaryDirectory() as aside:
        partials = Partials(Location.of(aside))
        began = time.monotonic()
        partials.plan(plan)
        for shard in plan[:RECORDED]:
            partials.publish(shard.name, table, {"volumes": [row["volume_id"] for row in shard.rows], "errors": {}})
        scale = len(plan) / RECORDED
        figures["publish_seconds"] = (time.monotonic() - began) * scale
        began = time.monotonic()
        found = partials.done()
        figures["list_seconds"] = (time.monotonic() - began) * scale
        began = time.monotonic()
        partials.records(sorted(found))
        rows_read = sum(len(each) for each in partials.tables(sorted(found), TUBELETS))
        figures["read_seconds"] = (time.monotonic() - began) * scale
    assert rows_read == RECORDED
    return {name: round(value, 2) for name, value in figures.items()}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for volumes and models, kept")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    options.work = options.work.absolute()
    return options


if __name__ == "__main__":
    sys.exit(main())
