"""Whether a cluster has the capacity for what the settings ask, said before any work begins."""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import ray
from ray.autoscaler.sdk import request_resources

from harvester.config.settings import ComputeSettings
from harvester.distributed.cluster import living_nodes
from harvester.errors import SettingsError

logger = logging.getLogger(__name__)

Resources = Mapping[str, float]

NAMES: Final = {"CPU": "CPUs", "GPU": "GPUs", "memory": "GiB of memory"}
GIB: Final = 2**30
SECONDS_BETWEEN_LOOKS: Final = 10.0
SLACK: Final = 1e-6
"""Ray counts in ten thousandths; sums of fractions do not."""


@dataclass(frozen=True)
class ResourceRequest:
    """So many processes at the same time, each of which lives on one node.

    setting     the setting that asks for `count` of them
    each        what one takes: CPU, GPU, memory in bytes
    """

    setting: str
    count: int
    each: Resources

    def text(self) -> str:
        """For people."""
        return f"{self.setting} = {self.count} (each {_words(self.each)})"


def pool_request(compute: ComputeSettings) -> ResourceRequest:
    """The smallest pool of actors that work can go on with."""
    each = {"CPU": compute.cpus_per_replica, "GPU": compute.gpus_per_replica}
    if compute.memory_gib_per_replica:
        each["memory"] = compute.memory_gib_per_replica * GIB
    name = "compute.replicas" if compute.min_replicas is None else "compute.min_replicas"
    return ResourceRequest(name, compute.least_replicas, each)


def training_request(compute: ComputeSettings) -> ResourceRequest:
    """The workers of a fit."""
    each = {"CPU": compute.cpus_per_train_worker, "GPU": float(compute.train_gpu)}
    return ResourceRequest("compute.train_workers", compute.train_workers, each)


def requests_of(compute: ComputeSettings) -> list[ResourceRequest]:
    """What must have room at the same time, step by step: the smallest pool, then the training workers."""
    return [pool_request(compute), training_request(compute)]


def shortfall(requests: Sequence[ResourceRequest], nodes: Sequence[Resources]) -> list[str]:
    """A line for each request that the nodes together have no room for, were they empty."""
    return [
        f"{request.text()}: room for {fitting}"
        for request in requests
        if (fitting := sum(_fit(request.each, node) for node in nodes)) < request.count
    ]


def require_capacity(compute: ComputeSettings) -> None:
    """Wait compute.wait_for_nodes_minutes for nodes to come, then raise a SettingsError that says what is missing.

    An autoscaler is asked meanwhile for what is wanted.
    """
    requests = requests_of(compute)
    deadline = time.monotonic() + 60 * compute.wait_for_nodes_minutes
    missing = shortfall(requests, _nodes())
    if missing and compute.wait_for_nodes_minutes:
        logger.info("waiting for nodes: %s", "; ".join(missing))
        most = max(requests, key=lambda one: (one.count * one.each["GPU"], one.count * one.each["CPU"]))
        request_resources(bundles=[{name: value for name, value in most.each.items() if value}] * most.count)
    while missing and time.monotonic() < deadline:
        time.sleep(min(SECONDS_BETWEEN_LOOKS, max(0.1, deadline - time.monotonic())))
        missing = shortfall(requests, _nodes())
    if missing:
        raise SettingsError(
            f"{'; '.join(missing)}. The cluster has {_said(_nodes())}; ask for less (--set), add nodes, or let it wait "
            "for nodes that come (compute.wait_for_nodes_minutes)"
        )


def without_room(request: ResourceRequest) -> str:
    """What a cluster that others work on too has no room for now, in words; "" where it has room."""
    if not ray.is_initialized():
        return ""
    free: Resources = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray gives no types for it
    if all(free.get(name, 0.0) + SLACK >= request.count * value for name, value in request.each.items()):
        return ""
    return f"{request.text()}; free in the cluster: {_words(free) or 'nothing'}, of {_said(_nodes())}"


def _nodes() -> list[Resources]:
    return [node["Resources"] for node in living_nodes()]


def _fit(each: Resources, node: Resources) -> int:
    return int(min(node.get(name, 0.0) / value + SLACK for name, value in each.items() if value))


def _said(nodes: Sequence[Resources]) -> str:
    if not nodes:
        return "no node"
    kinds = sorted(Counter(map(_words, nodes)).items())
    return ", ".join(f"{count} node{'s' * (count > 1)} with {kind or 'nothing'}" for kind, count in kinds)


def _words(each: Resources) -> str:
    amounts = {
        name: f"{value / GIB:.1f}" if name == "memory" else f"{value:g}" for name, value in each.items() if value
    }
    return " and ".join(f"{amounts[name]} {text}" for name, text in NAMES.items() if name in amounts)
