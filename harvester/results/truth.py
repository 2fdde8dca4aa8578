"""What a harvest is worth, against the hidden truth of V_H^test. Truth comes in here and nowhere else."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.config.settings import Settings
from harvester.evaluation.curves import average_precision, froc, precision_recall, sensitivity_at
from harvester.evaluation.matching import Hits, hits, overlaps
from harvester.labels.ledger import from_reviewed, known_before, settled, spread, with_role
from harvester.mining import candidates
from harvester.records import SCORED
from harvester.store.store import Store

Array = NDArray[Any]

FP_RATES: Final = (1.0, 4.0, 16.0)


def hidden_lesions(store: Store) -> pa.Table:
    """The lesions of V_H^test that the archive does not show (records.MARKS); empty where no truth is known."""
    truth = store.truth()
    return candidates.split_of(
        truth.filter(pc.invert(truth["clinical"])), store.manifest, "vh_test"
    ).combine_chunks()


def without_reviewed(lesions: pa.Table, reviewed: pa.Table, match_iou: float) -> pa.Table:
    """The lesions (records.MARKS) that no reviewed one finds: what people accepted is not asked for again."""
    found = overlaps(with_role(from_reviewed(reviewed), "lesion"), lesions)
    known = np.isin(np.arange(len(lesions)), found.mark[found.iou >= match_iou])
    return lesions.filter(pa.array(~known))


class Judge:
    """The hidden truth of a store, and what it says of tubelets. Without truth every answer is None."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings = store, settings
        marks, reviewed = store.marks(), store.reviewed()
        self.lesions = without_reviewed(hidden_lesions(store), reviewed, settings.operating_point.match_iou)
        known = known_before(marks.filter(marks["clinical"]), reviewed)
        self.known_places = spread(settled(known), store.manifest)
        self.volumes = int(pc.sum(pc.equal(store.manifest["split"], "vh_test")).as_py() or 0)

    @property
    def known(self) -> bool:
        """Whether there is a truth to score against."""
        return len(self.lesions) > 0

    def harvest(self, lesions: pa.Table) -> dict[str, Any]:
        """Counts, precision and recall_unmarked of harvested tubelets (with score and round) on V_H^test."""
        mine = candidates.split_of(lesions, self.store.manifest, "vh_test")
        if not self.known:
            return {
                "test_harvested": len(mine),
                "test_correct": None,
                "precision": None,
                "recall_unmarked": None,
            }
        found = self._hits(mine, _by_round(mine))
        correct = int(found.correct.sum())
        return {
            "test_harvested": len(mine),
            "test_correct": correct,
            "precision": correct / len(mine) if len(mine) else None,
            "recall_unmarked": float((found.mark_hit_by >= 0).mean()),
        }

    def correct(self, lesions: pa.Table) -> list[bool | None]:
        """Whether each harvested tubelet is right: None outside V_H^test."""
        test = set(candidates.split_of(lesions, self.store.manifest, "vh_test")["volume_id"].to_pylist())
        found = self._hits(lesions, _by_round(lesions)).correct.tolist()
        ids = lesions["volume_id"].to_pylist()
        return [right if self.known and i in test else None for i, right in zip(ids, found, strict=True)]

    def missed(self, lesions: pa.Table) -> pa.Table:
        """The hidden lesions that no harvested tubelet finds (records.MARKS)."""
        return self.lesions.filter(pa.array(self._hits(lesions, _by_round(lesions)).mark_hit_by < 0))

    def proposals(self, scored: pa.Table, score: str) -> dict[str, Any]:
        """Sensitivity on unmarked lesions at FP_RATES, AP and curves of V_H^test's tubelets by a score column.

        Tubelets on a clinical mark or on what was reviewed are neither found nor false: people know them.
        """
        if not self.known:
            return {"sensitivity": None, "ap": None, "froc": None, "precision_recall": None}
        mine = candidates.split_of(scored, self.store.manifest, "vh_test")
        mine = candidates.candidates(mine, self.known_places, self.settings.mining)
        found = self._hits(mine, mine[score].to_numpy())
        values = sensitivity_at(found, FP_RATES, self.volumes).clip(0, 1)
        curve, pr = froc(found, self.volumes), precision_recall(found)
        return {
            "sensitivity": {f"{rate:g}": float(value) for rate, value in zip(FP_RATES, values, strict=True)},
            "ap": average_precision(found),
            "froc": (curve.fp_per_volume, curve.sensitivity),
            "precision_recall": (pr.recall, pr.precision),
        }

    def on_lesions(self, tubelets: pa.Table) -> float | None:
        """Share of tubelets that overlap a hidden lesion by P3D IoU >= clear_iou: how unclean negatives are."""
        mine = candidates.split_of(tubelets, self.store.manifest, "vh_test")
        if not self.known or not len(mine):
            return None
        found = overlaps(mine, self.lesions)
        touching = np.unique(found.tubelet[found.iou >= self.settings.mining.clear_iou])
        return len(touching) / len(mine)

    def _hits(self, tubelets: pa.Table, score: Array) -> Hits:
        iou = self.settings.operating_point.match_iou
        return hits(overlaps(tubelets, self.lesions), score, len(self.lesions), iou)


def harvested_table() -> pa.Table:
    """No harvested tubelets yet: SCORED with `score` and `round`."""
    columns = SCORED.append(pa.field("score", pa.float64())).append(pa.field("round", pa.int32()))
    return columns.empty_table()


def with_round(tubelets: pa.Table, round_index: int) -> pa.Table:
    """The table with the round as a column."""
    return tubelets.append_column("round", pa.array(np.full(len(tubelets), round_index, np.int32)))


def finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return float(value) if np.isfinite(value) else None


def _by_round(lesions: pa.Table) -> Array:
    """Scores in which every earlier round comes before every later one."""
    score: Array = lesions["score"].to_numpy() - 10.0 * lesions["round"].to_numpy()
    return score
