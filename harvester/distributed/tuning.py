"""Ray Tune: what is not exactly solvable is searched, the exact threshold is solved inside each trial.

A trial is one ScoreFusion (weights of the scores, floors, a bonus for small tubelets). The best one is that which ranks
the clinical marks highest among the candidates (`known_recall`): the archive shows those to everybody. What the
certificate rests on, the hidden annotations of V_M, has no say in the choice, so nothing is to be paid for it and
the chosen threshold keeps its full confidence.
"""

from dataclasses import asdict
from typing import Any, Final

from ray import tune

from harvester.certificate.selection import Calibration, CalibrationFiles, SelectedPoint, Trial, select_point
from harvester.config.settings import OperatingPointSettings
from harvester.distributed.cluster import for_ray
from harvester.errors import StepError, one_line
from harvester.mining.fusion import ScoreFusion, fusions
from harvester.storage.location import Location

TRIES: Final = 5
"""More of a trial whose worker or node dies. It keeps nothing on the way: it is a second's work."""
FIGURES: Final = ("known_recall", "recall", "bound", "naive_recall")
"""What a trial reports: the fields of Trial."""


def search(files: CalibrationFiles, settings: OperatingPointSettings, storage: Location) -> SelectedPoint:
    """The way to fuse the scores that finds the most of what is known, with its exact threshold."""
    trials = sweep(files, settings, storage)
    return select_point(files.read(), trials[0].choice, settings, len(trials))


def sweep(files: CalibrationFiles, settings: OperatingPointSettings, storage: Location) -> list[Trial]:
    """Every way to fuse that the settings name, the best first; ties fall to the order of the settings."""
    tried = fusions(settings)

    def trial(config: dict[str, Any]) -> None:
        try:
            figures = _figures(files.read(), ScoreFusion(**config["choice"]), settings)
        except OSError:
            raise  # it may pass: Tune tries again
        except Exception as error:  # noqa: BLE001  it would be raised again, in every one of Tune's tries
            figures = dict.fromkeys(FIGURES, 0.0) | {"failed": f"{type(error).__name__}: {one_line(error)}"}
        tune.report(figures)

    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"choice": tune.grid_search([asdict(fusion) for fusion in tried])},
        tune_config=tune.TuneConfig(metric="known_recall", mode="max"),
        run_config=tune.RunConfig(
            **for_ray(storage), name="operating-point", verbose=0, failure_config=tune.FailureConfig(max_failures=TRIES)
        ),
    )
    results = tuner.fit()
    ended = [results[i] for i in range(len(results))]
    told = [each.metrics or {} for each in ended]
    failed = [*results.errors, *(each["failed"] for each in told if "failed" in each)]
    if failed:
        raise StepError(f"{len(failed)} of {len(tried)} operating-point trials failed: {failed[0]}")
    return sorted(map(_trial, ended), key=lambda one: (-one.known_recall, tried.index(one.choice)))


def _figures(calibration: Calibration, fusion: ScoreFusion, settings: OperatingPointSettings) -> dict[str, Any]:
    selected = select_point(calibration, fusion, settings)
    return {
        "known_recall": calibration.known_recall(fusion),
        "recall": selected.point.recall_estimate,
        "bound": selected.point.precision_bound,
        "naive_recall": selected.naive.recall_estimate,
    }


def _trial(result: Any) -> Trial:
    figures = {name: result.metrics[name] for name in FIGURES}
    return Trial(ScoreFusion(**result.config["choice"]), **figures)
