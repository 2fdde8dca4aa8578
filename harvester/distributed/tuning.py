"""Ray Tune: what is not exactly solvable is searched, the exact threshold is solved inside each trial.

A trial is one Choice (fusion of the scores, floors, a bonus for small tubelets). All trials look at the same V_M
tubelets, so each is held to confidence 1 - (1 - confidence) / trials: the winner's bound holds although it was
chosen (Bonferroni).
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from ray import tune

from harvester.config import OperatingPointSettings
from harvester.errors import StepError
from harvester.evaluation.operating_point import OperatingPoint, naive, solve
from harvester.mining import Choice, choices, fuse, judge

Array = NDArray[Any]


@dataclass(frozen=True)
class Rehearsal:
    """What a trial is measured on, as parquet files so that trials on any node read them.

    candidates   SCORED tubelets of V_M that touch no clinical mark and nothing accepted before
    lesions      the annotated lesions that they should find (records.MARKS)
    accepted     tubelets accepted in earlier rounds, with `correct` and `patient_id`
    """

    candidates: Path
    lesions: Path
    accepted: Path


@dataclass(frozen=True)
class Solved:
    """The chosen settings and their operating point; `naive` is what the point estimate would have chosen."""

    choice: Choice
    point: OperatingPoint
    naive: OperatingPoint
    trials: int


def search(rehearsal: Rehearsal, settings: OperatingPointSettings, storage: Path) -> Solved:
    """The choice with the most recall whose bound meets the target; the first one where none does."""
    tried = choices(settings)

    def trial(config: dict[str, Any]) -> None:
        solved = evaluate(rehearsal, Choice(**config["choice"]), settings, len(tried))
        recall = solved.point.recall_estimate if np.isfinite(solved.point.threshold) else 0.0
        bound = solved.point.precision_bound
        tune.report({"recall": recall, "bound": bound, "naive_recall": solved.naive.recall_estimate})

    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"choice": tune.grid_search([choice.as_dict() for choice in tried])},
        tune_config=tune.TuneConfig(metric="recall", mode="max"),
        run_config=tune.RunConfig(storage_path=str(storage), name="operating-point", verbose=0),
    )
    results = tuner.fit()
    if results.errors:
        raise StepError(
            f"{len(results.errors)} of {len(tried)} operating-point trials failed: {results.errors[0]}"
        )

    best = max((results[i] for i in range(len(results))), key=lambda result: _merit(result, tried))
    return evaluate(rehearsal, _choice_of(best), settings, len(tried))


def _merit(result: Any, tried: list[Choice]) -> tuple[float, float, float, int]:
    """Recall; ties and refusals fall to the better bound, then to the order of the settings: the same every time."""
    place = tried.index(_choice_of(result))
    return result.metrics["recall"], result.metrics["bound"], result.metrics["naive_recall"], -place


def _choice_of(result: Any) -> Choice:
    return Choice(**result.config["choice"])


def evaluate(rehearsal: Rehearsal, choice: Choice, settings: OperatingPointSettings, trials: int) -> Solved:
    """The exact threshold of one choice, certified and naive."""
    tables = [pq.read_table(path) for path in (rehearsal.candidates, rehearsal.lesions, rehearsal.accepted)]
    return solve_choice(tables[0], tables[1], tables[2], choice, settings, trials)


def solve_choice(
    candidates: pa.Table,
    lesions: pa.Table,
    accepted: pa.Table,
    choice: Choice,
    settings: OperatingPointSettings,
    trials: int,
) -> Solved:
    """The same on tables."""
    score = fuse(candidates, choice)
    kept = np.flatnonzero(np.isfinite(score))
    table = candidates.take(kept).append_column("score", pa.array(score[kept]))
    correct, _ = judge(table, lesions, settings.match_iou)
    patients = table["patient_id"].to_numpy(zero_copy_only=False).astype(str)
    earlier = _counts(accepted)
    confidence = 1 - (1 - settings.confidence) / trials
    given = (score[kept], correct, patients, len(lesions), settings.target_precision)
    point = solve(*given, confidence, *earlier, min_patients=settings.min_patients)
    return Solved(choice, point, naive(*given, *earlier), trials)


def _counts(accepted: pa.Table) -> tuple[dict[str, int], dict[str, int]]:
    """Correct and all tubelets accepted in earlier rounds, by patient."""
    correct: dict[str, int] = {}
    total: dict[str, int] = {}
    for row in accepted.select(["patient_id", "correct"]).to_pylist():
        total[row["patient_id"]] = total.get(row["patient_id"], 0) + 1
        correct[row["patient_id"]] = correct.get(row["patient_id"], 0) + int(row["correct"])
    return correct, total


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
