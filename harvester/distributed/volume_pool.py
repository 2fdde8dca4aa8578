"""Ray Data: parts of the volumes over a pool of actors. What they do with a volume: inference.py.

Manifest rows go in and a word on each part comes out: voxels are read from the store in the actor that needs them,
and it publishes the rows of its parts itself (harvester/run/partials.py). What is published is not done again,
whoever dies.
A volume that fails is left out with its reason, after a second try where that may be over (a disk, a network); the
step fails past data.max_reject_share.
"""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Final, Generic

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data import ActorPoolStrategy

from harvester.config.settings import Settings
from harvester.distributed.capacity import pool_request
from harvester.distributed.cluster import quarantine_in
from harvester.distributed.watchdog import BackgroundWork, said_begun
from harvester.errors import NotFiniteError, StepError, passing_cause
from harvester.mining.candidates import outside_ignored
from harvester.models.memory import require_memory
from harvester.records import SCHEMAS, IgnoreTable, Kind, TubeletTable, empty, rows_where
from harvester.run.parted_table import PartedTable
from harvester.run.partials import Part, Partials, Row, from_table, plan_parts, to_table
from harvester.run.progress import PartLines
from harvester.run.quarantine import BEGUN, Marks, begun, forget
from harvester.run.work_list import Outcome, WorkList
from harvester.storage.location import Location
from harvester.store.slab import GridFrame

logger = logging.getLogger(__name__)

Task = Callable[[], list[Row]]

BLOCKS_PER_REPLICA: Final = 8
ORDER: Final[list[tuple[str, Any]]] = [("volume_id", "ascending"), ("tubelet_id", "ascending")]


@dataclass(frozen=True)
class InferenceJob:
    """What every actor gets.

    models      folder of fold-<k>.safetensors
    tubelets    what is to be classified
    ignored     regions whose tubelets are left out
    """

    settings: Settings
    store: Location
    models: Location
    folds: Mapping[str, int]
    partials: Partials
    tubelets: PartedTable[TubeletTable] | None = None
    ignored: IgnoreTable = field(default_factory=lambda: empty(IgnoreTable))

    def weights(self, patient_id: str) -> list[Location]:
        """The weights of the fold that never saw the patient; of all folds for an unknown patient."""
        folds = [self.folds[patient_id]] if patient_id in self.folds else range(self.settings.folds)
        return [self.models / f"fold-{fold}.safetensors" for fold in folds]


class Actor(ABC, Generic[Kind]):
    """Parts of the manifest to published rows; what a volume takes is `tasks`' to say."""

    kind: Callable[[pa.Table], Kind]
    doing: ClassVar[str]  # for people

    def __init__(self, job: InferenceJob) -> None:
        self.job = job
        self.quarantine = quarantine_in(job.partials.folder)

    def __call__(self, batch: pa.Table) -> Iterator[dict[str, Any]]:
        """A block of parts (partials.to_table); for each, when it is published, its name and how many volumes.

        The next volume is read while one is worked on, across parts, but for those that may have killed a worker.
        """
        parts = from_table(batch)
        self.part_of = {row["volume_id"]: part.name for part in parts for row in part.rows}
        records = self.job.partials.records([part.name for part in parts])
        done = {part.name for part, record in zip(parts, records, strict=True) if record}
        suspects = begun(self.job.partials.folder, (row["volume_id"] for part in parts for row in part.rows))
        for part, outcomes in WorkList.split(parts, done, suspects).outcomes(self.tasks, self.quarantine):
            began = time.monotonic()
            self.publish(part, list(outcomes), began)
            yield {"name": [part.name], "volumes": [len(part.rows)]}

    def task(self, row: Row) -> tuple[GridFrame, list[Location]]:
        """A volume on the grid, and the models that never saw its patient."""
        return GridFrame.of(row, self.job.settings.grid), self.job.weights(row["patient_id"])

    @abstractmethod
    def tasks(self, rows: Iterable[Row]) -> Iterator[Task]:
        """For each volume in turn a call that gives its rows or raises its error."""

    @abstractmethod
    def memory_mib(self) -> float:
        """The most that its device held."""

    def publish(self, part: Part, outcomes: Iterable[Outcome[list[Row]]], began: float) -> None:
        """A part's rows, and the errors of the volumes that have none."""
        rows, errors, again = [], {}, 0
        for outcome in outcomes:
            require_memory(outcome.row["volume_id"], outcome.error)
            if isinstance(outcome.error, NotFiniteError):  # the model's fault: no volume is suspected for it
                forget(self.job.partials.folder)
                raise outcome.error
            if outcome.error:
                errors[outcome.row["volume_id"]] = f"{type(outcome.error).__name__}: {outcome.error}"
                again += passing_cause(outcome.error) is not None
            rows += [{"patient_id": outcome.row["patient_id"]} | row for row in outcome.result or ()]
        ignored = rows_where(self.job.ignored, "volume_id", *(row["volume_id"] for row in part.rows))
        table = outside_ignored(pa.Table.from_pylist(rows, SCHEMAS[self.kind]).sort_by(ORDER), ignored)
        note = {
            "volumes": [row["volume_id"] for row in part.rows],
            "errors": errors,
            "again": again,  # of these, those that may be over
            "rows": len(table),
            "seconds": time.monotonic() - began,
            "memory_mib": self.memory_mib(),
        }
        self.job.partials.publish(part.name, table, note)


def run_over_volumes(actor: type[Actor[Kind]], job: InferenceJob, manifest: pa.Table) -> dict[str, float]:
    """Every volume through a pool of actors, logged with its rate on the way; what was published before is not redone.

    The table lies in the parts of `job.partials` then (run/parted_table.py). Gives what was measured: `rows` of it,
    `slices` gone through, and `memory_mib`, the most that an actor's device held.
    """
    parts = plan_parts(manifest)
    job.partials.plan(parts)
    done = job.partials.done()
    missing = [part for part in parts if part.name not in done]
    if len(missing) < len(parts):
        logger.info("%s: %d of %d parts done before", actor.doing, len(parts) - len(missing), len(parts))
    names = [part.name for part in parts]
    for last in (False, True):
        if missing:
            work = BackgroundWork(_dataset(actor, job, missing).materialize)
            work.start()
            work.watch(PartProgress(job, missing, actor.doing), pool_request(job.settings.compute))
        records = _published(job.partials, names)
        missing = [part for part, record in zip(parts, records, strict=True) if record.get("again")]
        if last or not missing:
            break
        logger.info("%s: %d parts have volumes that could not be read; tried again", actor.doing, len(missing))
        job.partials.withdraw(part.name for part in missing)
    forget(job.partials.folder)
    _refuse_if_broken(job, dict(zip(names, records, strict=True)), len(manifest))
    return {
        "rows": sum(record["rows"] for record in records),
        "slices": pc.sum(manifest["depth"]).as_py() or 0,
        "memory_mib": max((record["memory_mib"] for record in records), default=0.0),
    }


def _dataset(actor: type[Actor[Any]], job: InferenceJob, parts: list[Part]) -> ray.data.Dataset:
    compute = job.settings.compute
    # Small blocks keep every replica busy to the end; a block is as many parts as an actor works on without a stop.
    blocks = min(len(parts), max(1, compute.replicas * BLOCKS_PER_REPLICA))
    ends = [len(parts) * block // blocks for block in range(blocks + 1)]
    # Not from_arrow: it sends a task to look at them, which takes a process, and waits for room where nobody watches.
    dataset: ray.data.Dataset = ray.data.from_blocks(
        [to_table(parts[start:end]) for start, end in pairwise(ends)]
    ).map_batches(
        actor,
        fn_constructor_args=(job,),
        batch_size=len(parts) // blocks,  # a block; Ray wants the number where a GPU is asked for
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=min(compute.least_replicas, len(parts)), max_size=min(compute.replicas, len(parts))
        ),
        num_cpus=compute.cpus_per_replica,
        num_gpus=compute.gpus_per_replica or None,
        memory=compute.memory_gib_per_replica * 2**30 or None,
    )
    # Ray's own watchdog sees blocks, which may take hours; ours sees parts.
    dataset.context.execution_no_progress_timeout_s = -1
    return dataset


class PartProgress:
    """Watches which volumes of the missing parts are begun and which parts are published, by one listing a look."""

    def __init__(self, job: InferenceJob, parts: list[Part], name: str) -> None:
        self.folder, self.parts, self.name = job.partials.folder, parts, name
        self.marks = Marks(self.folder)
        self.minutes = job.settings.compute.no_progress_minutes
        self.lines = PartLines(name, parts)

    def reached(self) -> tuple[list[str], dict[str, int | None]]:
        """The parts that are not published, and the marks of volumes that are begun: each ends by taking its own."""
        files, begun = self.marks.look()
        left = [part.name for part in self.parts if f"{part.name}.json" not in files]
        self.lines.reached(left, begun)
        return left, {name: when for name, when in files.items() if name.startswith(BEGUN)}

    def waiting(self) -> str:
        """The volumes that are begun."""
        lines = self.lines.lines
        return (
            f"{self.name}: no volume was begun or done for {self.minutes:g} minutes (compute.no_progress_minutes), "
            f"{lines.total - lines.done} are waited for; {said_begun(self.folder, self.parts)}. Start the same command "
            "again: what is published is kept"
        )


def _published(partials: Partials, names: Sequence[str]) -> list[Row]:
    """The records of parts that were published. Raises StepError where they are not here."""
    records = partials.records(names)
    if lost := records.count({}):
        raise StepError(
            f"{partials.folder}: {lost} of {len(names)} parts were published by their workers and are not here; is the "
            "run folder shared by all nodes? Give a --run that all of them see, also s3://bucket/folder, then start "
            "again"
        )
    return records


def _refuse_if_broken(job: InferenceJob, records: Mapping[str, Row], volumes: int) -> None:
    """Tell the volumes that were left out. Where they are too many, their parts are unpublished: a StepError."""
    errors = {name: record["errors"] for name, record in records.items() if record["errors"]}
    left_out = [(volume, error) for each in errors.values() for volume, error in each.items()]
    for volume, error in left_out[:5]:
        logger.warning("volume %s refused: %s", volume, error)
    max_share = job.settings.data.max_reject_share
    if len(left_out) > math.floor(max_share * volumes):
        job.partials.withdraw(errors)
        raise StepError(
            f"{len(left_out)} of {volumes} volumes failed, more than data.max_reject_share = {max_share} allows; "
            f"the first: volume {left_out[0][0]}: {left_out[0][1]}"
        )
