"""What a round may harvest, and V_M as if it were to be harvested: worked out once, for all who ask.

Every round selects anew, from its own tubelets and what all rounds say of them (bank.py). The archive's partly marked
volumes (V_H) are harvested. The completely marked ones (V_M) are the calibration set: they go through the very same
rule with their annotations hidden. The certificate is computed on what the rule accepts there: tubelets of patients
that no model saw, that are none of the clinical marks and nothing accepted in a run that was reviewed. What earlier
rounds harvested has no say: it may be found again, or not.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.config.settings import Settings
from harvester.evaluation.matching import hits, overlaps
from harvester.labels.folds import patient_folds
from harvester.labels.ledger import exclusion_labels, extend, extrude_marks, from_tubelets, initial_ledger
from harvester.mining.bank import pool
from harvester.mining.candidates import candidates, overlap_with, split_of
from harvester.mining.fusion import EVEN, ScoreFusion, select
from harvester.mining.limits import Cut, Limits, cut
from harvester.mining.negatives import possible_hard_negatives
from harvester.records import (
    PARTLY_MARKED,
    AcceptedTable,
    AnyTable,
    LedgerTable,
    ManifestTable,
    MarkTable,
    PooledTable,
    ReviewedTable,
    Role,
    ScoredTable,
    SelectedTable,
    Source,
    Split,
    each_row,
    empty,
    rows_where,
    values,
)
from harvester.store.store import Store
from harvester.weights.starting import KNOWN_BY, folds_by_patient, in_sample

SAMPLE_VOLUMES: Final = 1000
"""Of V_H so many volumes at most are looked at as a whole, drawn by the seed: for what is told of all by a sample."""
NEGATIVE_VOLUMES: Final = 10_000
"""Of so many volumes of V_H hard negatives are mined and the classifier learns: more than its steps can visit."""

Work = Callable[["RoundView"], pa.Table]
Sweep = Callable[[Work, int | None], Iterator[pa.Table]]
"""Gives what some work makes of V_H, some volumes of it at a time, in their order; of so many volumes alone, if given
(results/rounds.py)."""


@dataclass(frozen=True, eq=False)
class StoreTables:
    """What a store knows before anything is harvested; the hidden truth is not part of it.

    in_sample   patients of V_M that every model has seen (weights/starting.py): their lesions teach, and prove nothing
    given_folds every patient's fold; None: dealt by the settings
    stamp       names what the store holds (Store.data_hash)
    """

    manifest: ManifestTable
    marks: MarkTable
    reviewed: ReviewedTable
    in_sample: frozenset[str] = frozenset()
    given_folds: Mapping[str, int] | None = None
    stamp: str = ""

    @classmethod
    def of(
        cls, store: Store, settings: Settings, folds: Mapping[str, int] | None = None, stamp: str = ""
    ) -> "StoreTables":
        """The store's tables, and what a run's starting weights have seen of them.

        folds, stamp    where they are known already: as folds_by_patient and Store.data_hash give them
        """
        seen = in_sample(each_row(store.manifest, *KNOWN_BY), settings)
        folds = folds or folds_by_patient(each_row(store.manifest, *KNOWN_BY), settings)
        return cls(store.manifest, store.marks(), store.reviewed(), seen, folds, stamp or store.data_hash())

    def of_volumes(self, volume_ids: "pa.Array[Any]") -> "StoreTables":
        """What it knows of some volumes."""
        tables: dict[str, Any] = {"manifest": self.manifest, "marks": self.marks, "reviewed": self.reviewed}
        kept = {name: each.filter(pc.is_in(each["volume_id"], volume_ids)) for name, each in tables.items()}
        return replace(self, **kept)

    def without_vm(self) -> "StoreTables":
        """What it knows of V_H alone."""
        return self.of_volumes(split_of(self.manifest, self.manifest, *PARTLY_MARKED)["volume_id"].combine_chunks())

    def partly_marked(self, seed: int) -> "pa.Array[Any]":
        """The volumes of V_H in an order that the seed draws."""
        volumes = rows_where(self.manifest, "split", *PARTLY_MARKED)["volume_id"].combine_chunks().sort()
        return volumes.take(np.random.default_rng(seed).permutation(len(volumes)))

    def sampled(self, seed: int) -> "StoreTables | None":
        """V_M, and SAMPLE_VOLUMES volumes of V_H; None where V_H has no more."""
        drawn = self.partly_marked(seed)
        if len(drawn) <= SAMPLE_VOLUMES:
            return None
        complete = values(rows_where(self.manifest, "split", Split.VM)["volume_id"])
        return self.of_volumes(pa.array([*complete, *values(drawn[:SAMPLE_VOLUMES])], pa.string()))

    def fit_to_prove(self, tubelets_or_marks: AnyTable) -> AnyTable:
        """Those of V_M's rows whose patient no model has seen before it was scored."""
        patients = pa.array(sorted(self.in_sample), pa.string())
        seen = self.manifest.filter(pc.is_in(self.manifest["patient_id"], patients))["volume_id"].combine_chunks()
        return tubelets_or_marks.filter(pc.invert(pc.is_in(tubelets_or_marks["volume_id"], seen)))

    @property
    def ledger(self) -> LedgerTable:
        """What is known before round 0: the archive's marks, and what people reviewed. Made anew, and not kept."""
        return initial_ledger(self.marks, self.reviewed)


@dataclass(frozen=True, eq=False)
class RoundView:
    """One round. Everything is computed when it is first asked for, and once.

    rounds   the tubelets of each round so far, of every volume that is not V_D^test; the last one is looked at
    sweep    goes through all of V_H where it is large: rounds and store hold a sample of it then, and V_M. What is told
             of V_H by a sample says so; what is found in it is found everywhere
    """

    rounds: tuple[ScoredTable, ...]
    store: StoreTables
    settings: Settings
    sweep: Sweep | None = None

    def over_vh(self, work: Work, volumes: int | None = None) -> list[pa.Table]:
        """What some work makes of V_H; where it is large, of parts of it, in their order."""
        if self.sweep is None:
            return [work(self)]
        made = list(self.sweep(work, volumes))
        pa.default_memory_pool().release_unused()  # what the answers came in is as large as they are
        return made

    @property
    def scored(self) -> ScoredTable:
        """The round's tubelets, as its own models score them; none before the first."""
        return self.rounds[-1] if self.rounds else empty(ScoredTable)

    @cached_property
    def tubelets(self) -> PooledTable:
        """The same with what all rounds say of them."""
        return pool(self.rounds or (empty(ScoredTable),))

    @cached_property
    def known(self) -> LedgerTable:
        """What archive and reviewers say, one-slice marks extruded."""
        return extrude_marks(self.store.ledger, self.store.manifest)

    @cached_property
    def partly_marked(self) -> PooledTable:
        """The tubelets of V_H."""
        return split_of(self.tubelets, self.store.manifest, *PARTLY_MARKED)

    @cached_property
    def completely_marked(self) -> PooledTable:
        """The tubelets of V_M."""
        return split_of(self.tubelets, self.store.manifest, Split.VM)

    @cached_property
    def harvestable(self) -> PooledTable:
        """The tubelets of V_H that are no lesion that the archive knows and nothing that was reviewed."""
        return candidates(self.partly_marked, exclusion_labels(self.known), self.settings.mining)

    @cached_property
    def calibration(self) -> PooledTable:
        """The tubelets of V_M that are none of the clinical marks and nothing that a reviewed run accepted.

        What is false in V_M stays false and counts, whether or not somebody looked: else V_M would look better than
        V_H.
        """
        clinical = rows_where(self.known, "source", Source.CLINICAL)
        reviewed = rows_where(self.known, "source", Source.REVIEWED)
        reviewed = rows_where(reviewed, "role", Role.LESION, Role.IGNORED, Role.CALIBRATION)
        unseen = self.store.fit_to_prove(self.completely_marked)
        return candidates(unseen, extend(clinical, reviewed), self.settings.mining)

    @cached_property
    def targets(self) -> MarkTable:
        """The lesions of V_M that no clinical mark shows: what the calibration set should find."""
        marks = self.store.marks
        hidden = marks.filter(pc.invert(marks["clinical"]))
        return self.store.fit_to_prove(split_of(hidden, self.store.manifest, Split.VM)).combine_chunks()

    @cached_property
    def clinical_finds(self) -> PooledTable:
        """The tubelets of V_H, or of the sample, that find a clinical mark: what everybody knows to be right."""
        found = overlap_with(self.partly_marked, rows_where(self.store.ledger, "source", Source.CLINICAL))
        return self.partly_marked.filter(pa.array(found >= self.settings.operating_point.match_iou))

    @cached_property
    def rivals(self) -> PooledTable:
        """What the clinical finds should outscore: the harvestable tubelets, of the sample where V_H is large."""
        return self.harvestable

    @cached_property
    def leaders(self) -> SelectedTable:
        """V_H's best candidates, or the sample's, by an even mix of the scores, half as many as lesions are expected.

        What a round changes is read from them. Of V_M's labels only the number of its lesions has a say.
        """
        lesions = len(self.targets) * len(self.harvestable) // max(len(self.calibration), 1)
        return SelectedTable(select(self.harvestable, EVEN, 0.0).slice(0, -(-lesions // 2)))

    @cached_property
    def folds(self) -> Mapping[str, int]:
        """Every patient's fold."""
        if self.store.given_folds is not None:
            return self.store.given_folds
        return patient_folds(self.store.manifest.to_pylist(), self.settings.folds, self.settings.seed)

    def reaching(self, fusion: ScoreFusion, threshold: float) -> SelectedTable:
        """What of V_H reaches a threshold, best first: what the point estimate, which proves nothing, would take."""
        if self.sweep is None or threshold == np.inf:
            return select(self.harvestable, fusion, threshold)
        lowest, found = self.reached.get(fusion, (np.inf, None))
        if found is None or threshold < lowest:
            found = best_first(self.over_vh(lambda part: select(part.harvestable, fusion, threshold)))
            self.reached[fusion] = threshold, found
        return from_score(found, threshold)

    @cached_property
    def reached(self) -> dict[ScoreFusion, tuple[float, SelectedTable]]:
        """Of a fusion the lowest threshold that was asked for, and what reaches it: V_H is gone through once."""
        return {}

    def possible_negatives(self, fusion: ScoreFusion, lowest: float) -> SelectedTable:
        """Hard negatives of V_H: tubelets that nothing touches, neither what is known nor what reaches a score."""

        def of_part(part: RoundView) -> SelectedTable:
            maybe = select(part.harvestable, fusion, lowest)
            labels = from_tubelets(maybe, Role.LESION, Source.HARVESTED, 0, "", "")
            return possible_hard_negatives(part.partly_marked, extend(part.known, labels), part.settings.mining)

        return SelectedTable(pa.concat_tables(self.over_vh(of_part, NEGATIVE_VOLUMES)))

    def likely(self, fusion: ScoreFusion, estimated: float, threshold: float) -> SelectedTable:
        """What reaches the point estimate's threshold and not the certified one, best first.

        Nothing is claimed of it. The next round learns from it, weighed by its probability: the paper's loop learns
        from what its point estimate takes.
        """
        reaching = self.reaching(fusion, estimated if self.settings.mining.learn_likely else np.inf)
        # Taken, not cut out: a slice would keep all of what reaches in memory.
        return SelectedTable(reaching.take(np.arange(len(from_score(reaching, threshold)), len(reaching))))

    def cut(self, fusion: ScoreFusion, threshold: float) -> Cut:
        """What of it is harvested, and what is left for review: within what V_M shows at the threshold."""
        accepted = values(select(self.calibration, fusion, threshold)["patient_id"])
        most = max(Counter(accepted).values(), default=0)
        limits = Limits(most, frozenset(self.folds[patient] for patient in accepted))
        return cut(self.reaching(fusion, threshold), limits, self.folds)

    def harvested(self, fusion: ScoreFusion, threshold: float) -> SelectedTable:
        """What is harvested at a threshold, best first."""
        return self.cut(fusion, threshold).lesions

    def accepted(self, fusion: ScoreFusion, threshold: float) -> AcceptedTable:
        """What the same rule accepts of the calibration set, best first, and whether each is right."""
        selected = select(self.calibration, fusion, threshold)
        return AcceptedTable(selected.append_column("correct", pa.array(self.correct(selected))))

    def correct(self, selected: SelectedTable) -> NDArray[Any]:
        """(n,) bool: whether each tubelet of V_M finds a target that no better-scored one found."""
        return match_to_lesions(selected, self.targets, self.settings.operating_point.match_iou)


def from_score(best_first: SelectedTable, threshold: float) -> SelectedTable:
    """Of selected tubelets, the best first, those that reach a threshold; nothing is copied."""
    return SelectedTable(best_first.slice(0, int((best_first["score"].to_numpy() >= threshold).sum())))


def best_first(tables: Sequence[pa.Table]) -> SelectedTable:
    """Selected tubelets of several parts, the best first; ties stay in their order."""
    joined = pa.concat_tables([empty(SelectedTable), *tables])
    return SelectedTable(joined.take(np.argsort(-joined["score"].to_numpy(), kind="stable")))


def match_to_lesions(selected: SelectedTable, lesions: MarkTable, match_iou: float) -> NDArray[Any]:
    """(n,) bool: whether each tubelet finds a lesion that no better-scored one found."""
    score = selected["score"].to_numpy()
    return hits(overlaps(selected, lesions), score, len(lesions), match_iou).correct
