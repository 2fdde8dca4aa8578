"""Threshold selection: one way to fuse the scores, solved exactly on the calibration set. What a trial does."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.certificate.evidence import Evidence, Target
from harvester.certificate.operating_point import OperatingPoint, naive, refused, solve
from harvester.config.settings import OperatingPointSettings
from harvester.mining.fusion import ScoreFusion, fuse, fusions, known_recall
from harvester.mining.round_view import RoundView, match_to_lesions
from harvester.records import MarkTable, PooledTable, SelectedTable, checked
from harvester.storage.location import Location

LEFT_TO_AUDIT: Final = "the proof is left to an audit (operating_point.certificate): harvester audit --run RUN draw"


@dataclass(frozen=True, eq=False)
class Calibration:
    """All that a threshold is selected from.

    candidates      the tubelets of the calibration set (RoundView.calibration)
    targets         the lesions that they should find
    clinical_finds  the tubelets of V_H that find a clinical mark
    rivals          candidates of V_H that those should outscore
    """

    candidates: PooledTable
    targets: MarkTable
    clinical_finds: PooledTable
    rivals: PooledTable

    @classmethod
    def of(cls, view: RoundView) -> "Calibration":
        """What a round's view has of it."""
        return cls(view.calibration, view.targets, view.clinical_finds, view.rivals)

    @property
    def tables(self) -> tuple[pa.Table, ...]:
        """Its tables, in their order."""
        return self.candidates, self.targets, self.clinical_finds, self.rivals

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

    def read(self) -> Calibration:
        """The tables."""
        candidates, targets, finds, rivals = (file.read_table() for file in self.files)
        return Calibration(
            checked(PooledTable, candidates),
            checked(MarkTable, targets),
            checked(PooledTable, finds),
            checked(PooledTable, rivals),
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
    """The exact threshold of one way to fuse, certified and naive."""
    evidence = evidence_of(calibration, fusion, settings.match_iou)
    target = Target(settings.target_precision, 1 - settings.level, settings.min_patients)
    proven = refused(0.0, LEFT_TO_AUDIT) if settings.certificate == "audit" else solve(evidence, target)
    return SelectedPoint(fusion, proven, naive(evidence, target), trials)


def evidence_of(calibration: Calibration, fusion: ScoreFusion, match_iou: float) -> Evidence:
    """The candidates that the fusion keeps, by their fused score, and which of them are right."""
    score = fuse(calibration.candidates, fusion)
    kept = np.flatnonzero(np.isfinite(score))
    table = calibration.candidates.take(kept).append_column("score", pa.array(score[kept]))
    correct = match_to_lesions(SelectedTable(table), calibration.targets, match_iou)
    patients = table["patient_id"].to_numpy(zero_copy_only=False).astype(str)
    return Evidence(score[kept], correct, patients, len(calibration.targets))


def nothing_scored(settings: OperatingPointSettings, reason: str) -> SelectedPoint:
    """In place of an operating point where no tubelet was scored: no threshold, and the reason."""
    none = refused(0.0, reason)
    return SelectedPoint(fusions(settings)[0], none, none, 0)


def from_json(tree: dict[str, Any]) -> SelectedPoint:
    """What dataclasses.asdict made of a SelectedPoint."""
    point, plain = OperatingPoint(**tree["point"]), OperatingPoint(**tree["naive"])
    return SelectedPoint(ScoreFusion(**tree["choice"]), point, plain, tree["trials"])
