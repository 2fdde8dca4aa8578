"""Operating-point selection: what a finished run would harvest at other precision targets, and with which settings.

    harvester tune --run runs/quickstart
    harvester tune --run runs/night1 --targets 0.8 0.9 0.95 --set "operating_point.lpg_floors=[0.1,0.2,0.3]"
    harvester harvest --config runs/quickstart/tune/target-0.95.yaml --run runs/quickstart-095

The scores are fused as in a harvest, Ray Tune sweeps score floors and lengths; each target's threshold is
then solved exactly, certified and by the point estimate alone. Where the run left the proof to an audit, this shows
what V_M proves: what your completely marked patients are good for. Nothing is trained. Written to --out:
frontier.csv, frontier.json, frontier.png and a target-<precision>.yaml for each target, which harvester harvest takes
(given the same run folder it redoes only what the threshold changes). A note in the store counts it as a look at V_M.
Exit codes: 0 done, 1 the run's tables cannot be used (one line says why), 2 a setting is wrong.
"""

import argparse
import json
from dataclasses import asdict
from typing import Final

import pyarrow as pa
import pyarrow.csv as pcsv

from harvester.certificate.frontier import Frontier, FrontierRow
from harvester.cli.console import LOGS, command, command_parser, tell
from harvester.cli.places import lasting, run_folder, store_folder
from harvester.config.loading import dump
from harvester.config.settings import Settings
from harvester.errors import SettingsError
from harvester.run.folder import settings_of, store_of
from harvester.storage.location import Location
from harvester.store import looks
from harvester.text import table

TARGETS: Final = [0.80, 0.85, 0.90, 0.95]
HEAD: Final = ["target", "way", "threshold", "bound", "V_M prec", "V_M rec", "harvested", "precision", "recall"]


def tune(options: argparse.Namespace) -> None:
    """One sweep, from the run's tables to files and a table on the terminal."""
    run = run_folder(options.run)
    out = lasting(options.out) if options.out else run / "tune"
    settings = by_vm(settings_of(run, options.set))
    wrong = [target for target in options.targets if not 0 < target < 1]
    if wrong:
        raise SettingsError(f"--targets {wrong[0]:g}: want precisions between 0 and 1")
    # Ray takes seconds: help and a wrong option are answered before.
    from harvester.distributed.cluster import start_ray
    from harvester.frontier import trace
    from harvester.results.scored import last_round, scored_rounds

    store = store_of(run, settings, store_folder(options.store))
    number = last_round(run) if options.round is None else options.round
    scored = scored_rounds(run, number)
    start_ray()
    earlier = looks.look(store, "tune", run.uri, number, settings.operating_point, options.targets)
    frontier = trace(scored, store, settings, options.targets, out / "work")
    write(frontier, settings, out)
    tell(f"{text(frontier)}\n{looks.said(earlier)}\nwritten to {out}", options)


def by_vm(settings: Settings) -> Settings:
    """Where the run left the proof to an audit, what V_M shows all the same."""
    point = settings.operating_point
    if point.certificate != "audit":
        return settings
    shown = point.model_copy(update={"certificate": "calibration"})
    return settings.model_copy(update={"operating_point": shown})


def write(frontier: Frontier, settings: Settings, out: Location) -> None:
    """The table, the picture and one settings file per target."""
    from harvester.frontier import narrowed
    from harvester.report.plots import frontier_picture

    rows = [asdict(row) for row in frontier.rows]
    with (out / "frontier.csv").publish() as sink:
        pcsv.write_csv(pa.Table.from_pylist(rows), sink)
    content = {"round": frontier.round, "trials": [asdict(trial) for trial in frontier.trials], "frontier": rows}
    (out / "frontier.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "frontier.png").write_bytes(frontier_picture(frontier))
    for target in sorted({row.target for row in frontier.rows}):
        (out / f"target-{target:g}.yaml").write_text(dump(narrowed(settings, frontier, target)))


def text(frontier: Frontier) -> str:
    """The frontier for the terminal, the choice first."""
    best = frontier.trials[0].choice
    lines = [
        f"round {frontier.round}, the best way to fuse the scores of {len(frontier.trials)} tried: "
        f"LPG weight {best.lpg_weight:g}, LPG floor {best.lpg_floor:g}, min slices {best.min_slices}",
        *table([HEAD, *(_cells(row) for row in frontier.rows)], "rlr"),
    ]
    refused = [row for row in frontier.rows if row.way == "certified" and row.reason]
    return "\n".join(lines + [f"target {row.target:g}: {row.reason}" for row in refused])


def _cells(row: FrontierRow) -> list[str]:
    cut, precision, recall = (
        "-" if value is None else f"{value:.{digits}f}"
        for value, digits in ((row.threshold, 4), (row.precision, 3), (row.recall_unmarked, 3))
    )
    proven = (f"{value:.3f}" for value in (row.bound, row.precision_vm, row.recall_vm))
    return [f"{row.target:g}", row.way, cut, *proven, str(row.harvested), precision, recall]


parser = command_parser("tune", __doc__, "run", "store", "set", *LOGS)
parser.add_argument("--round", type=int, help="use the models of this round (default: the last)")
parser.add_argument(
    "--targets", type=float, nargs="+", default=TARGETS, help="precision targets (default: %(default)s)"
)
parser.add_argument("--out", metavar="PATH|URI", help="folder for the results (default: RUN/tune)")
main = command(parser, tune)
