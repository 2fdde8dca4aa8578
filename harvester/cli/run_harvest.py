"""One harvest, from settings and a store to a run folder with its report; or what it would do."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harvester.certificate.preconditions import require_harvestable
from harvester.classifier.network import Classifier
from harvester.cli.console import data_root
from harvester.cli.places import in_ray_job, lasting, store_folder
from harvester.cli.plan import format_plan, plan
from harvester.config.settings import Settings
from harvester.distributed.capacity import require_capacity
from harvester.distributed.cluster import start_ray
from harvester.distributed.precision import fastest_everywhere, fastest_here
from harvester.distributed.preparation import prepare, prepared
from harvester.distributed.shared_folders import require_shared
from harvester.errors import SettingsError
from harvester.harvest import harvest
from harvester.proposals.network import Generator
from harvester.report.build import write_report
from harvester.report.sections import closing_table
from harvester.run.first_start import decided
from harvester.run.folder import Run, store_in
from harvester.run.log import logged_to, read_log, seconds_of_starts
from harvester.run.tracking import Tracker, require_plain
from harvester.storage.location import Location
from harvester.storage.owner import owned
from harvester.store.store import Store
from harvester.text import duration
from harvester.weights.starting import starting_weights

logger = logging.getLogger(__name__)


def run_harvest(settings: Settings, store: str | None, run: Location | Path | str) -> Location:
    """The whole loop, in `run`: a folder or its URI, which is given back. A run that was stopped goes on.

    `store` is a store's folder or URI; None takes what `settings.data` names, or makes it in the run's folder. Joins
    the Ray of RAY_ADDRESS or starts one. The closing table goes to stdout. Raises HarvesterError; StoreError at once
    where another driver works in the folder.
    """
    folder = run if isinstance(run, Location) else lasting(run)
    with driving(folder) as (began, tracked_at):
        settings, volumes = ready(settings, store, folder)
        opened = Run.open(folder, settings, volumes, began)
        with Tracker.open(opened, tracked_at) as tracker:
            inputs = harvest(opened, tracker).report_inputs()
            report = write_report(inputs)
        logger.info("done in %s", duration(inputs.summary.seconds))
        print(closing_table(inputs.summary))
        print(f"report: {report}")
        if not inputs.summary.final.harvested:
            print(f"people can prove what was found by looking at a part of it: harvester audit --run {folder} draw")
    return folder


@contextmanager
def driving(folder: Location) -> Iterator[tuple[float, str | None]]:
    """The one driver of a run's folder, logged there: when its work began, earlier starts counted, on the clock of
    time.monotonic, and where MLflow is. Raises StoreError where another works there."""
    began, tracked_at = time.monotonic(), os.environ.get("MLFLOW_TRACKING_URI")
    require_plain(tracked_at)
    with owned(folder), logged_to(folder):
        began -= seconds_of_starts(read_log(folder))
        if in_ray_job():
            logger.info("the run's folder is %s", folder)
        yield began, tracked_at


def on_ray(settings: Settings, folder: Location, stores: Sequence[Location]) -> Settings:
    """A Ray with room for the settings, whose nodes all see the folders; and the settings, decided."""
    start_ray()
    require_capacity(settings.compute)
    settings = decided(settings, folder, fastest_everywhere)
    logger.info("precision %s", settings.compute.precision)
    require_shared([folder], stores)
    return settings


def ready(settings: Settings, store: str | None, folder: Location) -> tuple[Settings, Store]:
    """Ray, the store, and the settings, decided. What cannot end well is said as early as can be."""
    require_weights(decided(settings, folder, fastest_here))
    named = named_store(settings, store)
    volumes = Store.open(named) if named else None
    if volumes:  # Ray takes seconds: what its tables show is said before
        require_harvestable(volumes, settings)
    settings = on_ray(settings, folder, [named] if named else [])
    if volumes is None:
        volumes = prepare(settings, data_root(), folder / "store")
        require_harvestable(volumes, settings)
    return settings, volumes


def require_weights(settings: Settings) -> None:
    """Make the networks that start from pretrained weights once, before Ray takes its minute and workers theirs.

    Raises SettingsError for weights that are not there, cannot be downloaded, are broken or do not fit.
    """
    if start := starting_weights(settings):
        start.require_whole(settings)
    if settings.generator.weights:
        Generator(settings.generator, settings.grid)
    if settings.classifier.weights:
        Classifier(settings.classifier, settings.grid)


def show_plan(settings: Settings, store: str | None, folder: Location) -> None:
    """Print what `run_harvest` would do with the same arguments."""
    settings, named = decided(settings, folder, fastest_here), named_store(settings, store)
    opened = Store.open(named) if named else prepared(settings, data_root(), folder / "store")
    if opened is None:
        print(f"to make  the volumes ({settings.data.kind}), into {folder / 'store'}; then every step")
    else:
        require_harvestable(opened, settings)
        print("\n".join(format_plan(plan(folder, settings, opened))))


def named_store(settings: Settings, given: str | None) -> Location | None:
    """The given store, or the one that the settings name; None where it is to be made. Raises SettingsError."""
    own = store_in(settings)
    if "://" in own:
        Location.of(own)  # settings are written down: one with keys in it is refused, though another store is given
    if given is None and settings.data.kind == "store":
        if not settings.data.store:
            raise SettingsError(
                "no store is named: give --store STORE, which harvester prepare makes of your scans, or take --config "
                "quickstart, which makes phantoms"
            )
        given = own
    return store_folder(given)
