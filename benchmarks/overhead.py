"""What Ray costs: proposing and scoring through the pipeline against a bare loop over the same volumes.

    python benchmarks/overhead.py --work DIR --json FILE [--volumes 288] [--repeats 2] [--sides ray_2 two_bare]

Sides, each in a process of its own, in turns: `bare` (one process with two threads, no Ray), `two_bare` (two processes
of one thread, half of the volumes each), `one_bare` (one process of one thread), `ray_2` and `ray_1` (run_over_volumes
with two actors and with one). On two cores, Ray's own processes take their time from `ray_2` and not from `ray_1`. A
rate counts the volumes that were finished between a fifth and nine tenths of the way (once warm); start-up is the time
to the first finished volume. ratio_to_bare_loop is ray_2's volumes a second, proposed and scored, over bare's.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import ray
import torch
from safetensors.torch import save

from harvester.classifier.inference import Scoring
from harvester.classifier.network import Classifier
from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.distributed.cluster import start_ray
from harvester.distributed.inference import Proposer, Scorer
from harvester.distributed.preparation import prepare
from harvester.distributed.volume_pool import InferenceJob, run_over_volumes
from harvester.labels.folds import patient_folds
from harvester.mining.negatives import to_classify
from harvester.models.device import DeviceSpec
from harvester.proposals.inference import Proposals
from harvester.proposals.network import Generator
from harvester.records import SCORED, TUBELETS, TubeletTable, Volume, each_row
from harvester.run.parted_table import PartedTable
from harvester.run.partials import Partials, plan_parts
from harvester.storage.location import Location
from harvester.store.slab import GridFrame
from harvester.store.store import Store, finish_store

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.builders import write_volume

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
MADE: Final = 24
"""Distinct phantoms; the store holds each several times under other names."""
SIDES: Final = ("ray_2", "bare", "ray_1", "two_bare", "one_bare")
STEPS: Final = ("propose", "classify")
WARM: Final = (0.2, 0.9)
Times = dict[str, list[float]]


def main() -> int:
    """Make the volumes, run the sides in turns, print."""
    options = parse()
    if options.side:
        print(json.dumps(one_side(options.side, options.work, options.part)))
        return 0
    make(options.work, options.volumes)
    by_side: dict[str, list[dict[str, float]]] = {side: [] for side in options.sides}
    for turn in range(options.repeats):
        for side in options.sides:
            by_side[side].append(measured(side, options.work))
            print(
                f"turn {turn} {side:9}",
                {name: round(value, 3) for name, value in by_side[side][-1].items()},
                flush=True,
            )
    figures = summary(by_side)
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def summary(by_side: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over the turns; a ratio is of sides of the same turn."""

    def middle(values: Iterator[float]) -> float:
        return round(statistics.median(values), 4)

    def ratio(one: str, other: str, name: str = "both") -> float:
        return middle(a[name] / b[name] for a, b in zip(by_side[one], by_side[other], strict=True))

    ratios = {
        "ratio_to_bare_loop": ("ray_2", "bare"),
        "ratio_to_two_bare_loops": ("ray_2", "two_bare"),
        "one_replica_to_one_bare_loop": ("ray_1", "one_bare"),
        "one_replica_to_two": ("ray_1", "ray_2"),
    }
    return {
        **{name: ratio(*sides) for name, sides in ratios.items() if by_side.keys() >= {*sides}},
        "volumes_per_second": {side: middle(each["both"] for each in rows) for side, rows in by_side.items()},
        "startup_seconds": {
            side: {name: middle(each[name] for each in rows) for name in rows[0] if name.startswith("startup")}
            for side, rows in by_side.items()
        },
        "turns": len(next(iter(by_side.values()))),
    }  # fmt: skip


def measured(side: str, work: Path) -> dict[str, float]:
    """Warm rates of one run of a side, and its start-up seconds."""
    command = [sys.executable, __file__, "--work", str(work), "--side", side]
    parts = (0, 1) if side == "two_bare" else (-1,)
    running = [subprocess.Popen([*command, "--part", str(part)], stdout=subprocess.PIPE, text=True) for part in parts]
    answers = [json.loads(each.communicate()[0].splitlines()[-1]) for each in running]
    rates = {step: sum(warm_rate(answer[step]) for answer in answers) for step in STEPS}
    startup = {f"startup_{step}": max(answer[step][0] for answer in answers) for step in STEPS}
    return {**rates, "both": 1 / sum(1 / rate for rate in rates.values()), **startup}


def warm_rate(times: list[float]) -> float:
    """Volumes a second between a fifth and nine tenths of the way; `times` since the start, sorted."""
    low, high = (round(share * (len(times) - 1)) for share in WARM)
    return (high - low) / (times[high] - times[low])


def one_side(side: str, work: Path, part: int) -> Times:
    """When each volume was finished, in seconds since the step's start."""
    store, settings = Store.open(work / "store"), settings_of()
    rows = store.manifest.to_pylist()
    if side.startswith("ray"):
        start_ray()
        return by_ray(settings, store, work, int(side[-1]))
    torch.set_num_threads(2 if side == "bare" else 1)
    return bare(settings, store, rows if part < 0 else rows[part::2], work)


def bare(settings: Settings, store: Store, rows: list[dict[str, Any]], work: Path) -> Times:
    """The same objects that the actors hold, in a loop."""
    job = job_in(settings, store, work, "generator")
    spec = DeviceSpec.choose(False, settings.compute.precision)
    tubelets = Location.of(work / "tubelets.parquet")

    def tasks(models: InferenceJob) -> Iterator[tuple[GridFrame, list[Location]]]:
        return ((GridFrame.of(row, settings.grid), models.weights(row["patient_id"])) for row in rows)

    def tubelets_of(volume_id: str) -> list[dict[str, Any]]:
        own = tubelets.read_table(filters=[("volume_id", "==", volume_id)])
        return list(to_classify(own, settings.classifier.max_tubelets).to_pylist())

    by_step = {"propose": finished(lambda: Proposals(settings, store.path, spec).over(tasks(job)), rows, TUBELETS)}
    scoring = job_in(settings, store, work, "classifier")
    by_step["classify"] = finished(
        lambda: Scoring(settings, store.path, spec, tubelets_of).over(tasks(scoring)), rows, SCORED
    )
    return by_step


def finished(works: Callable[[], Iterator[Any]], rows: list[dict[str, Any]], schema: pa.Schema) -> list[float]:
    """When each volume's rows were there, as a table like the pipeline's."""
    began, times, tables = time.monotonic(), [], []
    for row, work in zip(rows, works(), strict=True):
        found = [{"patient_id": row["patient_id"]} | one for one in work()]
        tables.append(pa.Table.from_pylist(found, schema))
        times.append(time.monotonic() - began)
    assert sum(map(len, tables)) > len(rows)
    return times


def by_ray(settings: Settings, store: Store, work: Path, replicas: int) -> Times:
    """The pipeline of a harvest; the actors' records say when a shard was finished."""
    compute = settings.compute.model_copy(update={"replicas": replicas})
    own = settings.model_copy(update={"compute": compute})
    by_step, aside = {}, Location.of(work / f"{time.time()}")
    proposed = PartedTable(Partials(aside / "propose.partials"), TubeletTable)
    for step, actor, models in (("propose", Proposer, "generator"), ("classify", Scorer, "classifier")):
        partials = Partials(aside / f"{step}.partials")
        job = replace(job_in(own, store, work, models), partials=partials, tubelets=proposed)
        began = time.time()
        run_over_volumes(actor, job, store.manifest)  # type: ignore[arg-type]
        records = [partials.record(shard.name) or {} for shard in plan_parts(store.manifest)]
        assert not any(record["errors"] for record in records)
        by_step[step] = sorted(record["ended"] - began for record in records for _ in record["volumes"])
    Location.of(work / "tubelets.parquet").write_table(proposed.whole(), row_group_size=4096)
    aside.delete_folder()
    return by_step


def job_in(settings: Settings, store: Store, work: Path, models: str) -> InferenceJob:
    """A step's job; its shards are put in by by_ray."""
    folds = patient_folds(each_row(store.manifest), settings.folds, settings.seed)
    return InferenceJob(
        settings, store.path, Location.of(work / models), folds, Partials(Location.of(work / "nowhere"))
    )


def settings_of() -> Settings:
    """The quickstart's, with as many boxes from random weights as from fitted ones."""
    return resolve(QUICKSTART, ["generator.top_k=20", "generator.score_floor=0.0001"])


def make(work: Path, volumes: int) -> None:
    """The store and both models' folds, once."""
    settings = settings_of()
    if not (work / "store" / "manifest.parquet").exists():
        start_ray()
        few = settings.model_copy(deep=True)
        phantom = few.data.phantom.model_copy(update={"vm_volumes": MADE, "vh_test_volumes": 1})
        few = few.model_copy(update={"data": few.data.model_copy(update={"phantom": phantom})})
        made = prepare(few, None, work / "phantoms")
        ids = made.manifest["volume_id"].to_pylist()[:MADE]
        rows = []
        for index in range(volumes):
            volume = made.read(ids[index % MADE])
            copy = Volume(f"v{index:05d}", f"p{index:05d}", volume.hu_zyx, volume.spacing_zyx_mm)
            rows.append(write_volume(work / "store", copy, "vh", f"h{index}"))
        finish_store(work / "store", rows, [], [])
        ray.shutdown()
    make_models(work, settings)


def make_models(work: Path, settings: Settings) -> None:
    """Both models' folds, with random weights."""
    torch.manual_seed(0)
    networks = {
        "generator": Generator(settings.generator, settings.grid),
        "classifier": Classifier(settings.classifier, settings.grid),
    }
    for name, network in networks.items():
        live(network)
        weights = {key: value.contiguous() for key, value in network.state_dict().items()}
        for fold in range(settings.folds):
            (Location.of(work / name) / f"fold-{fold}.safetensors").write_bytes(save(weights))


def live(network: torch.nn.Module) -> None:
    """Batch norms as training leaves them: random weights then answer differently from place to place."""
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d) and norm.running_var is not None:
            norm.running_var.uniform_(0.01, 0.5)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for volumes and models, kept")
    parser.add_argument("--volumes", type=int, default=288)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--sides", choices=SIDES, nargs="*", default=SIDES)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, default=-1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work = options.work.absolute()
    return options


if __name__ == "__main__":
    sys.exit(main())
