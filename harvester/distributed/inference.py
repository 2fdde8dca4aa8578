"""Ray Data: volumes over a pool of actors, for proposals and for their classification.

Only ids go in and only rows of tubelets come out: voxels are read from the store in the actor that needs them.
A volume that fails becomes a reject row with its reason; the step fails past data.max_reject_share.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
import torch
from ray.data import ActorPoolStrategy

from harvester import mining
from harvester.classifier.inference import Scoring
from harvester.config import Settings
from harvester.errors import HarvesterError, StepError
from harvester.fitting import Place
from harvester.proposals.inference import Proposals
from harvester.records import SCORED, TUBELETS
from harvester.volumes.locations import Where
from harvester.volumes.slab import GridFrame

logger = logging.getLogger(__name__)

BLOCKS_PER_REPLICA: Final = 8
SECONDS_BETWEEN_LINES: Final = 15.0


@dataclass(frozen=True)
class InferenceJob:
    """What every actor gets. models: folder of fold-<k>.safetensors; tubelets: parquet to classify."""

    settings: Settings
    store: Where
    models: Path
    folds: Mapping[str, int]
    tubelets: Path | None = None

    def place(self) -> Place:
        """The actor's device, on as many threads as it was given CPUs."""
        compute = self.settings.compute
        torch.set_num_threads(max(1, round(compute.cpus_per_replica)))
        return Place.choose(compute.gpus_per_replica > 0, compute.precision)

    def weights(self, patient_id: str) -> list[Path]:
        """The weights of the fold that never saw the patient; of all folds for an unknown patient."""
        folds = [self.folds[patient_id]] if patient_id in self.folds else range(self.settings.folds)
        return [self.models / f"fold-{fold}.safetensors" for fold in folds]


class Actor:
    """Manifest rows to a step's rows, each volume's with a status row; what a volume takes is `works`' to say."""

    schema: pa.Schema

    def __init__(self, job: InferenceJob) -> None:
        self.job, self.place = job, job.place()

    def __call__(self, batch: dict[str, Any]) -> Iterator[pa.Table]:
        """A block of the manifest (JSON-free columns) to a table a volume."""
        rows = _rows(batch)
        for row, work in zip(rows, self.works(rows), strict=True):
            yield _guarded(row, work, self.schema, self.place)

    def task(self, row: dict[str, Any]) -> tuple[GridFrame, list[Path]]:
        """A volume on the grid, and the models that never saw its patient."""
        return GridFrame.of(row, self.job.settings.grid), self.job.weights(row["patient_id"])

    def works(self, rows: list[dict[str, Any]]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """For each volume in turn a call that gives its rows or raises its error."""
        raise NotImplementedError


class Proposer(Actor):
    """Manifest rows to tubelets."""

    schema = TUBELETS

    def __init__(self, job: InferenceJob) -> None:
        super().__init__(job)
        self.proposals = Proposals(job.settings, job.store, self.place)

    def works(self, rows: list[dict[str, Any]]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """Each volume through the generators that never saw its patient."""
        return self.proposals.over(self.task(row) for row in rows)


class Scorer(Actor):
    """Manifest rows to classified tubelets."""

    schema = SCORED

    def __init__(self, job: InferenceJob) -> None:
        super().__init__(job)
        self.scoring = Scoring(job.settings, job.store, self.place, self.tubelets)

    def works(self, rows: list[dict[str, Any]]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """Each volume's tubelets through the classifiers that never saw its patient."""
        return self.scoring.over(self.task(row) for row in rows)

    def tubelets(self, volume_id: str) -> list[dict[str, Any]]:
        """The best tubelets of a volume."""
        mine = pq.read_table(self.job.tubelets, filters=[("volume_id", "==", volume_id)])
        best: list[dict[str, Any]] = mining.to_classify(
            mine, self.job.settings.classifier.max_tubelets
        ).to_pylist()
        return best


def run_over_volumes(
    actor: type[Proposer] | type[Scorer],
    job: InferenceJob,
    rows: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
) -> tuple[pa.Table, dict[str, float]]:
    """Every volume through a pool of actors, logged with its rate on the way.

    The sorted table, and what was measured: `memory_mib`, the most that an actor's device held.
    """
    compute = job.settings.compute
    plain = [{name: row[name] for name in sorted(row)} for row in rows]
    # Small blocks keep every replica busy to the end; no more of them than volumes.
    blocks = min(len(plain), max(1, compute.replicas * BLOCKS_PER_REPLICA))
    dataset = ray.data.from_items(plain, override_num_blocks=blocks).map_batches(
        actor,
        fn_constructor_args=(job,),
        batch_size=None,  # a block: its actor reads the next volume while it works on one
        batch_format="numpy",
        compute=ActorPoolStrategy(size=min(compute.replicas, len(plain))),
        num_cpus=compute.cpus_per_replica,
        num_gpus=compute.gpus_per_replica or None,
    )
    parts = list(
        _watched(dataset.iter_batches(batch_size=None, batch_format="pyarrow"), len(plain), actor.__name__)
    )
    table = pa.concat_tables(parts)
    _refuse_if_broken(table, len(plain), job.settings.data.max_reject_share)
    whole = table.filter(pa.compute.greater_equal(table["tubelet_id"], 0)).select(schema.names).cast(schema)
    whole = whole.sort_by([("volume_id", "ascending"), ("tubelet_id", "ascending")]).combine_chunks()
    return whole, {"memory_mib": pa.compute.max(table["memory_mib"]).as_py() or 0.0}


def _rows(batch: dict[str, Any]) -> list[dict[str, Any]]:
    names = list(batch)
    return [
        {
            name: value.item() if hasattr(value, "item") else value
            for name, value in zip(names, values, strict=True)
        }
        for values in zip(*batch.values(), strict=True)
    ]


def _guarded(
    row: dict[str, Any], work: Callable[[], list[dict[str, Any]]], schema: pa.Schema, place: Place
) -> pa.Table:
    """The volume's rows with a status row (tubelet_id -1) ahead; a failure is the status row's `error`."""
    status = {"volume_id": row["volume_id"], "patient_id": row["patient_id"], "tubelet_id": -1, "error": ""}
    try:
        found = work()
    except (HarvesterError, OSError, ValueError) as error:
        status["error"], found = f"{type(error).__name__}: {error}", []
    status["memory_mib"] = place.memory_mib()
    full = schema.append(pa.field("error", pa.string())).append(pa.field("memory_mib", pa.float64()))
    return pa.Table.from_pylist([status, *({"patient_id": row["patient_id"]} | f for f in found)], full)


def _watched(batches: Iterable[pa.Table], volumes: int, name: str) -> Iterable[pa.Table]:
    began = last = time.monotonic()
    done = 0
    for batch in batches:
        done += pa.compute.sum(pa.compute.equal(batch["tubelet_id"], -1)).as_py() or 0
        now = time.monotonic()
        if now - last > SECONDS_BETWEEN_LINES:
            logger.info("%s: %d of %d volumes, %.1f a second", name, done, volumes, done / (now - began))
            last = now
        yield batch


def _refuse_if_broken(table: pa.Table, volumes: int, max_share: float) -> None:
    errors = table.filter(pa.compute.greater(pa.compute.utf8_length(table["error"]), 0))
    for row in errors.slice(0, 5).to_pylist():
        logger.warning("volume %s refused: %s", row["volume_id"], row["error"])
    if len(errors) > math.floor(max_share * volumes):
        first = errors.slice(0, 1).to_pylist()[0]
        raise StepError(
            f"{len(errors)} of {volumes} volumes failed, more than data.max_reject_share = {max_share} allows; "
            f"the first: volume {first['volume_id']}: {first['error']}"
        )
