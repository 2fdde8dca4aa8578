"""Does a volume cost the same among 100 as among 100,000, and does the driver stay small?

    python benchmarks/scale.py --work DIR --json FILE [--counts 100 1000 10000] [--rounds 1000 10000 100000]

Tiny volumes (8 slices of 64 x 64) are proposed and scored by the pipeline of a harvest with the quickstart's networks
(random weights) on two actors. For each of --counts: seconds a volume once warm, both steps together, the median of
several goes where they are short; the driver's resident memory at its highest less that after its start; bytes that
Ray's object store spilled. For each of --rounds what follows the scoring, of an archive whose tubelets are made up
(TUBELETS_EACH a volume, a lesion marked in each, 100 volumes of V_M): the operating point, the harvest, hard negatives,
the labels of the next round, what is missing and the report, by the same calls as a harvest; seconds a volume, and the
driver's memory. Each count is a process of its own, and so is its making. Then what planning, publishing and reading
back cost at 1,000,000 volumes.
"""

import argparse
import json
import statistics
import subprocess
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

import harvester.cli  # noqa: F401  a command's environment, for the processes that are started here
from harvester.config.settings import Settings
from harvester.distributed.cluster import start_ray
from harvester.distributed.inference import Proposer, Scorer
from harvester.distributed.sweep import in_tasks
from harvester.distributed.volume_pool import run_over_volumes
from harvester.harvest import choose_operating_point, mine, record
from harvester.list_columns import lists
from harvester.mining.round_view import StoreTables
from harvester.records import SCORED, TUBELETS, Mark, ScoredTable, TubeletTable, Volume
from harvester.report.build import write_report
from harvester.results.completeness import expected_missing
from harvester.results.history import History
from harvester.results.rounds import rounds_viewed
from harvester.run.folder import Artifact, Run
from harvester.run.parted_table import PartedTable
from harvester.run.partials import Partials, plan_parts
from harvester.storage.location import Location
from harvester.store.container import open_shard
from harvester.store.store import Store, finish_store

SHAPE: Final = (8, 64, 64)
IN_A_FILE: Final = 500
MIB: Final = 2**20
GOES: Final = {100: 3, 1000: 2}
ROWS: Final = 1_000_000
VM: Final = 100
TUBELETS_EACH: Final = 40
LESION: Final = (2.0, 8.0, 11.0, 17.0)
HIDDEN: Final = (30.0, 8.0, 39.0, 17.0)
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
        while not self.over.wait(0.02):
            self.most_mib = max(self.most_mib, psutil.Process().memory_info().rss / MIB)


def main() -> int:
    """Volumes, one harvest's sweeps a count, a round a count, the manifest of a million volumes."""
    options = parse()
    if options.made_round:
        folder = options.work / f"round-{options.made_round}"
        scored_archive(folder / "scored.partials", known_archive(folder / "store", options.made_round))
        return 0
    if options.one_round:
        print(json.dumps(one_round(options.work / f"round-{options.one_round}", options.one_round)))
        return 0
    figures: dict[str, Any] = sweeps(options) if options.counts else {}
    if options.rounds:
        command = [sys.executable, __file__, "--work", str(options.work)]
        rounds = {}
        for count in options.rounds:
            subprocess.run([*command, "--made-round", str(count)], check=True)
            done = subprocess.run([*command, "--one-round", str(count)], stdout=subprocess.PIPE, text=True, check=True)
            rounds[count] = json.loads(done.stdout.splitlines()[-1])
            print(f"{count:6} volumes, after the scoring: {rounds[count]}", flush=True)
        figures["round"] = rounds
    figures["manifest"] = million()
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def sweeps(options: argparse.Namespace) -> dict[str, Any]:
    """Proposing and scoring, a count after the other."""
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
    return {
        "seconds_per_volume": seconds,
        "spread": max(seconds.values()) / min(seconds.values()) - 1,
        "driver_growth_mib": growth,
        "spilled_bytes": spilled(),
    }


def one_round(work: Path, count: int) -> dict[str, float]:
    """What follows the scoring of so many volumes of V_H: seconds a volume, and the driver's memory."""
    settings = settings_of().model_copy(update={"rounds": 1})
    start_ray()
    with Watch() as watch:
        figures = _one_round(work, count, settings)
    return figures | {
        "driver_began_mib": round(watch.began_mib, 1),
        "driver_growth_mib": round(watch.most_mib - watch.began_mib, 1),
    }


def _one_round(work: Path, count: int, settings: Settings) -> dict[str, float]:
    store = Store.open(work / "store")
    run = Run.open(Location.of(work / f"run-{time.time()}"), settings, store)
    scored = PartedTable(Partials(Location.of(work / "scored.partials")), ScoredTable)
    began = time.monotonic()
    history, labels = harvested(run, scored)
    write_report(history.report_inputs())
    seconds, found = time.monotonic() - began, len(history.lesions)
    run.folder.delete_folder()
    return {
        "seconds": round(seconds, 1),
        "ms_per_volume": round(1000 * seconds / count, 3),
        "harvested": found,
        "labels": labels,
    }


def harvested(run: Run, scored: PartedTable[ScoredTable]) -> tuple[History, int]:
    """A harvest's one round from its scores on, and the number of labels in its ledger."""
    store, settings = run.store, run.settings
    history, known = History(run), StoreTables.of(store, settings, run.folds, run.data_hash)
    ledger, view = known.ledger, rounds_viewed((scored,), store, settings, in_tasks, known)
    point = choose_operating_point(run, 0, view)
    history.look(0, view, point)
    found = mine(view, point)
    weights = Artifact(run.folder, "0", 0.0, content="0")
    ledger = record(run, 0, ledger, found, (weights, weights))
    history.append(0, view, point, found, "0")
    history.finish(ledger, expected_missing(view, point, history.lesions, history.left_out))
    return history, len(ledger)


def known_archive(folder: Path, count: int) -> Store:
    """A store of which nothing but its tables is read: `count` volumes of V_H with a mark each, and V_M."""
    if (folder / "manifest.parquet").exists():
        return Store.open(folder)
    hu = np.full(SHAPE, 40, np.int16)
    with open_shard(Location.of(folder) / "shards" / "all.shard") as shard:
        first = shard.add(Volume("v", "p", hu, (4.0, 1.6, 1.6)), "vh", "h")
    names = [*(f"m{i:06d}" for i in range(VM)), *(f"v{i:07d}" for i in range(count))]
    own = ("volume_id", "patient_id", "split", "source_hash", "voxel_hash")
    rows = [
        first
        | dict(zip(own, (name, f"p{name}", "vm" if name[0] == "m" else "vh", f"h{name}", f"x{name}"), strict=True))
        for name in names
    ]
    marks = [Mark(name, "c", 4, *LESION, clinical=True) for name in names]
    marks += [Mark(name, "a", 4, *HIDDEN, clinical=False) for name in names[:VM]]
    return finish_store(folder, rows, marks, [])


def scored_archive(folder: Path, store: Store) -> PartedTable[ScoredTable]:
    """Tubelets of every volume by chance, those on lesions higher: as workers publish them."""
    partials = Partials(Location.of(folder))
    parts = plan_parts(store.manifest)
    if len(partials.names()) == len(parts):
        return PartedTable(partials, ScoredTable)
    partials.plan(parts)
    rng = np.random.default_rng(0)
    for part in parts:
        ids = [row["volume_id"] for row in part.rows]
        table = tubelets_by_chance(ids, rng)
        note = {"volumes": ids, "errors": {}, "rows": len(table), "memory_mib": 0.0}
        partials.publish(part.name, table, note)
    return PartedTable(partials, ScoredTable)


def tubelets_by_chance(ids: list[str], rng: np.random.Generator) -> pa.Table:
    """TUBELETS_EACH a volume: one on its mark, one on what nobody marked, the rest elsewhere."""
    count = len(ids) * TUBELETS_EACH
    number = np.tile(np.arange(TUBELETS_EACH), len(ids))
    lesion = number < 2
    lpg, lpc = (np.where(lesion, rng.beta(8, 2, count), rng.beta(1.5, 6, count)) for _ in range(2))
    x1 = np.where(number == 0, LESION[0], np.where(number == 1, HIDDEN[0], rng.uniform(0, 40, count)))
    y1 = np.where(lesion, LESION[1], rng.uniform(30, 50, count))
    slices = 3
    each, lengths = {"x1": x1, "y1": y1, "x2": x1 + 9, "y2": y1 + 9}, np.full(count, slices)
    columns = {side: lists(np.repeat(values, slices), lengths, pa.float64()) for side, values in each.items()}
    names = np.repeat(ids, TUBELETS_EACH)
    columns |= {
        "volume_id": pa.array(names, pa.string()),
        "patient_id": pa.array(np.char.add("p", names), pa.string()),
        "tubelet_id": pa.array(number, pa.int32()),
        "lpg_score": pa.array(lpg),
        "lpc_score": pa.array(lpc),
        "width_mm": pa.array(np.full(count, 16.0)),
        "z": lists(np.tile([3, 4, 5], count), lengths, pa.int32()),
        "slice_score": lists(np.repeat(lpg, slices), lengths, pa.float64()),
    }
    return pa.table({name: columns[name] for name in SCORED.names}, schema=SCORED)


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
    total = 0.0
    with tempfile.TemporaryDirectory(dir=work) as aside:
        proposed = PartedTable(Partials(Location.of(aside) / f"{STEPS[0]}.partials"), TubeletTable)
        for step, actor, models in ((STEPS[0], Proposer, "generator"), (STEPS[1], Scorer, "classifier")):
            partials = Partials(Location.of(aside) / f"{step}.partials")
            job = replace(job_in(settings, store, work, models), partials=partials, tubelets=proposed)
            began = time.time()
            run_over_volumes(actor, job, store.manifest)  # type: ignore[arg-type]
            records = [partials.record(shard.name) or {} for shard in plan_parts(store.manifest)]
            times = sorted(record["ended"] - began for record in records for _ in record["volumes"])
            total += 1 / warm_rate(times)
    return total


def spilled() -> int:
    """Bytes that the object stores of all nodes have written to disks."""
    reply = get_memory_info_reply(get_state_from_address())
    return int(reply.store_stats.spilled_bytes_total)


def million() -> dict[str, Any]:
    """Seconds at a million rows: to plan, and from a sample of published shards to list and to read back."""
    ids = pa.array([f"v{i:07d}" for i in range(ROWS)])
    began = time.monotonic()
    plan = plan_parts(pa.table({"volume_id": ids, "patient_id": ids}))
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
    parser.add_argument("--counts", type=int, nargs="*", default=[100, 1000, 10000])
    parser.add_argument("--rounds", type=int, nargs="*", default=[1000, 10000, 100000])
    for part in ("--made-round", "--one-round"):
        parser.add_argument(part, type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    options.work = options.work.absolute()
    return options


if __name__ == "__main__":
    sys.exit(main())
