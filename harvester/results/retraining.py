"""What label sets are worth to detectors: AP and sensitivity on V_D^test, side by side, with paired intervals.

A resample draws patients, the same for all fits, and seeds, the same for all label sets: a difference is taken within
the resample. Figures are means over the seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.evaluation.bootstrap import draw_patients, interval
from harvester.evaluation.curves import FROC_RATES
from harvester.evaluation.inputs.annotations import Annotations
from harvester.evaluation.inputs.detections import Detections
from harvester.evaluation.matching import Floats, numbers
from harvester.evaluation.scorecard import P3D_IOU, Protocol, Scorecard, match, score
from harvester.mining.candidates import outside_ignored
from harvester.records import IgnoreTable, MarkTable, TubeletTable
from harvester.results.label_sets import (
    CLINICAL,
    COMPLETE_VM,
    FULL_TRUTH,
    GRADES,
    HARD_NEGATIVES,
    HARVEST,
    PLACEBO,
    graded,
)
from harvester.run.retraining import DetectorFigures, ExchangeRate, Figure, SetFigures

FP_RATE: Final = 4.0
RATE: Final = FROC_RATES.index(FP_RATE)
GAIN_OVER_CLINICAL: Final = "harvest over clinical marks"
COMPARED: Final = {
    GAIN_OVER_CLINICAL: (HARVEST, CLINICAL),
    "harvest over complete V_M": (HARVEST, COMPLETE_VM),
    "complete V_M over clinical marks": (COMPLETE_VM, CLINICAL),
    "hard negatives besides": (HARD_NEGATIVES, HARVEST),
    "as many random proposals": (PLACEBO, COMPLETE_VM),
    "full truth over complete V_M": (FULL_TRUTH, COMPLETE_VM),
}
"""Gains in AP, by name: of the first label set over the second."""


@dataclass(frozen=True, eq=False)
class HeldOutSet:
    """Completely marked volumes that no model has seen."""

    truth: Annotations
    ignored: IgnoreTable

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], marks: MarkTable, ignored: IgnoreTable) -> "HeldOutSet":
        """Of these manifest rows, with every lesion in them."""
        ids = tuple(str(row["volume_id"]) for row in rows)
        _, patients = np.unique([row["patient_id"] for row in rows], return_inverse=True)
        mine = marks.filter(pc.is_in(marks["volume_id"], pa.array(ids)))
        truth = Annotations(ids, patients.astype(np.int64), int(patients.max()) + 1, "the manifest", mine)
        return cls(truth, ignored)

    def score(self, tubelets: TubeletTable, resamples: int, draw_seed: int = 0) -> Scorecard:
        """By Lesion Harvester's rules; the same draws of patients for all tubelets that are scored with a draw_seed."""
        kept = outside_ignored(tubelets, self.ignored)
        rules = Protocol(P3D_IOU, 0.5)
        found = match(Detections(kept, numbers(kept["lpg_score"])), self.truth, rules)
        return score(found, self.truth, rules, draw_patients(self.truth.num_patients, resamples, draw_seed))


@dataclass(frozen=True, eq=False)
class SetScores:
    """A detector on a label set: figures by seed, (seeds,), and of b resamples, (b, seeds)."""

    ap: Floats
    sensitivity: Floats
    aps: Floats
    sensitivities: Floats

    @classmethod
    def of(cls, cards: Sequence[Scorecard]) -> "SetScores":
        """From a scorecard per seed."""
        none = np.zeros((0, len(cards)))
        resampled = [card.replicates for card in cards]
        sampled = all(resampled)
        return cls(
            np.array([float(card.figures["ap"]) for card in cards]),
            np.array([float(card.figures["sensitivity"][RATE]) for card in cards]),
            np.stack([each["ap"] for each in resampled], axis=1) if sampled else none,
            np.stack([each["sensitivity"][:, RATE] for each in resampled], axis=1) if sampled else none,
        )


class Comparison:
    """The label sets of one detector: means over seeds, and of each resample over the seeds that it draws."""

    def __init__(self, detector: str, sets: Mapping[str, SetScores]) -> None:
        self.detector, self.sets = detector, sets
        resamples, seeds = next(iter(sets.values())).aps.shape
        self.drawn = np.random.default_rng(0).integers(seeds, size=(resamples, seeds))

    def figures(self) -> DetectorFigures:
        """All there is to say of the detector."""
        gains = {
            name: self._figure(self._ap(one) - self._ap(other), self._aps(one) - self._aps(other))
            for name, (one, other) in COMPARED.items()
            if one in self.sets and other in self.sets
        }
        return DetectorFigures(
            detector=self.detector,
            sets=tuple(self._of(name) for name in self.sets),
            gains=gains,
            gap_closed=self._gap_closed(),
            exchange_rate=self._exchange_rate(),
        )

    def _of(self, name: str) -> SetFigures:
        own = self.sets[name]
        sensitivity = self._figure(own.sensitivity.mean(), self._mean(own.sensitivities))
        ap = self._figure(self._ap(name), self._aps(name))
        return SetFigures(labels=name, ap=ap, sensitivity=sensitivity, by_seed=tuple(own.ap.tolist()))

    def _ap(self, name: str) -> float:
        return float(self.sets[name].ap.mean())

    def _aps(self, name: str) -> Floats:
        return self._mean(self.sets[name].aps)

    def _mean(self, replicates: Floats) -> Floats:
        """(b,) from (b, seeds): over the seeds that each resample has drawn."""
        return np.asarray(np.take_along_axis(replicates, self.drawn, axis=1).mean(axis=1))

    def _figure(self, value: float, replicates: Floats) -> Figure:
        if not len(replicates):
            return Figure(value=float(value))
        low, high = interval(replicates)
        return Figure(value=float(value), interval=(float(low), float(high)))

    def _gap_closed(self) -> Figure | None:
        if not {COMPLETE_VM, HARVEST, FULL_TRUTH} <= self.sets.keys():
            return None
        base, harvest, full = (self._ap(name) for name in (COMPLETE_VM, HARVEST, FULL_TRUTH))
        bases, harvests, fulls = (self._aps(name) for name in (COMPLETE_VM, HARVEST, FULL_TRUTH))
        if full <= base:
            return None
        gaps = np.where(fulls > bases, fulls - bases, np.nan)
        return self._figure((harvest - base) / (full - base), (harvests - bases) / gaps)

    def _exchange_rate(self) -> ExchangeRate | None:
        """AP = a + b recall + c precision, least squares through the harvests made of the truth, full_truth too."""
        known = {graded(*each): each for each in GRADES} | {FULL_TRUTH: (100, 100)}
        held = [name for name in known if name in self.sets]
        if len(held) < len(known):
            return None
        design = np.array([(1.0, known[name][1] / 100, known[name][0] / 100) for name in held])
        solve = np.linalg.pinv(design)
        _, recall, precision = solve @ np.array([self._ap(name) for name in held])
        sampled = solve @ np.array([self._aps(name) for name in held])
        return ExchangeRate(
            ap_per_point_of_recall=self._figure(recall / 100, sampled[1] / 100),
            ap_per_point_of_precision=self._figure(precision / 100, sampled[2] / 100),
            recall_per_point_of_precision=float(precision / recall) if recall > 0 else None,
        )
