"""The datasets by data.kind. Each is a package of its own that knows nothing of the others."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from harvester.config.settings import Settings
from harvester.datasets.archive import archive
from harvester.datasets.deeplesion import deeplesion
from harvester.datasets.discovery import Dataset
from harvester.datasets.insertion import insertion
from harvester.datasets.phantom import phantom
from harvester.errors import SettingsError

DATASETS: Final[dict[str, Callable[[Settings, Path | None], Dataset]]] = {
    "phantom": phantom.dataset,
    "insertion": insertion.dataset,
    "archive": archive.dataset,
    "deeplesion": deeplesion.dataset,
}
FROM_SETTINGS: Final = ("phantom", "insertion")
"""Those whose cases follow from the settings; what an archive holds is to be looked up."""
WITHOUT_FILES: Final = ("phantom",)
"""Those of which the settings say everything: what was made before cannot be stale."""


def open_dataset(settings: Settings, source: Path | None) -> Dataset:
    """The dataset that the settings name. Raises SettingsError: nothing to prepare, or a folder of data is missing."""
    kind = settings.data.kind
    if kind not in DATASETS:
        raise SettingsError(
            "nothing says what to prepare: give --source SCANS, or --config quickstart for made phantoms; as data.kind "
            f"there are {', '.join([*DATASETS][:-1])} and {[*DATASETS][-1]}"
        )
    return DATASETS[kind](settings, source)
