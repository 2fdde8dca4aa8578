"""What a harvest is worth, against the hidden truth of V_H^test. Truth comes in here and nowhere else."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.config.settings import Settings
from harvester.evaluation.curves import average_precision, froc, precision_recall, sensitivity_at
from harvester.evaluation.matching import Hits, hits, overlaps
from harvester.geometry import Array
from harvester.labels.ledger import exclusion_labels, extrude_marks, from_reviewed, initial_ledger
from harvester.mining.candidates import candidates, split_of
from harvester.records import (
    SELECTED,
    AnyTable,
    LedgerTable,
    ManifestTable,
    MarkTable,
    ReviewedTable,
    Role,
    SelectedTable,
    Split,
    rows_where,
)
from harvester.run.summary import TruthScores
from harvester.store.store import Store

FP_RATES: Final = (1.0, 4.0, 16.0)
Curve = tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class ProposalScores:
    """How well tubelets find unmarked lesions; all None where there is no truth, or nothing was scored.

    sensitivity       at each of FP_RATES, by its text
    froc              false positives per volume, sensitivity
    precision_recall  recall, precision
    """

    sensitivity: dict[str, float] | None = None
    ap: float | None = None
    froc: Curve | None = None
    precision_recall: Curve | None = None

    @classmethod
    def of(cls, found: Hits, volumes: int) -> "ProposalScores":
        """From what the tubelets of so many volumes hit."""
        values = sensitivity_at(found, FP_RATES, volumes).clip(0, 1)
        curve, pr = froc(found, volumes), precision_recall(found)
        return cls(
            {f"{rate:g}": float(value) for rate, value in zip(FP_RATES, values, strict=True)},
            average_precision(found),
            (curve.fp_per_volume, curve.sensitivity),
            (pr.recall, pr.precision),
        )


def hidden_lesions(store: Store) -> MarkTable:
    """The lesions of V_H^test that the archive does not show; empty where no truth is known."""
    truth, manifest = store.truth(), store.manifest
    return split_of(truth.filter(pc.invert(truth["clinical"])), manifest, Split.VH_TEST).combine_chunks()


def without_reviewed(lesions: MarkTable, reviewed: ReviewedTable, match_iou: float) -> MarkTable:
    """The lesions that no reviewed one finds: what people accepted is not asked for again."""
    found = overlaps(rows_where(from_reviewed(reviewed), "role", Role.LESION), lesions)
    known = np.isin(np.arange(len(lesions)), found.mark[found.iou >= match_iou])
    return lesions.filter(pa.array(~known))


class TruthEvaluator:
    """The hidden truth of a store, and what it says of tubelets. Without truth every answer is None."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.settings, self.manifest = settings, store.manifest
        self.store = store
        self.lesions = without_reviewed(hidden_lesions(store), store.reviewed(), settings.operating_point.match_iou)
        self.volumes = len(rows_where(self.manifest, "split", Split.VH_TEST))

    @cached_property
    def known_places(self) -> LedgerTable:
        """What people know of the volumes of V_H^test: clinical marks, extruded, and what was reviewed."""
        marks = split_of(self.store.marks(), self.manifest, Split.VH_TEST)
        reviewed = split_of(self.store.reviewed(), self.manifest, Split.VH_TEST)
        known = initial_ledger(marks.filter(marks["clinical"]), reviewed)
        return extrude_marks(exclusion_labels(known), self.manifest)

    @property
    def known(self) -> bool:
        """Whether there is a truth to score against."""
        return len(self.lesions) > 0

    def harvest(self, lesions: SelectedTable, among: ManifestTable | None = None) -> TruthScores:
        """Counts, precision and recall of unmarked lesions of harvested tubelets on V_H^test. among: see proposals."""
        mine = self._test(lesions)
        if not self.known:
            return TruthScores(test_harvested=len(mine), test_correct=None, precision=None, recall_unmarked=None)
        found = self._hits(mine, mine["score"].to_numpy(), self._lesions_among(among))
        correct = int(found.correct.sum())
        return TruthScores(
            test_harvested=len(mine),
            test_correct=correct,
            precision=correct / len(mine) if len(mine) else None,
            recall_unmarked=float((found.mark_hit_by >= 0).mean()),
        )

    def correct(self, lesions: SelectedTable) -> list[bool | None]:
        """Whether each harvested tubelet is right: None outside V_H^test."""
        test = set(self._test(lesions)["volume_id"].to_pylist())
        found = zip(lesions["volume_id"].to_pylist(), self._found(lesions).correct.tolist(), strict=True)
        return [right if self.known and volume_id in test else None for volume_id, right in found]

    def finds(self, lesions: SelectedTable) -> list[int | None]:
        """How many hidden lesions each tubelet is the first to find: None outside V_H^test."""
        test = set(self._test(lesions)["volume_id"].to_pylist())
        found = zip(lesions["volume_id"].to_pylist(), self._found(lesions).new_hits.tolist(), strict=True)
        return [count if self.known and volume_id in test else None for volume_id, count in found]

    def missed(self, lesions: SelectedTable) -> MarkTable:
        """The hidden lesions that no harvested tubelet finds."""
        return self.lesions.filter(pa.array(self._found(lesions).mark_hit_by < 0))

    def proposals(self, scored: pa.Table, score: str, among: ManifestTable | None = None) -> ProposalScores:
        """Sensitivity on unmarked lesions at FP_RATES, AP and curves of V_H^test's tubelets by a score column.

        Tubelets on a clinical mark or on what was reviewed are neither found nor false: people know them. among: the
        volumes that were looked at; None: all.
        """
        if not self.known:
            return ProposalScores()
        volumes = self.volumes if among is None else len(rows_where(among, "split", Split.VH_TEST))
        mine = candidates(self._test(scored), self.known_places, self.settings.mining)
        return ProposalScores.of(self._hits(mine, mine[score].to_numpy(), self._lesions_among(among)), volumes)

    def on_lesions(self, tubelets: SelectedTable) -> float | None:
        """Share of tubelets that overlap a hidden lesion by P3D IoU >= clear_iou: how unclean negatives are."""
        mine = self._test(tubelets)
        if not self.known or not len(mine):
            return None
        found = overlaps(mine, self.lesions)
        touching = np.unique(found.tubelet[found.iou >= self.settings.mining.clear_iou])
        return len(touching) / len(mine)

    def _test(self, tubelets: AnyTable) -> AnyTable:
        return split_of(tubelets, self.manifest, Split.VH_TEST)

    def _found(self, lesions: SelectedTable) -> Hits:
        return self._hits(lesions, lesions["score"].to_numpy(), self.lesions)

    def _lesions_among(self, volumes: ManifestTable | None) -> MarkTable:
        return self.lesions if volumes is None else split_of(self.lesions, volumes, Split.VH_TEST).combine_chunks()

    def _hits(self, tubelets: pa.Table, score: Array, lesions: MarkTable) -> Hits:
        return hits(overlaps(tubelets, lesions), score, len(lesions), self.settings.operating_point.match_iou)


def harvested_table() -> SelectedTable:
    """No harvested tubelets yet: SELECTED with their `round`."""
    return SelectedTable(SELECTED.append(pa.field("round", pa.int32())).empty_table())


def with_round(tubelets: SelectedTable, round_index: int) -> SelectedTable:
    """The table with the round as a column."""
    rounds = pa.array(np.full(len(tubelets), round_index, np.int32))
    return SelectedTable(tubelets.append_column("round", rounds))


def finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return float(value) if np.isfinite(value) else None
