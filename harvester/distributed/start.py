"""Joining or starting Ray, the same for every job."""

import logging
import os
from typing import Any

import ray
import ray.data

from harvester.volumes.locations import Location


def start_ray() -> None:
    """Join the cluster that the job was submitted to (RAY_ADDRESS), or start one on this machine; quietly."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    ray.init(logging_level=logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # What our own log lines say already, said again by Ray at length.
    for name in ("ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)


def for_ray(folder: Location) -> dict[str, Any]:
    """Where Ray Train and Ray Tune keep what is theirs, as their RunConfigs want it."""
    return {"storage_path": folder.key, "storage_filesystem": None if folder.on_disk else folder.filesystem}
