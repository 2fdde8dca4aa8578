"""One harvest, from settings and a store to a run folder with its report; or what it would do."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from harvester.certificate.preconditions import require_harvestable
from harvester.classifier.network import Classifier
from harvester.cli.console import data_root
from harvester.cli.places import in_ray_job, lasting, store_folder
from harvester.cli.plan import format_plan, plan
from harvester.config.settings import Settings
from harvester.datasets.discovery import LoadedVolume
from harvester.datasets.registry import WITHOUT_FILES, open_dataset
from harvester.distributed.address import require_answer
from harvester.distributed.capacity import require_capacity
from harvester.distributed.cluster import start_ray
from harvester.distributed.precision import fastest_everywhere, fastest_here
from harvester.distributed.preparation import prepare, prepared
from harvester.distributed.shared_folders import require_shared
from harvester.errors import SettingsError
from harvester.harvest import harvest
from harvester.proposals.network import Generator
from harvester.report.build import REPORT, write_report
from harvester.report.live import LiveReport
from harvester.report.words import closing_table, next_steps
from harvester.run.first_start import decided
from harvester.run.folder import Run, store_in
from harvester.run.log import logged_to, read_log, seconds_of_starts
from harvester.run.summary import Summary
from harvester.run.tracking import Tracker, require_plain
from harvester.storage.location import Location
from harvester.storage.owner import owned
from harvester.store.store import Store
from harvester.text import duration, table
from harvester.weights.starting import starting_weights

logger = logging.getLogger(__name__)

FIRST_VOLUMES: Final = 6
"""Of volumes that take no time, that are shown before anything else."""


def run_harvest(
    settings: Settings, store: str | None, run: Location | Path | str, say: Callable[[str], None] = print
) -> Location:
    """The whole loop, in `run`: a folder or its URI, which is given back. A run that was stopped goes on.

    `store` is a store's folder or URI; None takes what `settings.data` names, or makes it in the run's folder. Joins
    the Ray of RAY_ADDRESS or starts one. `say` is given the closing table. Raises HarvesterError; StoreError at once
    where another driver works in the folder.
    """
    folder, started = run if isinstance(run, Location) else lasting(run), time.monotonic()
    with driving(folder) as (began, tracked_at), LiveReport(folder, settings) as page:
        settings, volumes = ready(settings, store, folder, page)
        opened = Run.open(folder, settings, volumes, began)
        page.archive(volumes)
        opened.watch = page.step
        with Tracker.open(opened, tracked_at) as tracker:
            inputs = harvest(opened, tracker, page.rounds).report_inputs()
            report = write_report(inputs)
        earlier = "; earlier starts are counted" if began < started else ""
        logger.info("done in %s%s", duration(inputs.summary.seconds), earlier)
        say(
            "\n".join([closing_table(inputs.summary), f"report: {report}", *what_next(folder, inputs.summary, volumes)])
        )
    return folder


def what_next(folder: Location, summary: Summary, store: Store) -> list[str]:
    """The commands that people give after a harvest, and what for."""
    rows = [(command, words) for words, command in next_steps(str(folder), summary, store)]
    return ["next:", *(f"  {line}" for line in table(rows, "l"))]


@contextmanager
def driving(folder: Location) -> Iterator[tuple[float, str | None]]:
    """The one driver of a run's folder, logged there: when its work began, earlier starts counted, on the clock of
    time.monotonic, and where MLflow is. Raises StoreError where another works there."""
    began, tracked_at = time.monotonic(), os.environ.get("MLFLOW_TRACKING_URI")
    require_plain(tracked_at)
    require_answer()
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


def ready(settings: Settings, store: str | None, folder: Location, page: LiveReport) -> tuple[Settings, Store]:
    """Ray, the store, and the settings, decided. What cannot end well is said as early as can be."""
    require_weights(decided(settings, folder, fastest_here))
    named = named_store(settings, store)
    volumes = Store.open(named) if named else None
    if volumes:  # Ray takes seconds: what its tables show is said before
        require_harvestable(volumes, settings)
    elif settings.data.kind in WITHOUT_FILES:
        page.first_volumes(first_volumes(settings))
    logger.info("report: %s (from now on; it follows the run)", folder / REPORT)
    settings = on_ray(settings, folder, [named] if named else [])
    if volumes is None:
        volumes = prepare(settings, data_root(), folder / "store")
        require_harvestable(volumes, settings)
    return settings, volumes


def first_volumes(settings: Settings) -> list[LoadedVolume]:
    """A few volumes of a made archive, so that there is something to look at before they are all made."""
    dataset = open_dataset(settings, None)
    cases = dataset.discover("").cases
    return [dataset.load(asdict(case)) for case in cases[:: max(1, len(cases) // FIRST_VOLUMES)][:FIRST_VOLUMES]]


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
