"""Ray Train: one fit a model and round, its folds shared out over the workers.

With as many workers as folds or fewer, a worker fits its folds alone, one after the other. With more, the
workers of a fold average their gradients. Weights go to a folder that all workers reach, as safetensors.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray.train
import torch
import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from safetensors.torch import save
from torch import nn

from harvester.classifier.training import fit_classifier
from harvester.config import Settings
from harvester.distributed.start import for_ray
from harvester.errors import HarvesterError
from harvester.fitting import FoldTask, Place
from harvester.labels.ledger import by_volume
from harvester.proposals.training import fit_generator
from harvester.volumes.locations import Location, Where
from harvester.volumes.slab import GridFrame

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitJob:
    """What every worker gets: paths and small things; tables are read from the run folder.

    model       generator or classifier
    out         folder that receives fold-<k>.safetensors and losses
    table       ledger (generator) or labelled tubelets (classifier) as parquet
    start       folder of weights to start from (the last round's; a first classifier's: the generator's), or None
    """

    model: str
    settings: Settings
    store: Where
    out: Location
    rows: Sequence[Mapping[str, Any]]
    folds: Mapping[str, int]
    table: Location
    start: Location | None
    seed: int


def train_folds(job: FitJob) -> None:
    """Fit all folds of a model on Ray Train. Afterwards `job.out` holds one safetensors file a fold."""
    compute = job.settings.compute
    workers = compute.train_workers
    resources = {"CPU": compute.cpus_per_train_worker} | ({"GPU": 1.0} if compute.train_gpu else {})
    # Ray resumes a run of the same name; what we resume from is our own checkpoint, so each try has its own name.
    storage = job.out / f"ray-train-{uuid4().hex[:8]}"
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=compute.train_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(name=job.model, **for_ray(storage)),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        ours = [each for each in error.worker_failures.values() if isinstance(each, HarvesterError)]
        raise (ours[0] if ours else error) from error
    for leftover in job.out.folders():
        (job.out / leftover).delete_folder()


def _train_worker(config: dict[str, Any]) -> None:
    job: FitJob = config["job"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(job.settings.compute.cpus_per_train_worker)))
    for fold, peers in shares(job.settings.folds, world):
        # Every rank takes part in making every group, or torch.distributed waits for ever.
        group = dist.new_group(peers) if len(peers) > 1 else None
        if rank in peers and not (job.out / f"fold-{fold}.safetensors").is_file():
            _fit_fold(job, fold, peers.index(rank), len(peers), _averager(group, len(peers)))
    ray.train.report({})


def shares(folds: int, world: int) -> list[tuple[int, list[int]]]:
    """(fold, ranks that fit it), every rank with as equal a load as whole folds allow."""
    if world <= folds:
        return [(fold, [fold % world]) for fold in range(folds)]
    return [(fold, [rank for rank in range(world) if rank % folds == fold]) for fold in range(folds)]


def _fit_fold(
    job: FitJob, fold: int, rank: int, world: int, average: Callable[[nn.Module], None] | None
) -> None:
    rows = [row for row in job.rows if job.folds[row["patient_id"]] != fold]
    task = FoldTask(
        job.store,
        job.seed * 1000 + fold,
        job.start / f"fold-{fold}.safetensors" if job.start else None,
        job.out / f"fold-{fold}.checkpoint.pt",
        job.settings.compute.train_gpu,
        rank,
        world,
        average,
        lambda line: logger.warning("%s fold %d: %s", job.model, fold, line),
    )
    table = job.table.read_table()
    afresh, began = not task.checkpoint.is_file(), time.monotonic()
    model: nn.Module
    if job.model == "generator":
        model, history = fit_generator(task, job.settings, rows, table)
    else:
        model, history = fit_classifier(task, job.settings, examples_of(table, rows, job.settings))
    if rank == 0:
        compute = job.settings.compute
        measured = {"memory_mib": Place.choose(compute.train_gpu, compute.precision).memory_mib()}
        if afresh:
            measured["steps_per_second"] = len(history) / (time.monotonic() - began)
        _publish(model, history, measured, job.out, fold)
        task.checkpoint.delete()


def examples_of(
    labelled: pa.Table, rows: Sequence[Mapping[str, Any]], settings: Settings
) -> dict[int, list[tuple[GridFrame, dict[str, Any]]]]:
    """Tubelets with a `label` column (1 lesion, 0 none), of the given manifest rows, with their grid frames."""
    frames = {row["volume_id"]: GridFrame.of(row, settings.grid) for row in rows}
    chosen: dict[int, list[tuple[GridFrame, dict[str, Any]]]] = {0: [], 1: []}
    for volume_id, tubelets in sorted(by_volume(labelled).items()):
        if volume_id in frames:
            for tubelet in tubelets:
                chosen[tubelet["label"]].append((frames[volume_id], tubelet))
    return chosen


def _averager(group: Any, count: int) -> Callable[[nn.Module], None] | None:
    if group is None:
        return None

    def average(model: nn.Module) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad, group=group)
                parameter.grad /= count

    return average


def _publish(
    model: nn.Module, history: list[dict[str, float]], measured: dict[str, float], out: Location, fold: int
) -> None:
    state = {name: value.detach().cpu().contiguous().float() for name, value in model.state_dict().items()}
    (out / f"fold-{fold}.losses.json").write_text(json.dumps(history))
    (out / f"fold-{fold}.measured.json").write_text(json.dumps(measured))
    (out / f"fold-{fold}.safetensors").write_bytes(save(state))
