"""The datasets by data.kind. Each is a package of its own that knows nothing of the others."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from harvester.config.settings import Settings
from harvester.datasets.archive import archive
from harvester.datasets.deeplesion import deeplesion
from harvester.datasets.discovery import Dataset, Discovery, LoadedVolume
from harvester.datasets.insertion import insertion
from harvester.datasets.phantom import phantom
from harvester.errors import SettingsError


def made(settings: Settings, source: Path | None) -> Dataset:
    """Lesions inserted into scans, and phantoms beside them, in one store: what weights are made from."""
    parts = [insertion.dataset(settings, source), phantom.dataset(settings, source)]

    def discover(salt: str) -> Discovery:
        return Discovery([case for part in parts for case in part.discover(salt).cases])

    def load(case: Mapping[str, Any]) -> LoadedVolume:
        return parts["background_id" not in case].load(case)

    return Dataset(discover, load)


DATASETS: Final[dict[str, Callable[[Settings, Path | None], Dataset]]] = {
    "phantom": phantom.dataset,
    "insertion": insertion.dataset,
    "made": made,
    "archive": archive.dataset,
    "deeplesion": deeplesion.dataset,
}
FROM_SETTINGS: Final = ("phantom", "insertion", "made")
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
