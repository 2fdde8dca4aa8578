"""compute.precision "auto" becomes one precision for the whole run: every node computes in the same one.

It is what a step is named by: a restart elsewhere keeps what the run began with.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

import ray
import yaml

from harvester.config.settings import ComputeSettings, Settings
from harvester.config.strict_yaml import parse
from harvester.distributed.cluster import living_nodes, on_each
from harvester.models.device import fast_precision
from harvester.storage.location import Location

logger = logging.getLogger(__name__)

SECONDS_TO_ANSWER: Final = 120.0
AUTO: Final = "auto"


def with_precision(settings: Settings, folder: Location, choose: Callable[[ComputeSettings], str]) -> Settings:
    """The settings with `auto` replaced by what the run in this folder began with, or else by what is chosen."""
    compute = settings.compute
    if compute.precision != AUTO:
        return settings
    precision = _begun_with(folder) or choose(compute)
    return settings.model_copy(update={"compute": compute.model_copy(update={"precision": precision})})


def _begun_with(folder: Location) -> str:
    """The precision in the run's settings; "" where there are none, or none that names one."""
    file = folder / "settings.yaml"
    try:
        precision = parse(file.read_text())["compute"]["precision"] if file.is_file() else ""
    except (yaml.YAMLError, LookupError, TypeError):
        return ""
    return precision if precision in ("float32", "bfloat16") else ""


def fastest_here(compute: ComputeSettings) -> str:
    """As fastest_everywhere, where no cluster is asked."""
    return fast_precision(all(_on_gpus(compute)))


def fastest_everywhere(compute: ComputeSettings) -> str:
    """bfloat16 where every device that gets work is fast in it, each node's processor where some works on it."""
    if all(_on_gpus(compute)):
        return fast_precision(gpu=True)
    least = min(compute.cpus_per_replica, compute.cpus_per_train_worker)
    nodes = [node for node in living_nodes() if node["Resources"].get("CPU", 0.0) >= least]
    return "bfloat16" if all(precision == "bfloat16" for precision in _answers(nodes)) else "float32"


def _on_gpus(compute: ComputeSettings) -> tuple[bool, bool]:
    return compute.train_gpu, compute.gpus_per_replica > 0


def _answers(nodes: list[dict[str, Any]]) -> list[str]:
    """What each node's processor is fastest in; float32 of all where one does not answer."""
    own = ray.get_runtime_context().get_node_id()
    others = {node["NodeID"]: (False,) for node in nodes if node["NodeID"] != own}
    here = [fast_precision(gpu=False)] if len(others) < len(nodes) else []
    there = on_each(others, fast_precision, SECONDS_TO_ANSWER)
    if len(there) < len(others):
        logger.warning("%d nodes do not say what they are fast in: float32", len(others) - len(there))
        return ["float32"]
    return [*here, *there.values()]
