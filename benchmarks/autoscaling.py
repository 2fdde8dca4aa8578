"""A pool of actors on an autoscaling cluster whose nodes come and go: does it grow, does it survive, does it shrink?

    python benchmarks/autoscaling.py --work DIR --json FILE [--volumes 1500]

Ray's autoscaler with its provider for one machine: a head with one CPU for the driver's tasks, and up to two nodes of
one CPU that the autoscaler starts when actors wait for room and takes away when they are idle. Volumes are proposed by
run_over_volumes with `min_replicas = 1, replicas = 3`; when a third of them is done one node's raylet is killed, as a
cloud does that takes a machine back. Prints how many nodes there were and when, how many volumes each worker did,
and whether the table is the one that a single actor makes. Exit code 1 where it is not, where the pool never grew, or
where the idle nodes stay. Everything runs on this machine: it is no benchmark of speed.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil
import ray
import yaml
from overhead import job_in, make_models, settings_of  # beside this file
from scale import made  # beside this file

from harvester.distributed.cluster import living_nodes, start_ray
from harvester.distributed.inference import Proposer
from harvester.distributed.volume_pool import InferenceJob, run_over_volumes
from harvester.records import TubeletTable
from harvester.run.parted_table import PartedTable
from harvester.run.partials import Partials
from harvester.storage.location import Location
from harvester.store.store import Store

IDLE_MINUTES: Final = 0.2
NO_COMMANDS: Final = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
)  # fmt: skip
"""What the autoscaler wants to be told, though there is nothing to do."""
SECONDS_TO_SHRINK: Final = 90.0


def main() -> int:
    """A table by one actor without a cluster, the same by a pool whose nodes come and go."""
    options = parse()
    settings = settings_of()
    make_models(options.work, settings)
    store = made(options.work / f"store-{options.volumes}", options.volumes)
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--alone"], check=True)
    with autoscaling(options.work) as own:
        start_ray()
        watch = Nodes(own)
        job = job_of(options.work, store, "pool", replicas=3)
        killer = threading.Thread(target=watch.kill_one, args=(job.partials, options.volumes // 3), daemon=True)
        killer.start()
        began = time.monotonic()
        run_over_volumes(Proposer, job, store.manifest)
        seconds = time.monotonic() - began
        left = watch.wait_for(1)
        watch.over.set()
        ray.shutdown()
    same = PartedTable(Partials(Location.of(options.work / "alone")), TubeletTable).whole()
    figures = {
        "volumes": options.volumes,
        "equal": PartedTable(job.partials, TubeletTable).whole().equals(same),
        "seconds": round(seconds, 1),
        "most_nodes": max(count for _, count in watch.seen),
        "killed_after_seconds": watch.killed_after,
        "nodes_when_idle": left,
        "nodes": watch.seen,
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    good = figures["equal"] and figures["most_nodes"] > 2 and watch.killed_after and left == 1
    return 0 if good else 1


def job_of(work: Path, store: Store, name: str, replicas: int) -> InferenceJob:
    """A sweep whose parts lie in work/name, empty."""
    settings = settings_of()
    compute = settings.compute.model_copy(
        update={"replicas": replicas, "min_replicas": 1, "cpus_per_replica": 1.0, "wait_for_nodes_minutes": 2.0}
    )
    out = Location.of(work / name)
    out.delete_folder()
    job = job_in(settings.model_copy(update={"compute": compute}), store, work, "generator")
    return replace(job, partials=Partials(out))


class Nodes:
    """How many nodes live, second by second; and the end of one."""

    def __init__(self, own: str) -> None:
        self.own, self.began, self.seen = own, time.monotonic(), list[tuple[float, int]]()
        self.killed_after: float | None = None
        self.over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self.over.wait(1.0):
            count = len(living_nodes())
            if not self.seen or self.seen[-1][1] != count:
                self.seen.append((self.now(), count))

    def now(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self.began, 1)

    def kill_one(self, partials: Partials, after: int) -> None:
        """End the raylet of the youngest node once there are three and so many volumes are done."""
        while sum(len(each["volumes"]) for each in partials.published().values()) < after or len(living_nodes()) < 3:
            time.sleep(0.5)
        raylets = [each for each in processes(self.own) if each.name() == "raylet"]
        max(raylets, key=lambda each: each.create_time()).send_signal(signal.SIGKILL)
        self.killed_after = self.now()

    def wait_for(self, count: int) -> int:
        """How many nodes there are when there are so few, or after SECONDS_TO_SHRINK."""
        until = time.monotonic() + SECONDS_TO_SHRINK
        while len(living_nodes()) > count and time.monotonic() < until:
            time.sleep(1.0)
        return len(living_nodes())


@contextmanager
def autoscaling(work: Path) -> Iterator[str]:
    """A cluster of its own with an autoscaler; gives the folder by which its processes are known. RAY_ADDRESS is it."""
    here = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((here, 0))
        address = f"{here}:{probe.getsockname()[1]}"
    own = f"/tmp/h{os.getpid()}"  # noqa: S108  a socket's name has no room for a longer one
    worker = {"resources": {"CPU": 1, "object_store_memory": 2**29}, "node_config": {}, "min_workers": 0}
    config = {
        "cluster_name": "come-and-go",
        "max_workers": 2,
        "idle_timeout_minutes": IDLE_MINUTES,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "worker": worker | {"max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        **{name: [] for name in NO_COMMANDS},
        "file_mounts_sync_continuously": False,
    }
    file = work / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [
        "ray", "start", "--head", f"--port={address.rpartition(':')[2]}", f"--node-ip-address={here}", "--num-cpus=1",
        f"--temp-dir={own}", f"--autoscaling-config={file}", "--include-dashboard=false", "--disable-usage-stats",
    ]  # fmt: skip
    os.environ["RAY_AUTH_MODE"] = "disabled"  # a cluster of an hour on one machine
    subprocess.run(command, check=True, env=os.environ | {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"})
    os.environ["RAY_ADDRESS"] = address
    try:
        yield own
    finally:
        for each in processes(own):
            each.kill()


def processes(own: str) -> list[psutil.Process]:
    """Those that name a folder in their command."""
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if any(own in word for word in each.info["cmdline"] or ())]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for volumes and models, kept")
    parser.add_argument("--volumes", type=int, default=1500)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work = options.work.absolute()
    if options.alone:
        start_ray()
        store = made(options.work / f"store-{options.volumes}", options.volumes)
        run_over_volumes(Proposer, job_of(options.work, store, "alone", replicas=1), store.manifest)
        sys.exit(0)
    return options


if __name__ == "__main__":
    sys.exit(main())
