"""Ray Tune: what is not exactly solvable is searched, the exact threshold is solved inside each trial.

A trial is one ScoreFusion: a weight, a floor and a least length. The best one is that which ranks V_H's clinical marks
highest among V_H's candidates (`known_recall`): the archive shows those to everybody. What the certificate rests on,
V_M, has no say in the choice, so nothing is to be paid for it and the chosen threshold keeps its full confidence.
(Ranked among V_M's candidates, settings win whose errors score low in this V_M by chance.)
"""

from dataclasses import asdict
from typing import Any, Final

from ray import tune

from harvester.certificate.selection import Calibration, CalibrationFiles, SelectedPoint, Trial, select_point
from harvester.config.settings import OperatingPointSettings, Settings
from harvester.distributed.capacity import ResourceRequest
from harvester.distributed.cluster import for_ray
from harvester.distributed.watchdog import BackgroundWork
from harvester.errors import StepError, one_line
from harvester.mining.fusion import ScoreFusion, fusions
from harvester.storage.location import Location

TRIES: Final = 5
"""More of a trial whose worker or node dies. It keeps nothing on the way: it is a second's work."""
TRIAL: Final = ResourceRequest("trials of the operating point", 1, {"CPU": 1.0})
FIGURES: Final = ("known_recall", "recall", "bound", "naive_recall")
"""What a trial reports: the fields of Trial."""


def search(files: CalibrationFiles, settings: Settings, storage: Location) -> SelectedPoint:
    """The way to fuse the scores that finds the most of what is known, with its exact threshold."""
    trials = sweep(files, settings, storage)
    return select_point(files.read(), trials[0].choice, settings.operating_point, len(trials))


def sweep(files: CalibrationFiles, settings: Settings, storage: Location) -> list[Trial]:
    """Every way to fuse that the settings name, the best first; ties fall to the order of the settings. One alone is
    solved here: there is nothing to search."""
    own, tried = settings.operating_point, fusions(settings.operating_point)
    if len(tried) == 1:
        return [Trial(tried[0], **_figures(files.read(), tried[0], own))]

    def trial(config: dict[str, Any]) -> None:
        try:
            figures = _figures(files.read(), ScoreFusion(**config["choice"]), own)
        except OSError:
            raise  # it may pass: Tune tries again
        except Exception as error:  # noqa: BLE001  it would be raised again, in every one of Tune's tries
            figures = dict.fromkeys(FIGURES, 0.0) | {"failed": f"{type(error).__name__}: {one_line(error)}"}
        tune.report(figures)

    progress = TrialProgress(settings.compute.no_progress_minutes)
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": TRIAL.each["CPU"]}),
        param_space={"choice": tune.grid_search([asdict(fusion) for fusion in tried])},
        tune_config=tune.TuneConfig(metric="known_recall", mode="max", reuse_actors=True),
        run_config=tune.RunConfig(
            **for_ray(storage),
            name="operating-point",
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=TRIES),
            callbacks=[progress],
        ),
    )
    work = BackgroundWork(tuner.fit)
    work.start()
    work.watch(progress, TRIAL)
    results = work.result
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


class TrialProgress(tune.Callback):
    """Counts what becomes of trials."""

    def __init__(self, minutes: float) -> None:
        self.minutes, self.moves = minutes, 0

    def on_trial_start(self, *_: Any, **__: Any) -> None:
        """One has found room."""
        self.moves += 1

    on_trial_complete = on_trial_error = on_trial_start

    def reached(self) -> int:
        """How often one began or ended."""
        return self.moves

    def waiting(self) -> str:
        """What they wait for."""
        return (
            f"operating point: no trial began or ended for {self.minutes:g} minutes (compute.no_progress_minutes): has "
            "the cluster a CPU for them? Start the same command again"
        )


def _trial(result: Any) -> Trial:
    figures = {name: result.metrics[name] for name in FIGURES}
    return Trial(ScoreFusion(**result.config["choice"]), **figures)
