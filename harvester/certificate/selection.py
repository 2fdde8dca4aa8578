"""Threshold selection: one way to fuse the scores, solved exactly on the calibration set. What a trial does."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from harvester.certificate.evidence import Earlier, Evidence, Target
from harvester.certificate.operating_point import STEP, OperatingPoint, naive, refused, solve
from harvester.config.settings import OperatingPointSettings
from harvester.mining.fusion import ScoreFusion, fuse, fusions, known_recall
from harvester.mining.round_view import RoundView, match_to_lesions
from harvester.records import AcceptedTable, MarkTable, ScoredTable, SelectedTable, checked, values
from harvester.storage.location import Location


@dataclass(frozen=True, eq=False)
class Calibration:
    """All that a threshold is selected from.

    candidates      the tubelets of the calibration set (RoundView.calibration)
    targets         the lesions that they should find
    hits            what earlier rounds accepted of it: the promise is on the union
    clinical_finds  the tubelets of V_H that find a clinical mark
    rivals          candidates of V_H that those should outscore
    last            whether no round follows: the early targets are not asked for
    """

    candidates: ScoredTable
    targets: MarkTable
    hits: AcceptedTable
    clinical_finds: ScoredTable
    rivals: ScoredTable
    last: bool = True

    @classmethod
    def of(cls, view: RoundView, last: bool = True) -> "Calibration":
        """What a round's view has of it."""
        return cls(view.calibration, view.targets, view.hits, view.clinical_finds, view.rivals, last)

    @property
    def tables(self) -> tuple[pa.Table, ...]:
        """Its five tables, in their order."""
        return self.candidates, self.targets, self.hits, self.clinical_finds, self.rivals

    def known_recall(self, fusion: ScoreFusion) -> float:
        """How high a way to fuse the scores ranks what is known (fusion.known_recall), 0 to 1.

        Asked of V_H alone: what V_M shows is what the certificate rests on. As many lesions are to be found among the
        rivals as among as many candidates of V_M.
        """
        lesions = len(self.targets) * len(self.rivals) // max(len(self.candidates), 1)
        return known_recall(fuse(self.rivals, fusion), fuse(self.clinical_finds, fusion), lesions)


@dataclass(frozen=True)
class CalibrationFiles:
    """The tables of a Calibration as parquet files, in their order, so that trials on any node read them."""

    files: tuple[Location, ...]
    last: bool = True

    def read(self) -> Calibration:
        """The tables."""
        candidates, targets, hits, finds, rivals = (file.read_table() for file in self.files)
        return Calibration(
            checked(ScoredTable, candidates),
            checked(MarkTable, targets),
            checked(AcceptedTable, hits),
            checked(ScoredTable, finds),
            checked(ScoredTable, rivals),
            self.last,
        )


@dataclass(frozen=True)
class SelectedPoint:
    """The chosen fusion and its operating point; `naive` is what the point estimate would have chosen.

    trials    how many ways to fuse were compared (by what the archive shows: see fusion.known_recall)
    """

    choice: ScoreFusion
    point: OperatingPoint
    naive: OperatingPoint
    trials: int


@dataclass(frozen=True)
class Trial:
    """One way to fuse: how high it ranks what is known, and what its operating point gives on V_M."""

    choice: ScoreFusion
    known_recall: float
    recall: float
    bound: float
    naive_recall: float


def select_point(
    calibration: Calibration, fusion: ScoreFusion, settings: OperatingPointSettings, trials: int = 1
) -> SelectedPoint:
    """The exact threshold of one way to fuse, certified and naive.

    A round that is not the last is asked for the early targets in turn, so that it leaves the doubtful ones to better
    models; where none adds as much as one step of the sequence, for the target itself.
    """
    evidence = evidence_of(calibration, fusion, settings.match_iou)
    target = Target(settings.target_precision, settings.confidence, settings.min_patients)
    early = () if calibration.last else settings.early_targets
    asked = [replace(target, precision=higher) for higher in early if higher > target.precision]
    points = (solve(evidence, each) for each in (*asked, target))
    point = _first_worth_it(points, max(STEP * len(calibration.hits), 1))
    return SelectedPoint(fusion, point, naive(evidence, target), trials)


def evidence_of(calibration: Calibration, fusion: ScoreFusion, match_iou: float) -> Evidence:
    """The candidates that the fusion keeps, by their fused score, and which of them are right."""
    score = fuse(calibration.candidates, fusion)
    kept = np.flatnonzero(np.isfinite(score))
    table = calibration.candidates.take(kept).append_column("score", pa.array(score[kept]))
    correct = match_to_lesions(SelectedTable(table), calibration.targets, match_iou)
    patients = table["patient_id"].to_numpy(zero_copy_only=False).astype(str)
    hits = calibration.hits
    right = hits.filter(hits["correct"])
    earlier = Earlier(Counter(values(right["patient_id"])), Counter(values(hits["patient_id"])))
    return Evidence(score[kept], correct, patients, len(calibration.targets), earlier)


def _first_worth_it(points: Iterable[OperatingPoint], wanted: float) -> OperatingPoint:
    """The first that accepts as many as wanted; else the one that accepts the most, the last of those that tie."""
    tried = []
    for point in points:
        if point.accepted >= wanted:
            return point
        tried.append(point)
    return max(reversed(tried), key=lambda each: each.accepted)


def nothing_scored(settings: OperatingPointSettings, reason: str) -> SelectedPoint:
    """In place of an operating point where no tubelet was scored: no threshold, and the reason."""
    none = refused(0.0, reason)
    return SelectedPoint(fusions(settings)[0], none, none, 0)


def from_json(tree: dict[str, Any]) -> SelectedPoint:
    """What dataclasses.asdict made of a SelectedPoint."""
    point, plain = OperatingPoint(**tree["point"]), OperatingPoint(**tree["naive"])
    return SelectedPoint(ScoreFusion(**tree["choice"]), point, plain, tree["trials"])
