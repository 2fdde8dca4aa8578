"""How far fits are: workers write it into small files, the driver reads them."""

import json
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from harvester.models.fit import FitStep
from harvester.run.progress import ProgressLines
from harvester.storage.location import Location

if TYPE_CHECKING:  # whose workers write
    from harvester.distributed.training import TrainJob

logger = logging.getLogger(__name__)

BEGUN: Final = "begun"
"""Folder of a file per worker that began. It goes when all folds are fitted."""
FIT: Final = "fit-"
"""A file of BEGUN that tells how far a fit is."""
SECONDS_BETWEEN_NOTES: Final = 2.0


def telling(out: Location, number: int, name: str) -> Callable[[FitStep], None]:
    """What tells how far a fit is: the driver by a file, people by the worker's own log."""
    last = -math.inf

    def tell(reached: FitStep) -> None:
        nonlocal last
        logger.warning("%s: %s", name, reached)
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_NOTES or reached.step == reached.steps:
            last = now
            told = {"step": reached.step, "steps": reached.steps, "terms": reached.terms}
            (out / BEGUN / f"{FIT}{number}").write_text(json.dumps(told))

    return tell


class FitProgress:
    """Watches a job's files: workers that began, how far each fit is, checkpoints and weights."""

    def __init__(self, job: "TrainJob") -> None:
        self.job, self.minutes = job, job.settings.compute.no_progress_minutes
        self.left = {f"{FIT}{number}" for number in range(job.fits) if not job.is_done(number)}
        self.notes: dict[str, dict[str, Any]] = {}
        self.read: dict[str, int | None] = {}
        self.lines: ProgressLines | None = None
        self.began = time.monotonic()

    def reached(self) -> dict[str, Any]:
        """When each file was last written. Tells how many steps are taken."""
        begun = (self.job.out / BEGUN).versions()
        if not begun:
            self.began = time.monotonic()
        news = {name: when for name, when in begun.items() if name in self.left and self.read.get(name, -1) != when}
        for name in news:
            self.notes[name] = (self.job.out / BEGUN / name).read_json(step=int, steps=int, terms=str) or {}
        self.read |= news
        if newest := next((self.notes[name] for name in news if self.notes[name]), None):
            self._tell(newest)
        return begun | self.job.out.versions()

    def _tell(self, newest: dict[str, Any]) -> None:
        """Fits may differ in their steps; what has not begun or was done before is taken to be as the newest."""
        if self.lines is None:
            self.lines = ProgressLines(self.job.name, 0, "steps")
            self.lines.began = self.began  # the last look at which no worker had: looks at a bucket are far apart
            self.lines.resumed((self.job.fits - len(self.left)) * newest["steps"])
        before, begun = self.lines.first, [note for note in self.notes.values() if note]
        waiting = (len(self.left) - len(begun)) * newest["steps"]
        self.lines.total = before + sum(note["steps"] for note in begun) + waiting
        self.lines.reached(before + sum(note["step"] for note in begun), newest["terms"])

    def waiting(self) -> str:
        """The workers that should have written."""
        compute = self.job.settings.compute
        return (
            f"{self.job.name}: no checkpoint and no weights for {self.minutes:g} minutes "
            f"(compute.no_progress_minutes); {compute.train_workers} training workers of "
            f"{compute.cpus_per_train_worker:g} CPUs{' and a GPU' if compute.train_gpu else ''} are waited for: does "
            "the cluster have room? Start the same command again: it goes on from the last checkpoint"
        )
