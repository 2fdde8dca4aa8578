"""What asking early rounds for more than the target does: finished runs, harvested again from their own scores.

    python benchmarks/early_target.py RUN [RUN ...] [--targets 0.93 0.95 0.95,0.93]

The models stay, so a later round's were trained on what the run itself had harvested. Printed for each run and early
target: lesions harvested in V_H^test after all rounds, their precision, and the recall of its unmarked lesions. The
first line of each asks every round for the target itself; 0.95,0.93 tries one after the other.
"""

import argparse
from pathlib import Path

import numpy as np

from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.frontier import last_round, scored_table
from harvester.mining.fusion import fusions
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import AcceptedTable, empty
from harvester.results.ablations import ablation
from harvester.results.truth import TruthEvaluator
from harvester.store.store import Store


def main() -> None:
    """Harvest every run at every early target, and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--targets", nargs="+", default=["0.93", "0.95", "0.95,0.93"])
    options = parser.parse_args()
    print(f"{'run':14s}{'early target':>14s}{'harvested':>11s}{'precision':>11s}{'recall':>8s}")
    for target in ("", *options.targets):
        chosen = [again(run, tuple(float(each) for each in target.split(",") if each)) for run in options.runs]
        for run, row in zip(options.runs, chosen, strict=True):
            print(f"{run.name:14s}{target or 'none':>14s}{row[0]:11.0f}{row[1]:11.3f}{row[2]:8.3f}")
        means = np.mean(chosen, axis=0)
        print(f"{'mean':14s}{target or 'none':>14s}{means[0]:11.1f}{means[1]:11.3f}{means[2]:8.3f}", flush=True)


def again(run: Path, early_targets: tuple[float, ...]) -> tuple[float, float, float]:
    """Lesions harvested in V_H^test, precision (1 where there are none) and recall, after all rounds."""
    settings = _asked_for(resolve(run / "settings.yaml"), early_targets)
    store = Store.open(run / "store")
    tables, own = StoreTables.of(store, settings), settings.operating_point
    loop = ablation(own, fusions(own), lambda scored, k: scored)
    for k in range(last_round(run) + 1):
        view = RoundView(scored_table(run, k), tables.ledger, empty(AcceptedTable), tables, settings)
        loop = loop.after(k, view)
    result = loop.result(TruthEvaluator(store, settings))
    precision = 1.0 if result.precision is None else result.precision
    return result.test_harvested, precision, result.recall_unmarked or 0.0


def _asked_for(settings: Settings, early_targets: tuple[float, ...]) -> Settings:
    own = settings.operating_point.model_copy(update={"early_target_precisions": early_targets})
    return settings.model_copy(update={"operating_point": own})


if __name__ == "__main__":
    main()
