"""Ray Train: the fits of a job (the folds of a model; detectors on label sets) shared out over its workers.

With as many workers as fits or fewer, a worker takes its fits alone, one after the other. With more, the workers of
a fold share its batches (harvester/models/data_parallel.py). Either way the models are the same but for rounding, and
another number of workers goes on from the same checkpoints. Weights go to a folder that all workers reach, as
safetensors.
"""

import errno
import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol
from uuid import uuid4

import pyarrow as pa
import ray.train
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train import BackendConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from safetensors.torch import save
from torch import nn

from harvester.classifier.training import fit_classifier
from harvester.config.settings import Settings
from harvester.distributed.capacity import training_request
from harvester.distributed.cluster import for_ray
from harvester.distributed.fit_progress import BEGUN, FitProgress, telling
from harvester.distributed.watchdog import BackgroundWork
from harvester.errors import HarvesterError, StepError, one_line
from harvester.labels.ledger import by_volume
from harvester.models.data_parallel import Ranks
from harvester.models.device import DeviceSpec
from harvester.models.fit import FoldTask
from harvester.models.memory import out_of_memory
from harvester.proposals.training import fit_generator
from harvester.records import LedgerTable, ManifestTable, each_row
from harvester.storage.location import Location
from harvester.store.slab import GridFrame

logger = logging.getLogger(__name__)

UNREACHABLE: Final = re.compile(r"gloo|nccl|connection|\bpeer\b|socket|broken pipe|timed? ?out", re.IGNORECASE)
"""How torch's process groups say that another rank is gone."""
AWAY: Final = (
    errno.EIO,
    errno.ESTALE,
    errno.EBUSY,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
)
"""A disk or a share that was not there for a moment."""


class TrainJob(Protocol):
    """Fits that workers share out.

    out     the folder that all workers reach: checkpoints, weights, what says that a fit is done
    """

    @property
    def name(self) -> str:
        """What is fitted, for people."""

    @property
    def settings(self) -> Settings:
        """Those of the run."""

    @property
    def out(self) -> Location:
        """See above."""

    @property
    def fits(self) -> int:
        """How many there are."""

    def is_done(self, number: int) -> bool:
        """Whether a fit was done before."""

    def fit(self, number: int, ranks: Ranks) -> None:
        """Do one, as one of its ranks; its last act is to publish what `is_done` looks for."""


@dataclass(frozen=True)
class FitJob:
    """The folds of a model. Every worker gets paths and small things; tables are read from the run folder.

    model       generator or classifier
    out         folder that receives fold-<k>.safetensors and losses
    table       ledger (generator) or labelled tubelets (classifier) as parquet
    start       folder of weights to start from (the last round's; a first classifier's: the generator's), or None
    """

    model: str
    settings: Settings
    store: Location
    out: Location
    rows: ManifestTable
    folds: Mapping[str, int]
    table: Location
    start: Location | None
    seed: int

    @property
    def name(self) -> str:
        """The model's."""
        return self.model

    @property
    def fits(self) -> int:
        """One a fold, and one of all patients where it is asked for."""
        return self.settings.models

    def is_done(self, number: int) -> bool:
        """Whether the fold has its weights."""
        return (self.out / f"fold-{number}.safetensors").is_file()

    def fit(self, number: int, ranks: Ranks) -> None:
        """Fit a fold."""
        _fit_fold(self, number, ranks)


def train_folds(job: TrainJob) -> None:
    """Do all fits of a job on Ray Train. Afterwards `job.out` holds one safetensors file per fold of a model.

    Lost workers are replaced, and the fits go on from their last checkpoints. Raises StepError where that happens too
    often or nothing moves, and at once where a worker raised: it would again. Its own HarvesterErrors stay themselves.
    """
    retries = job.settings.compute.train_retries
    for tries in range(1, retries + 2):
        try:
            work = BackgroundWork(partial(_fit_all, job))
            work.start()
            work.watch(FitProgress(job), training_request(job.settings.compute))
            break
        except (TrainingFailedError, RayError) as error:
            failures = _failures(error)
            if isinstance(failures[0], HarvesterError) or not any(map(_is_loss, failures)):
                raise _for_good(job.name, failures[0], str(error)) from error
            names = ", ".join(sorted({type(each).__name__ for each in failures}))
            if tries > retries:
                raise StepError(
                    f"{job.name}: training workers were lost {tries} times ({names}), compute.train_retries = "
                    f"{retries}; memory is the usual reason: take fewer generator.batch_slabs or nodes with more, then "
                    "start the same command again: it goes on from the last checkpoint"
                ) from error
            logger.warning(
                "%s: training was interrupted (%s), going on from the last checkpoint, try %d of %d",
                job.name, names, tries, retries,
            )  # fmt: skip
    for leftover in job.out.folders():
        (job.out / leftover).delete_folder()


def _failures(error: Exception) -> list[Exception]:
    """What went wrong in the workers, or else in Ray's controller of them, ours first."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", error)]
    return sorted(failures, key=lambda each: not isinstance(each, HarvesterError))


def _is_loss(error: Exception) -> bool:
    """Whether a worker, its node, its disk or the one that it shares a fold with was lost: it may be there again."""
    of_ray = type(error).__module__.startswith("ray.")
    unreachable = isinstance(error, RuntimeError) and UNREACHABLE.search(str(error))
    away = isinstance(error, TimeoutError | ConnectionError) or getattr(error, "errno", None) in AWAY
    return of_ray or isinstance(error, dist.DistError) or bool(unreachable) or away


def _for_good(model: str, error: Exception, traceback: str) -> HarvesterError:
    """For a worker's error that would come again."""
    if isinstance(error, HarvesterError):
        return error
    place = [f", {file} line {line}" for file, line in re.findall(r'([^"/]+)", line (\d+)', traceback)]
    told = f"{type(error).__name__}: {one_line(error)[:300]}{''.join(place[-1:])}"
    if out_of_memory(error):
        told += f"; take a smaller {'generator.batch_slabs' if model == 'generator' else 'classifier.batch_size'}"
    if isinstance(error, OSError):
        return StepError(
            f"{model}: training failed ({told}); see to that, then start the same command again: it goes on from the "
            "last checkpoint"
        )
    return StepError(f"{model}: training failed ({told}); the same would happen again, so it was not tried again")


def _fit_all(job: TrainJob) -> None:
    compute = job.settings.compute
    resources = {"CPU": compute.cpus_per_train_worker} | ({"GPU": 1.0} if compute.train_gpu else {})
    # Ray resumes a run of the same name; what we resume from is our own checkpoint, so each try has its own name.
    # A node that is taken away with notice is Ray's to replace (as often as need be); it, too, starts from there.
    storage = job.out / f"ray-train-{uuid4().hex[:8]}"
    # Else Ray gives up after a minute beside another job, with a traceback. How long is waited is FitProgress' to say.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(60 * compute.no_progress_minutes)
    # No TorchTrainer, and no `train_loop_config`: with them Ray's controller would import torch before a worker starts.
    DataParallelTrainer(
        partial(_train_worker, job),
        scaling_config=ScalingConfig(
            num_workers=compute.train_workers, use_gpu=compute.train_gpu, resources_per_worker=resources
        ),
        # What failed is said by train_folds in one line, not by Ray in fifty lines of two processes.
        run_config=RunConfig(  # type: ignore[call-arg]  # Ray's types are those of its older Train
            name=job.name, logging_config=LoggingConfig("CRITICAL"), **for_ray(storage)
        ),
        backend_config=grouping(job.fits, compute.train_workers, compute.train_gpu),
    ).fit()


def grouping(fits: int, workers: int, gpu: bool = False) -> BackendConfig:
    """torch's process group only where workers share a fold: its store listens on all interfaces in any case."""
    shared = any(len(peers) > 1 for _, peers in shares(fits, workers))
    return TorchConfig("nccl" if gpu else "gloo") if shared else BackendConfig()


def _train_worker(job: TrainJob) -> None:
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    (job.out / BEGUN / f"rank-{rank}").write_text("")
    torch.set_num_threads(max(1, int(job.settings.compute.cpus_per_train_worker)))
    for number, peers in shares(job.fits, world):
        # Every rank takes part in making every group, or torch.distributed waits for ever.
        group = dist.new_group(peers) if len(peers) > 1 else None
        if rank in peers and not job.is_done(number):
            job.fit(number, Ranks(peers.index(rank), len(peers), group))
    ray.train.report({})


def shares(fits: int, world: int) -> list[tuple[int, list[int]]]:
    """(fit, ranks that do it), every rank with as equal a load as whole fits allow."""
    if world <= fits:
        return [(fit, [fit % world]) for fit in range(fits)]
    return [(fit, [rank for rank in range(world) if rank % fits == fit]) for fit in range(fits)]


def _fit_fold(job: FitJob, fold: int, ranks: Ranks) -> None:
    rows = [row for row in each_row(job.rows) if job.folds[row["patient_id"]] != fold]
    name = f"{job.model} fold {fold}"
    task = FoldTask(
        job.store,
        job.seed * 1000 + fold,
        job.start / f"fold-{fold}.safetensors" if job.start else None,
        job.out / f"fold-{fold}.checkpoint.pt",
        job.settings.compute.train_gpu,
        ranks,
        telling(job.out, fold, name),
        name,
    )
    table = job.table.read_table()
    afresh, began = not task.checkpoint.is_file(), time.monotonic()
    model: nn.Module
    if job.model == "generator":
        model, history = fit_generator(task, job.settings, rows, LedgerTable(table))
    else:
        model, history = fit_classifier(task, job.settings, examples_of(table, rows, job.settings))
    if ranks.rank == 0:
        compute = job.settings.compute
        measured = {"memory_mib": DeviceSpec.choose(compute.train_gpu, compute.precision).memory_mib()}
        if afresh:
            measured["steps_per_second"] = len(history) / (time.monotonic() - began)
        state = {name: value.detach().cpu().contiguous().float() for name, value in model.state_dict().items()}
        (job.out / f"fold-{fold}.losses.json").write_text(json.dumps(history))
        (job.out / f"fold-{fold}.measured.json").write_text(json.dumps(measured))
        (job.out / f"fold-{fold}.safetensors").write_bytes(save(state))
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
