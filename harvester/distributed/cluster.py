"""Joining or starting Ray, the same for every job."""

import logging
import os
from typing import Any, Final

import ray
import ray.data
from ray._private import ray_constants, services

from harvester.run.quarantine import Quarantine, Worker
from harvester.storage.location import Location

logger = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"


def start_ray() -> None:
    """Join the cluster that the job was submitted to (RAY_ADDRESS), or start one on this machine; quietly.

    One that is started here listens on loopback alone: nobody else on the network can reach it.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    if services.canonicalize_bootstrap_address(None) is None:  # type: ignore[arg-type] # as ray.init asks
        _start_on_loopback()
    else:
        ray.init(logging_level=logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # What our own log lines say already, said again by Ray at length.
    for name in ("ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _start_on_loopback() -> None:
    # By itself Ray listens on all interfaces of a Linux machine, and turns a node's address of 127.0.0.1 into one that
    # others reach. It has a switch, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, that it reads before we are asked.
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # its processes, and their children
    ray.init(address="local", logging_level=logging.WARNING)
    if ray.util.get_node_ip_address() != LOOPBACK:
        logger.warning("this Ray listens beyond loopback (%s)", ray.util.get_node_ip_address())


def quarantine_in(folder: Location) -> Quarantine:
    """A worker's quarantine, in its name."""
    return Quarantine(folder, this_worker(), alive_nodes)


def this_worker() -> Worker:
    """Whose process this is; nobody's where no Ray runs."""
    if not ray.is_initialized():
        return Worker("", "")
    context = ray.get_runtime_context()
    return Worker(context.get_job_id(), context.get_node_id())


def alive_nodes() -> set[str]:
    """The nodes of the cluster that live now."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def for_ray(folder: Location) -> dict[str, Any]:
    """Where Ray Train and Ray Tune keep what is theirs, as their RunConfigs want it."""
    return {"storage_path": folder.key, "storage_filesystem": None if folder.on_disk else folder.filesystem}
