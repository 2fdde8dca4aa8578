"""What compute.precision `auto` means: every node computes in the same precision, which steps are named by."""

import logging
from typing import Any, Final

import ray

from harvester.config.settings import ComputeSettings
from harvester.distributed.cluster import living_nodes, on_each
from harvester.models.device import fast_precision

logger = logging.getLogger(__name__)

SECONDS_TO_ANSWER: Final = 120.0


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
