"""Ray Data: shards of volumes over a pool of actors, for proposals and for their classification.

Manifest rows go in and a word on each shard comes out: voxels are read from the store in the actor that needs them,
and it publishes the rows of its shards itself (harvester/run/step_shards.py). What is published is not done again,
whoever dies.
A volume that fails is left out with its reason; the step fails past data.max_reject_share.
"""

import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy

from harvester.classifier.inference import Scoring
from harvester.config.settings import Settings
from harvester.distributed.watchdog import watched
from harvester.errors import HarvesterError, NoRoomError, StepError
from harvester.mining import negatives
from harvester.models.device import DeviceSpec
from harvester.proposals.inference import Proposals
from harvester.records import SCORED, TUBELETS
from harvester.run.step_shards import DEATHS, Shard, Shards, Worker, planned
from harvester.storage.location import Location, Where
from harvester.store.slab import GridFrame

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Work = Callable[[], list[Row]]

BLOCKS_PER_REPLICA: Final = 8


@dataclass(frozen=True)
class InferenceJob:
    """What every actor gets. models: folder of fold-<k>.safetensors; tubelets: parquet to classify."""

    settings: Settings
    store: Where
    models: Location
    folds: Mapping[str, int]
    shards: Shards
    tubelets: Location | None = None

    def place(self) -> DeviceSpec:
        """The actor's device, on as many threads as it was given CPUs."""
        compute = self.settings.compute
        torch.set_num_threads(max(1, round(compute.cpus_per_replica)))
        return DeviceSpec.choose(compute.gpus_per_replica > 0, compute.precision)

    def weights(self, patient_id: str) -> list[Location]:
        """The weights of the fold that never saw the patient; of all folds for an unknown patient."""
        folds = [self.folds[patient_id]] if patient_id in self.folds else range(self.settings.folds)
        return [self.models / f"fold-{fold}.safetensors" for fold in folds]


class Actor(ABC):
    """Shards of the manifest to published rows; what a volume takes is `works`' to say."""

    schema: pa.Schema

    def __init__(self, job: InferenceJob) -> None:
        self.job, self.place, self.shards = job, job.place(), job.shards
        context = ray.get_runtime_context()
        self.worker = Worker(context.get_job_id(), context.get_node_id())

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A block of shards (name, rows as JSON); for each, when it is published, its name and how many volumes.

        The next volume is read while one is worked on, across shards. Where a worker did not come back from a volume,
        it gets the actor for itself: if that ends the same way twice, it is the volume's doing, and it is left out.
        """
        shards = [Shard(*given) for given in zip(batch["name"], map(json.loads, batch["rows"]), strict=True)]
        names = [shard.name for shard in shards]
        left = {name for name, record in zip(names, self.shards.records(names), strict=True) if not record}
        held = self.shards.suspects(row for shard in shards for row in shard.rows)
        calm = {
            shard.name for shard in shards if held.isdisjoint(row["volume_id"] for row in shard.rows)
        } & left
        works = self.works(self._begun(row for shard in shards if shard.name in calm for row in shard.rows))
        for shard in shards:
            if shard.name in calm:
                self._publish(shard, works)
            elif shard.name in left:
                self._publish(shard, map(self._alone, shard.rows))
            yield {"name": [shard.name], "volumes": [len(shard.rows)]}

    def task(self, row: dict[str, Any]) -> tuple[GridFrame, list[Location]]:
        """A volume on the grid, and the models that never saw its patient."""
        return GridFrame.of(row, self.job.settings.grid), self.job.weights(row["patient_id"])

    @abstractmethod
    def works(self, rows: Iterable[Row]) -> Iterator[Work]:
        """For each volume in turn a call that gives its rows or raises its error."""

    def _begun(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.shards.begin(row["volume_id"], self.worker, alone=False)
            yield row

    def _alone(self, row: Row) -> Work:
        """The volume's work, none begun but it; or the error that it is left out with."""
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        deaths = self.shards.deaths(row["volume_id"], self.worker.driver, alive)
        if deaths >= DEATHS:
            return partial(_leave_out, f"{int(deaths)} workers that had it alone did not come back")
        self.shards.begin(row["volume_id"], self.worker, alone=True, deaths=deaths)
        return partial(_first, self.works([row]))

    def _publish(self, shard: Shard, works: Iterator[Work]) -> None:
        began, parts, errors = time.monotonic(), [], {}
        for row in shard.rows:
            try:
                found = next(works)()
            except NoRoomError:
                raise  # no fault of the volume's
            except (HarvesterError, OSError, ValueError) as error:
                errors[row["volume_id"]] = f"{type(error).__name__}: {error}"
                found = []
            parts += [{"patient_id": row["patient_id"]} | one for one in found]
            self.shards.end(row["volume_id"])
        told = {
            "volumes": [row["volume_id"] for row in shard.rows],
            "errors": errors,
            "rows": len(parts),
            "seconds": time.monotonic() - began,
            "memory_mib": self.place.memory_mib(),
        }
        self.shards.publish(shard.name, pa.Table.from_pylist(parts, self.schema), told)


class Proposer(Actor):
    """Manifest rows to tubelets."""

    schema = TUBELETS

    def __init__(self, job: InferenceJob) -> None:
        super().__init__(job)
        self.proposals = Proposals(job.settings, job.store, self.place)

    def works(self, rows: Iterable[Row]) -> Iterator[Work]:
        """Each volume through the generators that never saw its patient."""
        return self.proposals.over(self.task(row) for row in rows)


class Scorer(Actor):
    """Manifest rows to classified tubelets."""

    schema = SCORED

    def __init__(self, job: InferenceJob) -> None:
        super().__init__(job)
        self.scoring = Scoring(job.settings, job.store, self.place, self.tubelets)

    def works(self, rows: Iterable[Row]) -> Iterator[Work]:
        """Each volume's tubelets through the classifiers that never saw its patient."""
        return self.scoring.over(self.task(row) for row in rows)

    def tubelets(self, volume_id: str) -> list[dict[str, Any]]:
        """The best tubelets of a volume."""
        assert self.job.tubelets is not None  # noqa: S101  a Scorer's job has them
        mine = self.job.tubelets.read_table(filters=[("volume_id", "==", volume_id)])
        best: list[dict[str, Any]] = negatives.to_classify(
            mine, self.job.settings.classifier.max_tubelets
        ).to_pylist()
        return best


def run_over_volumes(
    actor: type[Proposer] | type[Scorer],
    job: InferenceJob,
    rows: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
) -> tuple[pa.Table, dict[str, float]]:
    """Every volume through a pool of actors, logged with its rate on the way; what was published before is not redone.

    The sorted table, and what was measured: `memory_mib`, the most that an actor's device held.
    """
    # In this order the sorted shards one after the other are the sorted table: it is never copied whole.
    shards = planned(sorted(rows, key=lambda row: row["volume_id"]))
    job.shards.plan(shards)
    done = job.shards.done()
    missing = [shard for shard in shards if shard.name not in done]
    if len(missing) < len(shards):
        logger.info(
            "%s: %d of %d shards done before", actor.__name__, len(shards) - len(missing), len(shards)
        )
    if missing:
        _work_off(actor, job, missing)
    names = [shard.name for shard in shards]
    records = job.shards.records(names)
    _refuse_if_broken(job, dict(zip(names, records, strict=True)), len(rows))
    return joined(job.shards.tables(names, schema), schema), {
        "memory_mib": max((record["memory_mib"] for record in records), default=0.0)
    }


def joined(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """One table of one chunk a column; its parts hold volumes in order, and are sorted by tubelet here."""
    keys = [("volume_id", "ascending"), ("tubelet_id", "ascending")]
    columns = pa.concat_tables([schema.empty_table(), *(table.sort_by(keys) for table in tables)]).columns
    for place, column in enumerate(columns):
        columns[place] = column.combine_chunks()
        del column  # the parts are let go
        pa.default_memory_pool().release_unused()
    return pa.table(columns, schema=schema)


def _work_off(actor: type[Proposer] | type[Scorer], job: InferenceJob, shards: list[Shard]) -> None:
    compute = job.settings.compute
    # Small blocks keep every replica busy to the end; a block is as many shards as an actor works on without a stop.
    blocks = min(len(shards), max(1, compute.replicas * BLOCKS_PER_REPLICA))
    given = [{"name": shard.name, "rows": json.dumps(shard.rows)} for shard in shards]
    dataset = ray.data.from_items(given, override_num_blocks=blocks).map_batches(
        actor,
        fn_constructor_args=(job,),
        batch_size=None,
        batch_format="numpy",
        compute=ActorPoolStrategy(
            min_size=min(compute.least_replicas, len(shards)), max_size=min(compute.replicas, len(shards))
        ),
        num_cpus=compute.cpus_per_replica,
        num_gpus=compute.gpus_per_replica or None,
        memory=compute.memory_gib_per_replica * 2**30 or None,
    )
    # Ray's own watchdog sees blocks, which may take hours; ours sees shards.
    dataset.context.execution_no_progress_timeout_s = -1
    _watch(dataset.materialize, job, shards, actor.__name__)


def _watch(work: Callable[[], Any], job: InferenceJob, shards: list[Shard], name: str) -> None:
    names, every = {shard.name for shard in shards}, sum(len(shard.rows) for shard in shards)

    def volumes(published: set[str]) -> int:
        return sum(len(shard.rows) for shard in shards if shard.name in published)

    def tell(published: set[str], seconds: float) -> None:
        done = volumes(published)
        logger.info("%s: %d of %d volumes, %.1f a second", name, done, every, done / seconds)

    watched(
        work,
        lambda: names & job.shards.done(),
        job.settings.compute.no_progress_minutes,
        lambda published: _waiting(job, [shard for shard in shards if shard.name not in published], name),
        tell,
    )


def _waiting(job: InferenceJob, left: list[Shard], name: str) -> str:
    rows = [row for shard in left for row in shard.rows]
    begun = sorted(job.shards.suspects(rows))
    held = (
        f"volumes begun: {', '.join(begun[:8])}"
        if begun
        else "no volume was begun; does the cluster have room?"
    )
    return (
        f"{name}: no shard was published for {job.settings.compute.no_progress_minutes:g} minutes "
        f"(compute.no_progress_minutes), {len(left)} are waited for; {held}. Start the same command again: "
        "what is published is kept"
    )


def _refuse_if_broken(job: InferenceJob, records: Mapping[str, Mapping[str, Any]], volumes: int) -> None:
    """Tell the volumes that were left out. Where they are too many, their shards are unpublished: a StepError."""
    errors = {name: record["errors"] for name, record in records.items() if record["errors"]}
    told = [(volume, error) for each in errors.values() for volume, error in each.items()]
    for volume, error in told[:5]:
        logger.warning("volume %s refused: %s", volume, error)
    max_share = job.settings.data.max_reject_share
    if len(told) > math.floor(max_share * volumes):
        job.shards.withdraw(errors)
        raise StepError(
            f"{len(told)} of {volumes} volumes failed, more than data.max_reject_share = {max_share} allows; "
            f"the first: volume {told[0][0]}: {told[0][1]}"
        )


def _first(works: Iterator[Work]) -> list[Row]:
    return next(works)()


def _leave_out(reason: str) -> list[Row]:
    raise StepError(reason)
