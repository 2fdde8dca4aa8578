"""Harvest the unmarked lesions of an archive: the whole loop, resumable, on this machine or on a Ray cluster.

    python jobs/harvest.py --config configs/quickstart.yaml
    python jobs/harvest.py --config configs/deeplesion.yaml --store STORE --run runs/night1 --set rounds=4
    python jobs/harvest.py --config configs/deeplesion.yaml --store STORE --run runs/night1 --set rounds=6 --plan
    ray job submit --working-dir . -- python jobs/harvest.py --config configs/quickstart.yaml

Starting the same command again goes on where it stopped: finished steps are never done twice.
Exit codes: 0 done, 1 the harvest failed (one line says why), 2 a setting is wrong.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from harvester.cli.console import job_parser, run_job
from harvester.cli.plan import lines, plan
from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.distributed.capacity import require_room
from harvester.distributed.cluster import start_ray
from harvester.distributed.preparation import prepare, prepared
from harvester.errors import SettingsError
from harvester.harvest import harvest
from harvester.report.build import write_report
from harvester.report.sections import closing_table
from harvester.run.folder import Run
from harvester.run.log import logged_to
from harvester.run.tracking import Tracker
from harvester.storage.location import Location
from harvester.store.store import Store


def main(arguments: list[str] | None = None) -> int:
    """Parse, start Ray, harvest, write the report."""
    options = parse(arguments)
    act = show_plan if options.plan else run
    return run_job(lambda: act(resolve(options.config, options.set), options.store, options.run))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = job_parser(__doc__)
    parser.add_argument("--config", type=Path, help="YAML file of settings; without it, the defaults")
    parser.add_argument(
        "--store", help="a store made by jobs/prepare.py, a folder or its URI; without it, data.kind says"
    )
    parser.add_argument(
        "--run", metavar="PATH|URI", help="run folder, also s3://bucket/folder (default: runs/<config name>/)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="override one setting; may be repeated"
    )
    parser.add_argument(
        "--plan", action="store_true", help="tell what would be done and why, write nothing, start no Ray"
    )
    return parser.parse_args(arguments)


def show_plan(settings: Settings, store_path: str | None, run_folder: str | None) -> None:
    """Print what `run` would do with the same arguments."""
    folder = folder_of(settings, run_folder)
    named = named_store(settings, store_path)
    store = Store.open(named) if named else prepared(settings, folder / "store")
    if store is None:
        print(f"to make  the volumes ({settings.data.kind}), into {folder / 'store'}; then every step")
    else:
        print("\n".join(lines(plan(folder, settings, store))))


def folder_of(settings: Settings, given: str | None) -> Location:
    """The run's folder."""
    return Location.of(given or Path("runs") / settings.name)


def run(settings: Settings, store_path: str | None, run_folder: str | None) -> None:
    """One harvest from a made or given store to its report; its folder keeps the log."""
    began = time.monotonic()
    folder = folder_of(settings, run_folder)
    with logged_to(folder):
        start_ray()
        require_room(settings.compute)
        harvest_to(folder, settings, store_path, began)


def harvest_to(folder: Location, settings: Settings, store_path: str | None, began: float) -> None:
    """The store, the loop, the report."""
    store = open_store(settings, store_path, folder)
    opened = Run(folder, settings, store, began)
    tracker = Tracker.open(folder, settings, os.environ.get("MLFLOW_TRACKING_URI"))
    try:
        history = harvest(opened, tracker)
        inputs = history.report_inputs()
        report = write_report(inputs)
        for artifact in (
            report,
            folder / "summary.json",
            folder / "harvest.parquet",
            folder / "settings.yaml",
        ):
            tracker.log_artifact(artifact)
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish("FINISHED")
    print(closing_table(inputs.summary))
    print(f"report: {report}")


def open_store(settings: Settings, given: str | None, folder: Location) -> Store:
    """The given store, or the one that the settings name, or a made one in the run folder."""
    named = named_store(settings, given)
    return Store.open(named) if named else prepare(settings, data_root(), folder / "store")


def named_store(settings: Settings, given: str | None) -> str | None:
    """The given store, or the one that the settings name; None where it is to be made."""
    if given is None and settings.data.kind == "store":
        if not settings.data.store:
            raise SettingsError("setting data.kind = 'store': name the store with --store or data.store")
        given = os.path.expandvars(settings.data.store)
    return given


def data_root() -> Path | None:
    """What $HARVESTER_DATA names, for data that is read from files."""
    root = os.environ.get("HARVESTER_DATA")
    return Path(root).absolute() if root else None


if __name__ == "__main__":
    sys.exit(main())
