"""Detectors on label sets, on Ray Train: each fit is a detector, a label set and a seed, scored by who fitted it."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import save

from harvester.config.settings import Settings
from harvester.detectors.detector import build
from harvester.detectors.images import Archive
from harvester.detectors.inference import detect
from harvester.detectors.training import fit_detector
from harvester.distributed.fit_progress import telling
from harvester.labels.ledger import by_volume
from harvester.models.data_parallel import Ranks
from harvester.models.device import DeviceSpec
from harvester.models.fit import FoldTask
from harvester.proposals.labels import volume_labels
from harvester.records import TUBELETS, LedgerTable
from harvester.storage.location import Location
from harvester.store.slab import GridFrame

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class DetectorFit:
    """One fit. name: of its files; labels: the label set as a ledger (Parquet)."""

    name: str
    detector: str
    label_set: str
    labels: Location
    seed: int
    keep_weights: bool = False


@dataclass(frozen=True)
class RetrainJob:
    """What every worker gets.

    rows, unknown     manifest rows that are learned from, and slices of them that are not (images.Archive)
    tested, test_rows the store and manifest rows that are scored
    plan              the fits that are left
    """

    settings: Settings
    store: Location
    rows: Rows
    unknown: frozenset[tuple[str, int]]
    tested: Location
    test_rows: Rows
    out: Location
    plan: Sequence[DetectorFit]

    name = "detectors"

    @property
    def fits(self) -> int:
        """How many are left."""
        return len(self.plan)

    def is_done(self, number: int) -> bool:
        """Whether it was scored."""
        return (self.out / f"{self.plan[number].name}.json").is_file()

    def fit(self, number: int, ranks: Ranks) -> None:
        """Fit a detector, then put its tubelets of the scored volumes into `out`, and last what was measured.

        Detectors come from anywhere and know nothing of ranks: one worker fits, others have nothing to do.
        """
        if ranks.rank == 0:
            fit_and_detect(self, number)


def fit_and_detect(job: RetrainJob, number: int) -> None:
    """One fit, from its checkpoint on where there is one."""
    this, settings, began = job.plan[number], job.settings, time.monotonic()
    torch.manual_seed(this.seed)
    detector = build(this.detector, settings)
    task = FoldTask(
        job.store,
        this.seed,
        None,
        job.out / f"{this.name}.checkpoint.pt",
        settings.compute.train_gpu,
        log=telling(job.out, number, this.name),
        name=this.name,
    )
    frames = [GridFrame.of(row, settings.grid) for row in job.rows]
    labelled = by_volume(LedgerTable(this.labels.read_table()))
    labels = {each.volume_id: volume_labels(labelled.get(each.volume_id, []), each, complete=True) for each in frames}
    losses = fit_detector(task, settings, detector, Archive(job.store, frames, job.unknown), labels)
    fitted = time.monotonic()
    spec = DeviceSpec.choose(task.gpu, settings.compute.precision)
    tested = [GridFrame.of(row, settings.grid) for row in job.test_rows]
    rows = [
        {"patient_id": row["patient_id"]} | found
        for row, each in zip(job.test_rows, detect(detector, job.tested, tested, settings, spec), strict=True)
        for found in each
    ]
    (job.out / f"{this.name}.parquet").write_table(pa.Table.from_pylist(rows, TUBELETS))
    if this.keep_weights:
        state = {name: value.detach().cpu().contiguous() for name, value in detector.model.state_dict().items()}
        (job.out / f"{this.name}.safetensors").write_bytes(save(state))
    seconds = {"fit_seconds": fitted - began, "detect_seconds": time.monotonic() - fitted}
    (job.out / f"{this.name}.json").write_text(json.dumps({"losses": losses[-1], **seconds}))
    task.checkpoint.delete()
