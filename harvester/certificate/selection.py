"""One choice of how to cut, solved exactly on V_M's rehearsal: what a trial of the search does."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from harvester.certificate.operating_point import STEP, OperatingPoint, naive, solve
from harvester.config.settings import OperatingPointSettings
from harvester.mining.calibration import judge
from harvester.mining.fusion import Choice, choices, fuse
from harvester.storage.location import Location


@dataclass(frozen=True)
class Solved:
    """The chosen settings and their operating point; `naive` is what the point estimate would have chosen.

    trials    how many choices were compared (by what the archive shows: see mining.known_recall)
    """

    choice: Choice
    point: OperatingPoint
    naive: OperatingPoint
    trials: int


def solve_choice(
    candidates: pa.Table,
    lesions: pa.Table,
    accepted: pa.Table,
    choice: Choice,
    settings: OperatingPointSettings,
    trials: int,
    last: bool = True,
) -> Solved:
    """The exact threshold of one choice, certified and naive.

    A round that is not the last is asked for the early targets in turn, so that it leaves the doubtful ones to better
    models; where none adds as much as one step of the sequence, for the target itself.

    candidates   SCORED tubelets of V_M that touch no clinical mark and nothing accepted before
    lesions      the annotated lesions that they should find (records.MARKS)
    accepted     tubelets accepted in earlier rounds (records.ACCEPTED): the promise is on the union
    """
    score = fuse(candidates, choice)
    kept = np.flatnonzero(np.isfinite(score))
    table = candidates.take(kept).append_column("score", pa.array(score[kept]))
    correct, _ = judge(table, lesions, settings.match_iou)
    patients = table["patient_id"].to_numpy(zero_copy_only=False).astype(str)
    earlier = _counts(accepted)
    given = (score[kept], correct, patients, len(lesions))

    def at(target: float) -> OperatingPoint:
        return solve(*given, target, settings.confidence, *earlier, min_patients=settings.min_patients)

    target = settings.target_precision
    early = () if last else settings.early_target_precisions
    points = (at(each) for each in (*(higher for higher in early if higher > target), target))
    point = _first_worth_it(points, max(STEP * len(accepted), 1))
    return Solved(choice, point, naive(*given, target, *earlier, settings.confidence), trials)


def _first_worth_it(points: Iterable[OperatingPoint], wanted: float) -> OperatingPoint:
    """The first that accepts as many as wanted; else the one that accepts the most, the last of those that tie."""
    tried = []
    for point in points:
        if point.accepted >= wanted:
            return point
        tried.append(point)
    return max(reversed(tried), key=lambda each: each.accepted)


def nothing_scored(settings: OperatingPointSettings, reason: str) -> Solved:
    """In place of an operating point where no tubelet was scored: no threshold, and the reason."""
    none = OperatingPoint(np.inf, 0.0, 0.0, 0.0, 0, 0, reason)
    return Solved(choices(settings)[0], none, none, 0)


def as_json(solved: Solved) -> dict[str, Any]:
    """The result as plain values."""
    return {
        "choice": solved.choice.as_dict(),
        "point": asdict(solved.point),
        "naive": asdict(solved.naive),
        "trials": solved.trials,
    }


def from_json(tree: dict[str, Any]) -> Solved:
    """What as_json wrote."""
    point, plain = OperatingPoint(**tree["point"]), OperatingPoint(**tree["naive"])
    return Solved(Choice(**tree["choice"]), point, plain, tree["trials"])


def _counts(accepted: pa.Table) -> tuple[dict[str, int], dict[str, int]]:
    """Correct and all tubelets accepted in earlier rounds, by patient."""
    correct: dict[str, int] = {}
    total: dict[str, int] = {}
    for row in accepted.select(["patient_id", "correct"]).to_pylist():
        total[row["patient_id"]] = total.get(row["patient_id"], 0) + 1
        correct[row["patient_id"]] = correct.get(row["patient_id"], 0) + int(row["correct"])
    return correct, total


@dataclass(frozen=True)
class Rehearsal:
    """What a trial is measured on, as parquet files so that trials on any node read them.

    candidates   SCORED tubelets of V_M that touch no clinical mark and nothing accepted before
    lesions      the annotated lesions that they should find (records.MARKS)
    accepted     tubelets accepted in earlier rounds, with `correct` and `patient_id`
    known        SCORED tubelets that find a clinical mark, of V_M and V_H
    last         whether no round follows: the early target is not asked for
    """

    candidates: Location
    lesions: Location
    accepted: Location
    known: Location
    last: bool = True


@dataclass(frozen=True)
class Trial:
    """One choice: how high it ranks what is known, and what its operating point gives on V_M."""

    choice: Choice
    known_recall: float
    recall: float
    bound: float
    naive_recall: float
