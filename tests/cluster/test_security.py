"""Who can reach a harvest on one machine: nobody from outside it."""

import ipaddress
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType
from ray.train.backend import Backend

from harvester.distributed.cluster import WORKERS_MEMORY
from harvester.distributed.training import grouping
from harvester.errors import HarvesterError
from harvester.labels.deeplesion.mark_tables import read_marks
from harvester.records import MANIFEST
from harvester.store.store import Store

ASK = """
import json, os, psutil
from harvester.distributed.cluster import start_ray
import ray
from ray.util.state import list_actors

def listening():
    me = psutil.Process()
    return [
        (process.name(), socket.laddr.ip, socket.laddr.port)
        for process in [me, *me.children(recursive=True)]
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN or socket.type == 2
    ]

@ray.remote(num_cpus=0)
class Worker:
    def sees(self):
        own = []
        if "ASK_THE_DASHBOARD" in os.environ:
            # As Ray Train's own PlacementGroupCleaner asks: of the cluster that is found.
            own = [actor.actor_id for actor in list_actors(filters=[("class_name", "=", "Worker")])]
        memory = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
        return {
            "address": os.environ.get("RAY_ADDRESS"),
            "found": ray.get_runtime_context().get_actor_id() in own,
            "memory": memory,
        }

start_ray()
worker = Worker.remote()
print(json.dumps({
    "listening": listening(),
    "nodes": [node["NodeManagerAddress"] for node in ray.nodes()],
    "sees": ray.get(worker.sees.remote()),
    "address": ray.get_runtime_context().gcs_address,
}))
ray.shutdown()
"""


def asked(environment: dict[str, str], folder: Path) -> Any:
    """What a process of its own tells that starts Ray as the jobs do."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=inherited | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_ray_of_ones_own_listens_on_loopback_alone_with_a_token(local_ray: None, tmp_path: Path) -> None:
    """And its workers know which of two Rays on this machine is theirs."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    answer = asked(
        {
            "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp"),  # noqa: S108  sockets want a short path
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "ASK_THE_DASHBOARD": "1",
            "MALLOC_ARENA_MAX": "4",
        },
        tmp_path,
    )
    assert answer["nodes"] == ["127.0.0.1"]
    names = {name for name, _, _ in answer["listening"]}
    assert {"gcs_server", "raylet"} <= names
    beyond = [each for each in answer["listening"] if not loopback(each[1])]
    assert beyond == []
    memory = WORKERS_MEMORY | {"MALLOC_ARENA_MAX": "4"}  # what a user has set stays
    assert answer["sees"] == {"address": answer["address"], "found": True, "memory": memory}


def test_workers_of_a_cluster_that_a_job_joins_know_it(local_ray: None, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    answer = asked({"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}, tmp_path)
    assert (answer["address"], answer["sees"]["address"]) == (address, address)
    assert answer["sees"]["memory"] == WORKERS_MEMORY


def loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)  # ::ffff:127.0.0.1, as gRPC says it
    return bool((mapped or parsed).is_loopback)


def test_a_process_group_which_listens_on_all_interfaces_is_made_only_for_folds_that_workers_share() -> None:
    assert [grouping(folds, workers).backend_cls is Backend for folds, workers in ((5, 1), (2, 2), (2, 3))] == [
        True,
        True,
        False,
    ]
    backends = [vars(grouping(2, 3, gpu))["backend"] for gpu in (False, True)]
    assert backends == ["gloo", "nccl"]


class Payload:
    """What a stranger's pickle may do."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("nested", [False, True])
def test_a_table_of_pickled_objects_is_refused_before_one_is_looked_at(tmp_path: Path, nested: bool) -> None:
    """Ray registers such a type with Arrow in every process that imports ray.data."""
    touched = tmp_path / "touched"
    kind = ArrowPythonObjectType()
    storage = pa.array([pickle.dumps(Payload(touched))], pa.large_binary())
    objects: Any = pa.ExtensionArray.from_storage(kind, storage)
    table = pa.table({"volume_id": objects})
    assert table.to_pylist() == [{"volume_id": None}]
    assert touched.exists()  # so it is with any reader that trusts
    touched.unlink()
    if nested:
        objects = pa.StructArray.from_arrays([objects], ["inner"])
    columns = {name: pa.nulls(1, MANIFEST.field(name).type) for name in MANIFEST.names}
    pq.write_table(pa.table(columns | {"volume_id": objects}), tmp_path / "manifest.parquet")
    for look in (Store.open, lambda folder: read_marks(folder / "manifest.parquet")):
        with pytest.raises(HarvesterError):
            look(tmp_path)
    assert not touched.exists()
