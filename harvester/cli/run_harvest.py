"""One harvest, from settings and a store to a run folder with its report; or what it would do."""

import os
import time
from pathlib import Path

from harvester.certificate.preconditions import require_harvestable
from harvester.cli.console import data_root
from harvester.cli.plan import format_plan, plan
from harvester.config.settings import Settings
from harvester.distributed.capacity import require_capacity
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


def run_harvest(settings: Settings, store: str | None, run: Location | Path | str) -> Location:
    """The whole loop, in `run`: a folder or its URI, which is given back. A run that was stopped goes on.

    `store` is a store's folder or URI; None takes what `settings.data` names, or makes it in the run's folder. Joins
    the Ray of RAY_ADDRESS or starts one. The closing table goes to stdout. Raises HarvesterError.
    """
    began, folder = time.monotonic(), Location.of(run)
    with logged_to(folder):
        named = named_store(settings, store)
        volumes = Store.open(named) if named else None
        if volumes:  # Ray takes seconds: what its tables show is said before
            require_harvestable(volumes, settings)
        start_ray()
        require_capacity(settings.compute)
        if volumes is None:
            volumes = prepare(settings, data_root(), folder / "store")
            require_harvestable(volumes, settings)
        opened = Run.open(folder, settings, volumes, began)
        with Tracker.open(opened, os.environ.get("MLFLOW_TRACKING_URI")) as tracker:
            inputs = harvest(opened, tracker).report_inputs()
            report = write_report(inputs)
        print(closing_table(inputs.summary))
        print(f"report: {report}")
    return folder


def show_plan(settings: Settings, store: str | None, folder: Location) -> None:
    """Print what `run_harvest` would do with the same arguments."""
    named = named_store(settings, store)
    opened = Store.open(named) if named else prepared(settings, folder / "store")
    if opened is None:
        print(f"to make  the volumes ({settings.data.kind}), into {folder / 'store'}; then every step")
    else:
        require_harvestable(opened, settings)
        print("\n".join(format_plan(plan(folder, settings, opened))))


def named_store(settings: Settings, given: str | None) -> str | None:
    """The given store, or the one that the settings name; None where it is to be made."""
    if given is None and settings.data.kind == "store":
        if not settings.data.store:
            raise SettingsError(
                "no store is named: give --store STORE, which harvester prepare makes of your scans, or take --config "
                "quickstart, which makes phantoms"
            )
        given = os.path.expandvars(settings.data.store)
    return given
