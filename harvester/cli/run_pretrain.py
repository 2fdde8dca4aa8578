"""One pretraining, from settings to a folder of weights with its card."""

import logging
from collections.abc import Callable

from harvester.cli.console import data_root
from harvester.cli.run_harvest import driving, on_ray, require_weights
from harvester.config.settings import Settings
from harvester.datasets.insertion.insertion import scans_of_vm
from harvester.distributed.preparation import prepare
from harvester.pretrain import pretrain
from harvester.run.folder import Run
from harvester.run.tracking import Tracker
from harvester.storage.location import Location
from harvester.text import duration
from harvester.weights.starting import StartingWeights, require_in_folds

logger = logging.getLogger(__name__)


def run_pretrain(settings: Settings, folder: Location, say: Callable[[str], None] = print) -> StartingWeights:
    """The weights in `folder`/weights; `say` gets their figures. What was stopped goes on. Raises HarvesterError."""
    settings = settings.model_copy(update={"whole_model": True})
    with driving(folder) as (began, tracked_at):
        require_weights(settings)
        require_in_folds(settings)
        settings = on_ray(settings, folder, [])
        store = prepare(settings, data_root(), folder / "store")
        opened = Run.open(folder, settings, store, began)
        inserted = settings.data.kind in ("insertion", "made")
        scans = scans_of_vm(settings.data.insertion, data_root()) if inserted else {}
        with Tracker.open(opened, tracked_at) as tracker:
            made = pretrain(opened, tracker, scans)
        logger.info("done in %s", duration(made.card.seconds))
        figures = [f"{name:26}{value:g}" for name, value in made.card.figures.items()]
        say("\n".join([*figures, f"weights: {made.folder}"]))
    return made
