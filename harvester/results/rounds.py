"""The rounds of a run as one view: whole where V_H is small, else a sample of it and a way through all of it, in parts.

So neither V_H's tubelets nor its labels are ever in one process, however many volumes it has.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import pyarrow as pa

from harvester.config.settings import Settings
from harvester.mining.candidates import split_of
from harvester.mining.round_view import RoundView, StoreTables, Work
from harvester.records import MINED, PARTLY_MARKED, ScoredTable, rows_where
from harvester.run.parted_table import PartedTable
from harvester.run.partials import parts_with
from harvester.run.progress import ProgressLines
from harvester.storage.location import Location
from harvester.store.store import Store

PARTS_AT_ONCE: Final = 16
"""So many parts are read at a time: a few hundred volumes, a second's work."""

Names = Sequence[str]
OverNames = Callable[[Names], pa.Table]
Runner = Callable[[OverNames, Sequence[Names]], Iterator[pa.Table]]
"""Does some work for each group of names, in their order: here and now, or in tasks on a cluster."""
Scored = PartedTable[ScoredTable]


def here(work: OverNames, groups: Iterable[Names]) -> Iterator[pa.Table]:
    """In this process, one after the other."""
    return map(work, groups)


def rounds_viewed(
    rounds: Sequence[Scored], store: Store, settings: Settings, runner: Runner = here, known: StoreTables | None = None
) -> RoundView:
    """The rounds that a run scored so far: all of it where V_H is small, else V_M, a sample of V_H, and the way to all
    of it. known: the store's tables, if they were read before."""
    known = known or StoreTables.of(store, settings)
    sample = known.sampled(settings.seed)
    if sample is None:
        return RoundView(tuple(each.whole() for each in rounds), known, settings)
    volumes = sample.manifest["volume_id"].combine_chunks()
    names = parts_with(rows_where(store.manifest, "split", *MINED), volumes)
    kept = tuple(each.of_volumes(volumes, names) for each in rounds)
    sweep = PartSweep(tuple(rounds), store.path, known.stamp, settings, runner) if rounds else None
    return RoundView(kept, sample, settings, sweep)


def up_to(view: RoundView, k: int) -> RoundView:
    """A view as it was after an earlier round."""
    sweep = replace(view.sweep, rounds=view.sweep.rounds[: k + 1]) if isinstance(view.sweep, PartSweep) else None
    return replace(view, rounds=view.rounds[: k + 1], sweep=sweep)


@dataclass(frozen=True)
class PartSweep:
    """V_H of a run, as its rounds scored it. What travels to every task. stamp: names what the store holds."""

    rounds: tuple[Scored, ...]
    store: Location
    stamp: str
    settings: Settings
    runner: Runner = here

    def __call__(self, work: Work, volumes: int | None = None) -> Iterator[pa.Table]:
        """What the work makes of each few parts, in their order; of evenly spread parts of about so many volumes."""
        partials = self.rounds[-1].partials
        names, step = partials.names(), 1
        if volumes is not None:
            step = max(1, partials.planned()["volumes"] // max(1, volumes))
        return over_parts(lambda some: work(self.view(some)), names[::step], self.runner)

    def view(self, names: Names) -> RoundView:
        """V_H's volumes of some parts as a round of their own."""
        known = store_tables(self.store.uri, self.stamp, self.settings.model_dump_json())
        scored = tuple(split_of(each.of(names), known.manifest, *PARTLY_MARKED) for each in self.rounds)
        ids = [volume for record in self.rounds[-1].partials.records(names) for volume in record["volumes"]]
        mine = known.of_volumes(pa.array(ids, pa.string()))
        return RoundView(scored, mine.without_vm(), self.settings)


def over_parts(work: OverNames, names: Names, runner: Runner = here) -> Iterator[pa.Table]:
    """What some work makes of the parts of these names, a few at a time and in their order."""
    groups = [names[start : start + PARTS_AT_ONCE] for start in range(0, len(names), PARTS_AT_ONCE)]
    lines = ProgressLines("going through V_H", len(groups), "shards")
    for done, table in enumerate(runner(work, groups), 1):
        lines.reached(done)
        yield table


@lru_cache(1)
def store_tables(uri: str, stamp: str, settings: str) -> StoreTables:
    """The tables of a store, read once in each process, as long as it holds what `stamp` names."""
    return StoreTables.of(Store.open(Location.of(uri)), Settings.model_validate_json(settings), stamp=stamp)
