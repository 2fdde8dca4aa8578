"""What an actor of the pool does with a volume: propose lesions, or classify what was proposed.

Device and models are made when work comes: of an error in a constructor Ray keeps but the text, and tries it again.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from typing import Any, Final

import torch

from harvester.classifier.inference import Scoring
from harvester.distributed.volume_pool import Actor, InferenceJob, Task
from harvester.mining import negatives
from harvester.models.device import DeviceSpec
from harvester.proposals.inference import Proposals
from harvester.records import Kind, ScoredTable, TubeletTable, rows_where
from harvester.run.partials import Row

PARTS_HELD: Final = 4
"""Of what was proposed, in an actor: it reads ahead across two."""


class ModelActor(Actor[Kind]):
    """One with networks, on a device."""

    @cached_property
    def place(self) -> DeviceSpec:
        """The actor's device, on as many threads as it was given CPUs."""
        compute = self.job.settings.compute
        torch.set_num_threads(max(1, round(compute.cpus_per_replica)))
        return DeviceSpec.choose(compute.gpus_per_replica > 0, compute.precision)

    def memory_mib(self) -> float:
        """The most that its device held."""
        return self.place.memory_mib()


class Proposer(ModelActor[TubeletTable]):
    """Manifest rows to tubelets."""

    kind = TubeletTable
    doing = "proposing lesions"

    @cached_property
    def proposals(self) -> Proposals:
        """The generators."""
        return Proposals(self.job.settings, self.job.store, self.place)

    def tasks(self, rows: Iterable[Row]) -> Iterator[Task]:
        """Each volume through the generators that never saw its patient."""
        return self.proposals.over(self.task(row) for row in rows)


class Scorer(ModelActor[ScoredTable]):
    """Manifest rows to classified tubelets. Its parts hold the same volumes as those of what was proposed."""

    kind = ScoredTable
    doing = "classifying proposals"

    def __init__(self, job: InferenceJob) -> None:
        super().__init__(job)
        self.proposed = lru_cache(PARTS_HELD)(self._proposed)

    def _proposed(self, part: str) -> TubeletTable:
        assert self.job.tubelets is not None  # noqa: S101  a Scorer's job has them
        return self.job.tubelets.of([part])

    @cached_property
    def scoring(self) -> Scoring:
        """The classifiers."""
        return Scoring(self.job.settings, self.job.store, self.place, self.tubelets)

    def tasks(self, rows: Iterable[Row]) -> Iterator[Task]:
        """Each volume's tubelets through the classifiers that never saw its patient."""
        return self.scoring.over(self.task(row) for row in rows)

    def tubelets(self, volume_id: str) -> list[dict[str, Any]]:
        """The best tubelets of a volume."""
        mine = rows_where(self.proposed(self.part_of[volume_id]), "volume_id", volume_id)
        return negatives.to_classify(mine, self.job.settings.classifier.max_tubelets).to_pylist()
