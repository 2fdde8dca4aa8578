"""One pretraining, from settings to a folder of weights with its card."""

import logging
import os
import time

from harvester.cli.console import data_root
from harvester.cli.run_harvest import require_weights
from harvester.config.settings import Settings
from harvester.distributed.capacity import require_capacity
from harvester.distributed.cluster import start_ray
from harvester.distributed.precision import fastest_everywhere, with_precision
from harvester.distributed.preparation import prepare
from harvester.distributed.shared_folders import require_shared
from harvester.pretrain import pretrain
from harvester.run.folder import Run
from harvester.run.log import logged_to, read_log, seconds_of_starts
from harvester.run.tracking import Tracker, require_plain
from harvester.storage.location import Location
from harvester.storage.owner import owned
from harvester.text import duration
from harvester.weights.starting import StartingWeights

logger = logging.getLogger(__name__)


def run_pretrain(settings: Settings, folder: Location) -> StartingWeights:
    """The weights in `folder`/weights. One that was stopped goes on. Raises HarvesterError."""
    began, tracked_at = time.monotonic(), os.environ.get("MLFLOW_TRACKING_URI")
    require_plain(tracked_at)
    settings = settings.model_copy(update={"whole_model": True})
    with owned(folder), logged_to(folder):
        began -= seconds_of_starts(read_log(folder))
        require_weights(settings)
        start_ray()
        require_capacity(settings.compute)
        settings = with_precision(settings, folder, fastest_everywhere)
        require_shared([folder], [])
        store = prepare(settings, data_root(), folder / "store")
        opened = Run.open(folder, settings, store, began)
        with Tracker.open(opened, tracked_at) as tracker:
            made = pretrain(opened, tracker)
        logger.info("done in %s", duration(made.card.seconds))
        print("\n".join(f"{name:26}{value:g}" for name, value in made.card.figures.items()))
        print(f"weights: {made.folder}")
    return made
