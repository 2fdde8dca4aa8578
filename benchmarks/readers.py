"""Who reads volumes for the device: the actors themselves, or tasks of a Ray Data pipeline before them?

    python benchmarks/readers.py --work DIR [--volumes 32] [--slices 48] [--repeats 3] [--json FILE]

Volumes of DeepLesion's size (512 x 512 slices of 0.8 mm, 2 mm apart) are proposed on by the small generator, in turns:
`own`, as harvester does it (actors read, decode and prefetch in threads; only names cross Ray's object store), and
`pipeline`, tasks that read and decode before actors that only propose (volumes cross the object store). Each has the
same actors and the machine's CPUs. `read` says what reading alone takes. Rates count all volumes but those of the
actors' first parts; mib_through_object_store is what the pipeline's blocks held.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray
import ray.data
import torch
from safetensors.torch import save

from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.distributed.cluster import start_ray
from harvester.distributed.inference import Proposer
from harvester.distributed.volume_pool import InferenceJob, run_over_volumes
from harvester.models.device import DeviceSpec
from harvester.proposals.inference import Proposals, read_with_context
from harvester.proposals.network import Generator
from harvester.records import Volume
from harvester.run.partials import Partials, plan_parts
from harvester.storage.location import Location
from harvester.store.slab import GridFrame
from harvester.store.store import Store, finish_store

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.overhead import live
from tests.builders import write_volume

SIDES: Final = ("own", "pipeline")
CPU: Final = DeviceSpec.choose(False, "auto")
OVERRIDES: Final = (
    "grid.spacing_zyx_mm=[2.0,0.8,0.8]", "generator.top_k=20", "generator.score_floor=0.0001",
)  # fmt: skip
Times = list[float]


class Given(Proposals):
    """Proposals on volumes that somebody else has read."""

    def _read(self, task: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(task[1][1]))

    def _find(self, given: Any) -> Any:
        (frame, (files, _)), slab = given
        return super()._find(((frame, files), slab))


class PipelineProposer:
    """An actor that only proposes; it keeps when each volume was done."""

    def __init__(self, job: InferenceJob) -> None:
        self.job = job
        self.proposals = Given(job.settings, job.store, Proposer(job).place)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = [json.loads(row) for row in batch["row"]]
        frames = [GridFrame.of(row, self.job.settings.grid) for row in rows]
        tasks = [
            (frame, (self.job.weights(row["patient_id"]), slab))
            for frame, row, slab in zip(frames, rows, batch["slab"], strict=True)
        ]
        found = [len(link()) for link in self.proposals.over(tasks)]  # type: ignore[arg-type]
        return {"found": np.array(found), "ended": np.full(len(found), time.time())}


def main() -> None:
    """Make the volumes, run the sides in turns, print."""
    options = parse()
    if options.side:
        print(json.dumps(one_side(options.side, options.work)))
        return
    make(options.work, options.volumes, options.slices)
    turns: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(options.repeats):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            command = [sys.executable, __file__, "--work", str(options.work), "--side", side]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            turns[side].append(json.loads(done.stdout.splitlines()[-1]))
            print(turn, side, turns[side][-1], flush=True)
    rates = {side: [each["volumes_per_second"] for each in turns[side]] for side in SIDES}
    figures = {
        "pipeline_over_own": statistics.median(b / a for a, b in zip(rates["own"], rates["pipeline"], strict=True)),
        "volumes_per_second": {side: statistics.median(rates[side]) for side in SIDES},
        "read_only_volumes_per_second": read_rate(options.work),
        "mib_through_object_store": turns["pipeline"][0]["mib_through_object_store"],
        "volumes": options.volumes,
        "slices": options.slices,
        "cpus": os.cpu_count(),
        "turns": options.repeats,
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def one_side(side: str, work: Path) -> dict[str, float]:
    """Rate of one run, once warm."""
    start_ray()
    store, settings = Store.open(work / "store"), settings_of()
    aside = Location.of(work / f"{time.time()}")
    folds = {row["patient_id"]: at % settings.folds for at, row in enumerate(store.manifest.to_pylist())}
    job = InferenceJob(settings, store.path, Location.of(work / "generator"), folds, Partials(aside / "p.partials"))
    ended, mib = (own if side == "own" else pipeline)(job, store)
    aside.delete_folder()
    ended = sorted(ended)
    first = len(ended) // 4
    rate = (len(ended) - first) / (ended[-1] - ended[first - 1])
    return {"volumes_per_second": rate, "mib_through_object_store": mib}


def own(job: InferenceJob, store: Store) -> tuple[Times, float]:
    """As harvester does it; parts of a few volumes, so that there are times to count by."""
    run_over_volumes(Proposer, job, store.manifest)
    records = [job.partials.record(part.name) or {} for part in plan_parts(store.manifest)]
    assert not any(record["errors"] for record in records)
    return [record["ended"] for record in records for _ in record["volumes"]], 0.0


def pipeline(job: InferenceJob, store: Store) -> tuple[Times, float]:
    """Reading tasks, then proposing actors, one volume a block."""
    rows = [{"row": json.dumps(row)} for row in store.manifest.to_pylist()]
    compute = job.settings.compute
    dataset = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map_batches(read, batch_size=1, num_cpus=1 - compute.cpus_per_replica, fn_kwargs={"job": job})
        .map_batches(
            PipelineProposer,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=compute.replicas),
            num_cpus=compute.cpus_per_replica,
        )
    )
    taken = dataset.take_all()
    depths = [row["depth"] for row in store.manifest.to_pylist()]
    frames = [GridFrame.of(row, job.settings.grid).shape_zyx for row in store.manifest.to_pylist()]
    assert len(taken) == len(depths)
    return [row["ended"] for row in taken], sum(2 * float(np.prod(shape)) for shape in frames) / 2**20


def read(batch: dict[str, Any], job: InferenceJob) -> dict[str, Any]:
    """Decoded slabs."""
    frames = [GridFrame.of(json.loads(row), job.settings.grid) for row in batch["row"]]
    slabs = [read_with_context(job.store, frame, CPU).numpy() for frame in frames]
    return {"row": batch["row"], "slab": np.stack(slabs)}


def read_rate(work: Path) -> float:
    """Volumes a second that one thread reads and decodes."""
    store, settings = Store.open(work / "store"), settings_of()
    frames = [GridFrame.of(row, settings.grid) for row in store.manifest.to_pylist()]
    began = time.monotonic()
    for frame in frames:
        read_with_context(store.path, frame, CPU)
    return len(frames) / (time.monotonic() - began)


def settings_of() -> Settings:
    """The quickstart's networks on DeepLesion's grid; as many actors as CPUs."""
    replicas = os.cpu_count() or 1
    return resolve(Path("quickstart"), [*OVERRIDES, f"compute.replicas={replicas}", "compute.cpus_per_replica=0.7"])


def volumes(count: int, slices: int) -> Iterator[Volume]:
    """Noise in Hounsfield units, which decodes no faster than a scan."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-256:256, -256:256]
    body = np.where(np.hypot(x / 200, y / 150) < 1, 40, -1000)
    for index in range(count):
        hu = (body + rng.normal(0, 20, (slices, 512, 512))).astype(np.int16)
        yield Volume(f"v{index:04d}", f"p{index:04d}", hu, (2.0, 0.8, 0.8))


def make(work: Path, count: int, slices: int) -> None:
    """The store and the generator's folds, once."""
    if not (work / "store" / "manifest.parquet").exists():
        rows = [write_volume(work / "store", volume, "vh", f"h{volume.volume_id}") for volume in volumes(count, slices)]
        finish_store(work / "store", rows, [], [])
    settings = settings_of()
    torch.manual_seed(0)
    network = Generator(settings.generator, settings.grid)
    live(network)
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    for fold in range(settings.folds):
        (Location.of(work / "generator") / f"fold-{fold}.safetensors").write_bytes(save(weights))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for volumes and models, kept")
    parser.add_argument("--volumes", type=int, default=32)
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work = options.work.absolute()
    return options


if __name__ == "__main__":
    main()
