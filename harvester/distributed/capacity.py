"""Whether a cluster has room for what the settings ask, told before any work begins."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import ray
from ray.autoscaler.sdk import request_resources

from harvester.config.settings import ComputeSettings
from harvester.errors import SettingsError

logger = logging.getLogger(__name__)

Resources = Mapping[str, float]

TOLD: Final = {"CPU": "CPUs", "GPU": "GPUs", "memory": "GiB of memory"}
GIB: Final = 2**30
SECONDS_BETWEEN_LOOKS: Final = 10.0
SLACK: Final = 1e-6
"""Ray counts in ten thousandths; sums of fractions do not."""


@dataclass(frozen=True)
class Need:
    """So many processes at the same time, each of which lives on one node.

    setting     the setting that asks for `count` of them
    each        what one takes: CPU, GPU, memory in bytes
    """

    setting: str
    count: int
    each: Resources

    def text(self) -> str:
        """For people."""
        parts = [f"{_amount(name, value)} {TOLD[name]}" for name, value in self.each.items() if value]
        return f"{self.setting} = {self.count} (each {' and '.join(parts)})"


def needs_of(compute: ComputeSettings) -> list[Need]:
    """What must have room at the same time, step by step: the smallest pool, then the training workers."""
    pool = {"CPU": compute.cpus_per_replica, "GPU": compute.gpus_per_replica}
    if compute.memory_gib_per_replica:
        pool["memory"] = compute.memory_gib_per_replica * GIB
    name = "compute.replicas" if compute.min_replicas is None else "compute.min_replicas"
    train = {"CPU": compute.cpus_per_train_worker, "GPU": float(compute.train_gpu)}
    return [
        Need(name, compute.least_replicas, pool),
        Need("compute.train_workers", compute.train_workers, train),
    ]


def unmet(needs: Sequence[Need], nodes: Sequence[Resources]) -> list[str]:
    """A line for each need that the nodes together have no room for, were they empty."""
    return [
        f"{need.text()}: room for {fitting}"
        for need in needs
        if (fitting := sum(_fit(need.each, node) for node in nodes)) < need.count
    ]


def require_room(compute: ComputeSettings) -> None:
    """Wait compute.wait_for_nodes_minutes for nodes to come, then raise a SettingsError that says what is missing.

    An autoscaler is told meanwhile what is wanted.
    """
    needs = needs_of(compute)
    deadline = time.monotonic() + 60 * compute.wait_for_nodes_minutes
    missing = unmet(needs, _nodes())
    if missing and compute.wait_for_nodes_minutes:
        logger.info("waiting for nodes: %s", "; ".join(missing))
        request_resources(bundles=_most_demanding(needs))
    while missing and time.monotonic() < deadline:
        time.sleep(min(SECONDS_BETWEEN_LOOKS, max(0.1, deadline - time.monotonic())))
        missing = unmet(needs, _nodes())
    if missing:
        raise SettingsError(
            f"{'; '.join(missing)}. The cluster has {_told(_nodes())}; ask for less (--set), add nodes, or let it wait "
            "for nodes that come (compute.wait_for_nodes_minutes)"
        )


def _nodes() -> list[Resources]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fit(each: Resources, node: Resources) -> int:
    return int(min(node.get(name, 0.0) / value + SLACK for name, value in each.items() if value))


def _most_demanding(needs: Sequence[Need]) -> list[dict[str, float]]:
    most = max(needs, key=lambda need: (need.count * need.each["GPU"], need.count * need.each["CPU"]))
    return [{name: value for name, value in most.each.items() if value}] * most.count


def _told(nodes: Sequence[Resources]) -> str:
    if not nodes:
        return "no node"
    each = [
        " and ".join(f"{_amount(name, node[name])} {text}" for name, text in TOLD.items() if node.get(name))
        for node in nodes
    ]
    kinds = sorted({kind: each.count(kind) for kind in each}.items())
    return ", ".join(f"{count} node{'s' * (count > 1)} with {kind or 'nothing'}" for kind, count in kinds)


def _amount(name: str, value: float) -> str:
    return f"{value / GIB:.1f}" if name == "memory" else f"{value:g}"
