"""A training worker that is killed is replaced; the fit goes on from its checkpoint to the same model."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from harvester.config.settings import Settings
from harvester.distributed.training import FitJob, train_folds
from harvester.labels.ledger import from_marks
from harvester.models.fit import FoldTask
from harvester.proposals.training import fit_generator
from harvester.records import Mark, Volume, each_row
from harvester.storage.location import Location
from harvester.store.store import Store, finish_store
from tests.builders import write_volume

# Two workers of a fold, so that batches, batch norms and checkpoints are shared when one of them dies.
SETTINGS = Settings.model_validate(
    {
        "folds": 2,
        "generator": {
            "width": 8, "channels": 16, "head_channels": 8, "slab_depth": 1, "crop_px": 48, "batch_slabs": 3,
            "steps": 60, "learning_rate": 2e-5,
        },
        "compute": {"train_workers": 3, "cpus_per_train_worker": 0.5, "precision": "float32"},
    }
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two patients, a bright box each."""
    rows, marks = [], []
    for name in ("a", "b"):
        hu = np.random.default_rng(ord(name)).normal(0, 20, (6, 64, 64))
        hu[2:5, 24:40, 20:34] = 900
        volume = Volume(name, f"p-{name}", hu.astype(np.int16), (4.0, 1.6, 1.6))
        rows.append(write_volume(tmp_path / "store", volume, "vm", name))
        marks.append(Mark(name, "m", 3, 20, 24, 33, 39, clinical=True))
    return finish_store(tmp_path / "store", rows, marks, [])


def job_in(folder: Path, store: Store, settings: Settings = SETTINGS) -> FitJob:
    out = Location.of(folder)
    (out / "labels.parquet").write_table(from_marks(store.marks()))
    folds = {"p-a": 0, "p-b": 1}
    return FitJob(
        "generator", settings, store.path, out / "fit", store.manifest, folds, out / "labels.parquet", None, 7
    )


def kill_a_worker(job: FitJob, killed: list[int]) -> None:
    """As soon as a fold has a checkpoint."""
    while not any(name.endswith(".checkpoint.pt") for name in job.out.files()):
        time.sleep(0.02)
    family = psutil.Process().children(recursive=True)
    workers = [each for each in family if "".join(each.cmdline()[:1]).startswith("ray::RayTrainWorker")]
    killed.append(workers[-1].pid)
    os.kill(workers[-1].pid, signal.SIGKILL)


@pytest.mark.timeout(300)
def test_a_killed_worker_is_replaced_and_the_losses_are_those_of_one_process(
    local_ray: None, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job, killed = job_in(tmp_path, store), []
    killer = threading.Thread(target=kill_a_worker, args=(job, killed), daemon=True)
    killer.start()
    train_folds(job)
    assert len(killed) == 1
    assert any("going on from the last checkpoint, try 1 of 8" in line for line in caplog.messages)
    assert job.out.folders() == []
    assert [name for name in job.out.files() if "checkpoint" in name] == []
    for fold in range(2):
        rows = [row for row in each_row(job.rows) if job.folds[row["patient_id"]] != fold]
        task = FoldTask(store.path, 7000 + fold, None, Location.of(tmp_path) / f"{fold}.pt", False)
        _, alone = fit_generator(task, SETTINGS, rows, job.table.read_table())
        together = (job.out / f"fold-{fold}.losses.json").read_bytes()
        gaps = [
            abs(one[name] - other[name]) for one, other in zip(alone, json.loads(together), strict=True) for name in one
        ]
        assert max(gaps) < 1e-3
