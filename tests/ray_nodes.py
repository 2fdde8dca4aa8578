"""A Ray cluster of several nodes on this machine, of which some die. Used by the chaos tests."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil
from ray.cluster_utils import Cluster

TITLES: Final = {"actor": "ray::MapWorker", "trainer": "ray::RayTrainWorker", "trial": "ray::ImplicitFunc"}
"""How Ray names the processes of Data's actors, Train's workers and Tune's trials."""


class Nodes:
    """A head without work, on which drivers live, and worker nodes of `cpus` each, some of them away for a while."""

    def __init__(self, count: int, cpus: int) -> None:
        self.each = {"num_cpus": cpus, "object_store_memory": 100 << 20}
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                **self.each, "num_cpus": 0, "include_dashboard": False, "dashboard_port": None,
            },
        )  # fmt: skip
        self.back: list[float] = []
        for _ in range(count):
            self.cluster.add_node(**self.each)

    def workers(self, kind: str) -> list[tuple[Any, psutil.Process]]:
        """The processes of a kind (TITLES) on worker nodes, each with its node."""
        found = [(node, process) for node in self.cluster.worker_nodes for process in _below(node)]
        return [(node, process) for node, process in found if title(process).startswith(TITLES[kind])]

    def lose(self, node: Any, away_s: float | None = None) -> None:
        """Everything on a node dies at once; `away_s` later another one joins, or never."""
        for process in [psutil.Process(_raylet(node)), *_below(node)]:
            kill(process)
        self.cluster.remove_node(node, allow_graceful=False)
        if away_s is not None:
            self.back.append(time.monotonic() + away_s)

    def mend(self) -> None:
        """Start the nodes whose time has come."""
        for when in [when for when in self.back if when <= time.monotonic()]:
            self.back.remove(when)
            self.cluster.add_node(**self.each)


@contextmanager
def ray_nodes(count: int, cpus: int) -> Iterator[Nodes]:
    """A head and `count` worker nodes; they end with the block. Nobody else's ray.init() finds them."""
    with tempfile.TemporaryDirectory(prefix="nodes-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get("RAY_TMPDIR")
        os.environ["RAY_TMPDIR"] = folder
        (Path(folder) / "ray").mkdir()
        nodes = Nodes(count, cpus)
        try:
            yield nodes
        finally:
            nodes.cluster.shutdown()
            del os.environ["RAY_TMPDIR"]
            os.environ |= {"RAY_TMPDIR": before} if before else {}


def title(process: psutil.Process) -> str:
    """What Ray calls the process and what it does, "" for one that is gone."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def kill(process: psutil.Process) -> None:
    """SIGKILL; nothing happens where it is gone."""
    with suppress(psutil.NoSuchProcess):
        process.kill()


def _raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def _below(node: Any) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(_raylet(node)).children(recursive=True)
    return []
