"""Is prepare bound by the cores, and does its memory stay flat? Small made scans (.nii.gz), on a local Ray.

    python benchmarks/prepare.py [--counts 20 2000] [--replicas 2] [--json FILE]

For each count: volumes a second; from the first shard's end to the last one's the share of all cores' time that the
job's own processes used, the share of their time in which the actors ran or waited for a core (Linux; what counts
where other work shares the machine: 1 is bound by the cores alone), and how busy each core was with all that ran;
the most memory (unshared) that any actor and the driver held. Flat means: no more for 2,000 volumes than for 20.
"""

import argparse
import gzip
import json
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import ray

from harvester.config.settings import Settings
from harvester.distributed.cluster import start_ray
from harvester.distributed.preparation import prepare

SHAPE = (128, 128, 24)
MIB = 1 << 20


@dataclass
class Watch:
    """What the processes of this job use, sampled in a thread of its own."""

    shards: Path
    actors: int = 0
    actor_mib: float = 0.0
    driver_mib: float = 0.0
    marks: list[tuple[float, float, float, list[float]]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self, every: float = 0.2) -> None:
        """Sample until `ended`."""
        while not self.ended.wait(every):
            self.sample()

    def sample(self) -> None:
        """Memory, and processor time once the first shard is there."""
        me = psutil.Process()
        workers = [each for each in me.children(recursive=True) if _is_actor(each)]
        self.driver_mib = max(self.driver_mib, me.memory_full_info().uss / MIB)
        self.actor_mib = max([self.actor_mib, *map(_unshared_mib, workers)])
        if any(self.shards.glob("*.json")):
            busy = [times.user + times.nice + times.system for times in psutil.cpu_times(percpu=True)]
            used, wanted = sum(map(_processor_seconds, [me, *workers])), sum(map(_wanted_seconds, workers))
            self.marks.append((time.monotonic(), used, wanted, busy))
            self.actors = max(self.actors, len(workers))

    def figures(self) -> dict[str, Any]:
        """Shares between the first and the last sample with all actors still there."""
        memory = {"actor_mib": self.actor_mib, "driver_mib": self.driver_mib}
        if len(self.marks) < 20:  # over before it could be watched
            return {"own_share": float("nan"), "wanted_share": float("nan"), "core_shares": [], **memory}
        marks = self.marks[: 1 + max(range(len(self.marks)), key=lambda i: self.marks[i][1])]
        (start, first, wanted, busy), (end, last, wanted_later, later) = marks[0], marks[-1]
        span = max(end - start, 1e-9)
        return {
            "own_share": (last - first) / span / len(busy),
            "wanted_share": (wanted_later - wanted) / span / self.actors,
            "core_shares": [(b - a) / span for a, b in zip(busy, later, strict=True)],
            **memory,
        }


def main() -> int:
    """Make scans, prepare, print."""
    options = parse()
    start_ray()
    settings = Settings.model_validate(
        {"data": {"kind": "archive"}, "compute": {"replicas": options.replicas, "cpus_per_replica": 0.9}}
    )
    rows = []
    print(
        f"{'volumes':>8}{'seconds':>9}{'a second':>10}{'own':>7}{'wanted':>8}{'cores':>16}{'actor':>9}{'driver':>9} MiB"
    )
    for count in options.counts:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(settings, count, Path(folder)))
        row = rows[-1]
        cores = " ".join(f"{share:.2f}" for share in row["core_shares"])
        print(
            f"{count:>8}{row['seconds']:>9.1f}{row['rate']:>10.1f}{row['own_share']:>7.2f}{row['wanted_share']:>8.2f}{cores:>16}"
            f"{row['actor_mib']:>9.0f}{row['driver_mib']:>9.0f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    ray.shutdown()
    return 0


def measured(settings: Settings, count: int, folder: Path) -> dict[str, Any]:
    """One preparation of `count` scans."""
    make_scans(folder / "archive", count)
    watch = Watch(folder / "store" / "shards")
    thread = threading.Thread(target=watch.run)
    thread.start()
    began = time.monotonic()
    try:
        store = prepare(settings, folder / "archive", folder / "store")
        seconds = time.monotonic() - began
    finally:
        watch.ended.set()
        thread.join()
    assert len(store.manifest) == count
    return {"volumes": count, "seconds": seconds, "rate": count / seconds, **watch.figures()}


def make_scans(folder: Path, count: int) -> None:
    """Different scans of smooth noise, as .nii.gz."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    hu = np.add.accumulate(rng.integers(-20, 21, SHAPE), axis=0).astype(np.int16)
    for number in range(count):
        hu[0, 0, 0] = number
        image = nibabel.Nifti1Image(hu, np.diag([0.8, 0.8, 2.5, 1]))
        (folder / f"s{number}.nii.gz").write_bytes(gzip.compress(image.to_bytes(), 1))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 2000])
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _is_actor(process: psutil.Process) -> bool:
    try:
        return "Maker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _unshared_mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().uss / MIB)
    except psutil.Error:
        return 0.0


def _wanted_seconds(process: psutil.Process) -> float:
    """Seconds in which a process's threads ran or waited for a core."""
    try:
        files = list(Path(f"/proc/{process.pid}/task").glob("*/schedstat"))
        return sum(int(part) for file in files for part in file.read_text().split()[:2]) / 1e9
    except OSError:
        return 0.0


def _processor_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


if __name__ == "__main__":
    sys.exit(main())
