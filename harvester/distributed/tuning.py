"""Ray Tune: what is not exactly solvable is searched, the exact threshold is solved inside each trial.

A trial is one Choice (fusion of the scores, floors, a bonus for small tubelets). The best one is that which ranks
the clinical marks highest among the candidates (`known_recall`): the archive shows those to everybody. What the
certificate rests on, the hidden annotations of V_M, has no say in the choice, so nothing is to be paid for it and
the chosen threshold keeps its full confidence.
"""

from typing import Any, Final

import pyarrow as pa
from ray import tune

from harvester.certificate.selection import Rehearsal, Solved, Trial, solve_choice
from harvester.config.settings import OperatingPointSettings
from harvester.distributed.cluster import for_ray
from harvester.errors import StepError
from harvester.mining.fusion import Choice, choices, known_recall
from harvester.storage.location import Location

TRIES: Final = 5
"""More of a trial whose worker or node dies. It keeps nothing on the way: it is a second's work."""


def search(rehearsal: Rehearsal, settings: OperatingPointSettings, storage: Location) -> Solved:
    """The choice that finds the most of what is known, with its exact threshold."""
    best = sweep(rehearsal, settings, storage)[0]
    return evaluate(rehearsal, best.choice, settings, len(choices(settings)))


def sweep(rehearsal: Rehearsal, settings: OperatingPointSettings, storage: Location) -> list[Trial]:
    """Every choice that the settings name, the best first; ties fall to the order of the settings."""
    tried = choices(settings)

    def trial(config: dict[str, Any]) -> None:
        choice = Choice(**config["choice"])
        solved = evaluate(rehearsal, choice, settings, len(tried))
        tune.report(
            {
                "known_recall": known_recall(*_what_is_known(rehearsal), choice),
                "recall": solved.point.recall_estimate,
                "bound": solved.point.precision_bound,
                "naive_recall": solved.naive.recall_estimate,
            }
        )

    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"choice": tune.grid_search([choice.as_dict() for choice in tried])},
        tune_config=tune.TuneConfig(metric="known_recall", mode="max"),
        run_config=tune.RunConfig(
            **for_ray(storage),
            name="operating-point",
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=TRIES),
        ),
    )
    results = tuner.fit()
    if results.errors:
        raise StepError(
            f"{len(results.errors)} of {len(tried)} operating-point trials failed: {results.errors[0]}"
        )
    trials = [_trial(results[i]) for i in range(len(results))]
    return sorted(trials, key=lambda one: (-one.known_recall, tried.index(one.choice)))


def _what_is_known(rehearsal: Rehearsal) -> tuple[pa.Table, pa.Table, int]:
    return (
        rehearsal.candidates.read_table(),
        rehearsal.known.read_table(),
        len(rehearsal.lesions.read_table()),
    )


def _trial(result: Any) -> Trial:
    told = {name: result.metrics[name] for name in ("known_recall", "recall", "bound", "naive_recall")}
    return Trial(Choice(**result.config["choice"]), **told)


def evaluate(rehearsal: Rehearsal, choice: Choice, settings: OperatingPointSettings, trials: int) -> Solved:
    """The exact threshold of one choice, certified and naive."""
    tables = [file.read_table() for file in (rehearsal.candidates, rehearsal.lesions, rehearsal.accepted)]
    return solve_choice(tables[0], tables[1], tables[2], choice, settings, trials, rehearsal.last)
