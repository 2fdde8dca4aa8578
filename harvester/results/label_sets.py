"""The label sets that detectors are compared on: one archive, told by more and more of what is known of it.

    clinical          what the archive's reports marked, of all its volumes
    complete_vm       and every lesion of V_M
    harvest           and what was harvested of V_H
    hard_negatives    and the hard negatives of both
    placebo           complete_vm, and as many other proposals of V_H as were harvested, drawn at random
    full_truth        every lesion of V_M and V_H, where the hidden truth knows them all

    truth_p<p>_r<r>   full_truth, of whose lesions that no report marked r per cent are kept, with so many false ones
                      among them that p per cent are right: a harvest of that precision and recall

What people reviewed belongs to all of them. Labels are rows of records.LEDGER with their own origin.
"""

import logging
from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow.compute as pc

from harvester.config.settings import MiningSettings
from harvester.errors import StoreError
from harvester.labels.ledger import extend, extrude_marks, from_marks, from_tubelets
from harvester.mining.candidates import clear_of, split_of
from harvester.records import (
    PARTLY_MARKED,
    SELECTED,
    LedgerTable,
    Role,
    ScoredTable,
    SelectedTable,
    Source,
    Split,
    rows_where,
)
from harvester.store.store import Store

logger = logging.getLogger(__name__)

CLINICAL: Final = "clinical"
COMPLETE_VM: Final = "complete_vm"
HARVEST: Final = "harvest"
HARD_NEGATIVES: Final = "hard_negatives"
PLACEBO: Final = "placebo"
FULL_TRUTH: Final = "full_truth"
PRECISIONS: Final = (100, 90, 80)
RECALLS: Final = (100, 75, 50)
"""Of the harvests that are made of the truth, in per cent."""


def graded(precision: int, recall: int) -> str:
    """The name of a harvest made of the truth."""
    return f"truth_p{precision}_r{recall}"


GRADES: Final = tuple((p, r) for p in PRECISIONS for r in RECALLS if (p, r) != (100, 100))


class LabelSets:
    """The label sets of a run.

    ledger    the run's final one
    scored    the tubelets of its last round: what it could have harvested
    """

    def __init__(
        self, store: Store, ledger: LedgerTable, scored: ScoredTable, settings: MiningSettings, seed: int
    ) -> None:
        self.store, self.ledger, self.settings, self.seed = store, ledger, settings, seed
        self.proposals = split_of(scored, store.manifest, *PARTLY_MARKED)
        truth = split_of(store.truth(), store.manifest, *PARTLY_MARKED)
        self.hidden = from_marks(truth.filter(pc.invert(truth["clinical"])))

    @property
    def knows_all(self) -> bool:
        """Whether the truth of every volume of V_H is known."""
        return not len(rows_where(self.store.manifest, "split", Split.VH)) and len(self.hidden) > 0

    def names(self, exchange_rate: bool = False) -> Iterator[str]:
        """Those that there are; with the graded ones where the exchange rate is asked for."""
        yield from (CLINICAL, COMPLETE_VM, HARVEST, HARD_NEGATIVES, PLACEBO)
        if self.knows_all:
            yield FULL_TRUTH
            yield from (graded(*each) for each in GRADES if exchange_rate)

    def table(self, name: str) -> LedgerTable:
        """The labels of a set. Raises StoreError for a set of a harvest where there is none."""
        known, harvested = self._of(Source.CLINICAL, Source.REVIEWED), self._of(Source.HARVESTED)
        complete_vm = self._of(Source.ANNOTATED)
        if name in (HARVEST, HARD_NEGATIVES, PLACEBO) and not len(harvested):
            raise StoreError(f"the run harvested nothing: there is no label set {name!r}")
        if name == CLINICAL:
            return known
        if name == COMPLETE_VM:
            return extend(known, complete_vm)
        if name == PLACEBO:
            return extend(known, complete_vm, self._placebo(len(harvested)))
        if name == FULL_TRUTH:
            return extend(known, complete_vm, self.hidden)
        if name in (HARVEST, HARD_NEGATIVES):
            negatives = self._of(Source.HARD_NEGATIVE_VM, Source.HARD_NEGATIVE_VH)
            return extend(known, complete_vm, harvested, *([negatives] if name == HARD_NEGATIVES else []))
        precision, recall = next(each for each in GRADES if graded(*each) == name)
        return extend(known, complete_vm, *self._graded(precision, recall))

    def _placebo(self, count: int) -> LedgerTable:
        others = self._elsewhere(self.ledger)
        if len(others) < count:
            logger.warning("the placebo has %d labels, not %d: no more proposals are left", len(others), count)
        return self._drawn(others, min(count, len(others)))

    def _graded(self, precision: int, recall: int) -> tuple[LedgerTable, LedgerTable]:
        """Right and false ones. Those of a lower share are among those of a higher one."""
        order = np.random.default_rng(self.seed).permutation(len(self.hidden))
        right = LedgerTable(self.hidden.take(np.sort(order[: round(len(order) * recall / 100)])))
        false = round(len(right) * (100 - precision) / precision)
        everything = extend(self.ledger, self.hidden)
        return right, self._drawn(self._elsewhere(everything), false)

    def _of(self, *sources: Source) -> LedgerTable:
        return rows_where(self.ledger, "source", *sources)

    def _elsewhere(self, ledger: LedgerTable) -> ScoredTable:
        """The proposals of V_H that touch no lesion of these labels."""
        lesions = extrude_marks(rows_where(ledger, "role", Role.LESION), self.store.manifest)
        return clear_of(self.proposals, lesions, self.settings)

    def _drawn(self, proposals: ScoredTable, count: int) -> LedgerTable:
        """So many of them at random, as labels of lesions. Raises StoreError where there are not as many."""
        if count > len(proposals):
            raise StoreError(f"{count} random proposals are wanted, {len(proposals)} lie apart from every label")
        order = np.random.default_rng([self.seed, 1]).permutation(len(proposals))
        drawn = proposals.take(np.sort(order[:count]))
        return from_tubelets(
            SelectedTable(drawn.append_column("score", drawn["lpg_score"]).select(SELECTED.names)),
            Role.LESION, Source.HARVESTED, -1, "", "",
        )  # fmt: skip
