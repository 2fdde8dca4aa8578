"""Joining or starting Ray, the same for every job, and who is who on it."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import ray
import ray.data
from ray.exceptions import AuthenticationError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harvester.distributed.address import answers, require_answer, short_folder
from harvester.errors import SettingsError, StepError, one_line
from harvester.run.quarantine import Quarantine, Worker
from harvester.storage.location import Location

logger = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
ONE_MACHINE: Final = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
"""Seconds less per fit, unless the user has set them: this machine gives no notice, and to look often costs little."""
WORKERS_MEMORY: Final = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(128 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
"""What glibc makes of a worker's memory, unless the user has set it. A network's layers take and free megabytes from
slice to slice; by itself glibc hands them back to the system each time, and a tenth of an actor's time goes into taking
them anew."""
SECONDS_BETWEEN_TRIES: Final = 5.0
SECONDS_WITHOUT_HEAD: Final = 30.0
"""A head may be away so long: one that restarts is back by then, and Ray itself ends this process after 60."""


def start_ray() -> None:
    """Join the cluster that the job was submitted to (RAY_ADDRESS), or start a Ray on this machine; quietly.

    One that is started here listens on loopback alone: nobody else on the network can reach it. Workers know by their
    own RAY_ADDRESS which cluster is theirs: parts of Ray ask for that, and would take another one on this machine.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the command, not a step of it
    address = os.environ.get("RAY_ADDRESS", "")
    with _own_sigterm():
        if address in ("", "local"):
            _start_here()
        else:
            _join(address)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # What our own log lines say already, said again by Ray at length.
    for name in ("ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """SIGTERM stays ours: Ray's answers print a C++ stack and end the process before it can say how it ended."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _join(address: str) -> None:
    require_answer()
    named = ":" in address and "://" not in address  # "auto" and clients' addresses are no use to a worker
    own = _workers_memory() | ({"RAY_ADDRESS": address} if named else {})
    try:
        ray.init(runtime_env={"env_vars": own}, **_words())
    except (ConnectionError, AuthenticationError) as error:
        raise SettingsError(
            f"RAY_ADDRESS = {address}: the Ray there lets nobody in ({one_line(error)[:200]}). Does it want a token "
            "(export RAY_AUTH_MODE=token), and is it of this version?"
        ) from error


def _start_here() -> None:
    os.environ.update(ONE_MACHINE | os.environ)
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = int(probe.getsockname()[1])
    own = {"RAY_ADDRESS": f"{LOOPBACK}:{port}", "RAY_GCS_SERVER_PORT": str(port), "RAY_TMPDIR": short_folder()}
    own |= _workers_memory()
    with _environment(own):
        # With its dashboard: without one Ray Train's cleaner asks whatever answers at port 8265, another Ray's even.
        try:
            ray.init(address="local", **_words())
        except Exception as error:  # Ray raises nothing narrower for a node that is not up in time
            raise StepError(
                f"Ray did not start on this machine ({one_line(error)[:200]}). Is it busy with other work, or short of "
                "memory? Start the same command again: what is done is kept"
            ) from error
    (node,) = living_nodes()
    if node["NodeManagerAddress"] != LOOPBACK:
        logger.warning("this Ray listens beyond loopback (%s)", node["NodeManagerAddress"])


def _workers_memory() -> dict[str, str]:
    return {name: value for name, value in WORKERS_MEMORY.items() if name not in os.environ}


def _words() -> dict[str, Any]:
    """How much Ray says here. What its workers say is in its own logs, and here where somebody wants to know it all."""
    return {"logging_level": logging.WARNING, "log_to_driver": logger.isEnabledFor(logging.DEBUG)}


def require_head() -> None:
    """Wait for the head of the joined Ray where it is gone; a StepError after SECONDS_WITHOUT_HEAD."""
    if not ray.is_initialized():
        return
    joined, began = os.environ.get("RAY_ADDRESS", ""), time.monotonic()
    address = joined if "://" in joined else ray.get_runtime_context().gcs_address  # a client reaches its gate only
    if answers(address):
        return
    logger.warning("the head of the Ray cluster at %s does not answer; it is waited for", address)
    while not answers(address):
        if time.monotonic() - began > SECONDS_WITHOUT_HEAD:
            raise StepError(
                f"the head of the Ray cluster at {address} is gone; start it and the same command again: what is done "
                "is kept"
            )
        time.sleep(SECONDS_BETWEEN_TRIES)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """What processes inherit that are started in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({name: value} if value is not None else {})


def living_nodes() -> list[dict[str, Any]]:
    """What Ray says of the nodes that live now: NodeID, Resources, NodeManagerAddress."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray gives no types for it
    return [node for node in nodes if node["Alive"]]


def on_each(nodes: Mapping[str, Sequence[Any]], task: Callable[..., Any], seconds: float) -> dict[str, Any]:
    """What a task gives on each node, called with the node's arguments; by the node's id, as `nodes` are.

    A node that dies, or is too busy to answer in so many seconds, is left out.
    """
    remote = ray.remote(num_cpus=0, max_retries=0)(task)
    there = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes}
    asked = {remote.options(scheduling_strategy=there[node]).remote(*given): node for node, given in nodes.items()}
    answers: dict[str, Any] = {}
    for each in ray.wait(list(asked), num_returns=len(asked), timeout=seconds)[0] if asked else ():
        with suppress(RayError):
            answers[asked[each]] = ray.get(each)
    return answers


def quarantine_in(folder: Location) -> Quarantine:
    """A worker's quarantine, in its name."""
    return Quarantine(folder, this_worker(), lambda: [node["NodeID"] for node in living_nodes()])


def this_worker() -> Worker:
    """Whose process this is; nobody's where no Ray runs."""
    if not ray.is_initialized():
        return Worker("", "")
    context = ray.get_runtime_context()
    return Worker(context.get_job_id(), context.get_node_id())


def for_ray(folder: Location) -> dict[str, Any]:
    """Where Ray Train and Ray Tune keep what is theirs, as their RunConfigs want it."""
    return {"storage_path": folder.key, "storage_filesystem": None if folder.on_disk else folder.filesystem}
