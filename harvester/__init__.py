"""harvester mines unmarked lesions from partly marked CT archives at a precision it can prove.

What a program needs, by name (__all__), each imported when it is first used; all else may change with any version:

    settings = harvester.resolve("quickstart", ["rounds=1"])
    run = harvester.run_harvest(settings, None, "runs/mine")
    store = harvester.Store.open(run / "store")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from harvester.cli.run_harvest import run_harvest as run_harvest
    from harvester.config.loading import resolve as resolve
    from harvester.config.settings import Settings as Settings
    from harvester.distributed.preparation import prepare as prepare
    from harvester.errors import HarvesterError as HarvesterError
    from harvester.evaluation.evaluate import evaluate as evaluate
    from harvester.evaluation.evaluate import protocol as protocol
    from harvester.evaluation.inputs.annotations import read_annotations as read_annotations
    from harvester.evaluation.inputs.detections import read_detections as read_detections
    from harvester.storage.location import Location as Location
    from harvester.store.store import Store as Store

__version__ = "0.2.0"

_WHERE: Final = {
    "HarvesterError": "errors",
    "Location": "storage.location",
    "Settings": "config.settings",
    "Store": "store.store",
    "evaluate": "evaluation.evaluate",
    "prepare": "distributed.preparation",
    "protocol": "evaluation.evaluate",
    "read_annotations": "evaluation.inputs.annotations",
    "read_detections": "evaluation.inputs.detections",
    "resolve": "config.loading",
    "run_harvest": "cli.run_harvest",
}
__all__ = [*_WHERE, "__version__"]  # noqa: PLE0604 # they are strings


def __getattr__(name: str) -> Any:
    """A public name's module, imported when the name is first used (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module 'harvester' has no attribute {name!r}")
    return getattr(import_module(f"harvester.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
