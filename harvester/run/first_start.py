"""What settings leave open and a run's first start decides: a later start, wherever it is, keeps it."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import yaml

from harvester.config.settings import ComputeSettings, Settings
from harvester.config.strict_yaml import parse
from harvester.storage.location import Location
from harvester.weights.starting import named_by_digest

AUTO: Final = "auto"


def decided(settings: Settings, folder: Location, choose: Callable[[ComputeSettings], str]) -> Settings:
    """The settings with what they leave open as the run in this folder began with it, or else as it is chosen now.

    That is: compute.precision auto, by `choose`; starting_weights shipped, which another release ships others of.
    """
    before, compute = _begun_with(folder), settings.compute
    if compute.precision == AUTO:
        own = before.get("compute")
        kept = own.get("precision") if isinstance(own, Mapping) else None
        precision = kept if kept in ("float32", "bfloat16") else choose(compute)
        settings = settings.model_copy(update={"compute": compute.model_copy(update={"precision": precision})})
    return named_by_digest(settings, str(before.get("starting_weights", "")))


def _begun_with(folder: Location) -> Mapping[str, Any]:
    """The settings as the run's folder has them; empty where there are none that can be read."""
    file = folder / "settings.yaml"
    try:
        tree = parse(file.read_text()) if file.is_file() else {}
    except yaml.YAMLError:
        return {}
    return tree if isinstance(tree, Mapping) else {}
