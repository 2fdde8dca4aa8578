"""Folders that all nodes must reach, tried on each of them before any work begins."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from harvester.distributed.cluster import living_nodes, on_each, this_worker
from harvester.errors import SettingsError, one_line
from harvester.storage.location import Location

SECONDS_TO_ANSWER: Final = 30.0
"""Of a node; one that has not answered by then is busy or gone, which is not to be judged here."""
SECONDS_TO_APPEAR: Final = 10.0
"""Of a file of another node: shares list a folder late."""
Nodes = Mapping[str, str]
"""Their addresses, by their ids."""
Ask = Callable[[Nodes, Callable[..., str], Location, Any], Mapping[str, str]]


def require_shared(written: Sequence[Location], read: Sequence[Location] = ()) -> None:
    """Raise SettingsError for a folder that a node does not see as this machine does, or cannot write.

    Buckets are not asked, nor is anybody where this machine is the only node. A node that comes later is not tried.
    """
    if not (own := this_worker().node):
        return  # no Ray runs
    nodes: Nodes = {
        each["NodeID"]: each["NodeManagerAddress"] for each in living_nodes() if each["Resources"].get("CPU")
    }
    if nodes.keys() <= {own}:
        return
    for folder in written:
        nodes = try_written(folder, nodes) if folder.on_disk else nodes
    for folder in read:
        nodes = try_read(folder, nodes) if folder.on_disk else nodes


def try_written(folder: Location, nodes: Nodes, ask: Ask | None = None) -> Nodes:
    """Every node reads a file of this machine and writes one that this machine sees. Those that answered."""
    probe = folder / f"probe-{uuid4().hex[:12]}"
    probe.write_text(probe.name)
    try:
        answers = (ask or _asked)(nodes, write_back, probe, probe.name)
        _refuse(folder, nodes, answers)
        elsewhere = [node for node in answers if not _appears(_of_node(probe, node))]
        _refuse(folder, nodes, dict.fromkeys(elsewhere, "writes where this machine sees none"))
        return {node: nodes[node] for node in answers}
    finally:
        for name in folder.files():
            if name.startswith(probe.name):
                (folder / name).delete()


def try_read(folder: Location, nodes: Nodes, ask: Ask | None = None) -> Nodes:
    """Every node sees what this machine sees in the folder. Those that answered."""
    answers = (ask or _asked)(nodes, missing_there, folder, [*folder.files(), *folder.folders()])
    _refuse(folder, nodes, answers)
    return {node: nodes[node] for node in answers}


def write_back(probe: Location, text: str, node: str) -> str:
    """What is wrong with the folder of a file of the driver's, for one node; "" for nothing."""
    try:
        if probe.read_text() != text:
            return "sees another file of the same name"
    except OSError as error:
        return f"does not see what this machine writes there ({_cause(error)})"
    try:
        _of_node(probe, node).write_text(text)
    except OSError as error:
        return f"cannot write there ({_cause(error)})"
    return ""


def missing_there(folder: Location, names: Sequence[str], node: str) -> str:
    """The same of a folder in which there are files and folders of these names."""
    missing = set(names) - {*folder.files(), *folder.folders()}
    return f"does not see {len(missing)} of the {len(names)} files and folders there" if missing else ""


def _asked(nodes: Nodes, task: Callable[..., str], place: Location, told: Any) -> Mapping[str, str]:
    return on_each({node: (place, told, node) for node in nodes}, task, SECONDS_TO_ANSWER)


def _refuse(folder: Location, nodes: Nodes, answers: Mapping[str, str]) -> None:
    for node, fault in answers.items():
        if fault:
            raise SettingsError(
                f"{folder}: node {nodes[node]} {fault}; give a folder that all nodes share, or s3://bucket/folder (for "
                "a job's relative paths set HARVESTER_HOME)"
            )


def _appears(file: Location) -> bool:
    until = time.monotonic() + SECONDS_TO_APPEAR
    while not file.is_file():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def _of_node(probe: Location, node: str) -> Location:
    return probe.parent / f"{probe.name}-{node[:12]}"


def _cause(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else one_line(error)
