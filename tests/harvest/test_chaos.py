"""The short form of benchmarks/chaos.py: a step in parts that loses a node, an actor and its driver."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_partials import manifest, records, rows, times_done
from tests.ray_nodes import Nodes, kill, ray_nodes

ROOT = Path(__file__).parents[2]
DRIVER = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from harvester.distributed.cluster import start_ray
from harvester.distributed.shared_folders import require_shared
from harvester.storage.location import Location
from tests.cluster.test_partials import actor, job_in, manifest, table_of

folder = Path(sys.argv[1])
start_ray()
require_shared([Location.of(folder)], [Location.of(folder)])
assert not list(folder.glob("probe-*"))
table = table_of(actor(folder / "log", takes_s=0.4), job_in(folder, replicas=2), manifest())
pq.write_table(table, folder / "table.parquet")
"""


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with ray_nodes(2, cpus=1) as started:
        yield started


def test_a_step_outlives_a_node_an_actor_and_its_driver(nodes: Nodes, tmp_path: Path) -> None:
    driver = started(nodes, tmp_path)
    seen: dict[str, Any] = {}
    await_more(tmp_path, seen, 3)
    ((node, _), *_) = nodes.workers("actor")
    nodes.lose(node)
    await_more(tmp_path, seen, 3)
    driver.kill()
    driver.wait()
    driver = started(nodes, tmp_path)
    await_more(tmp_path, seen, 3)
    kill(nodes.workers("actor")[0][1])
    assert driver.wait(100) == 0
    await_more(tmp_path, seen, 0)
    assert len(seen) == len(manifest())
    assert {record["published"] for record in seen.values()} == {1}
    assert [record["errors"] for record in seen.values() if record["errors"]] == [{"v0007": "OSError: no such slice"}]
    done = times_done(tmp_path / "log")
    assert set(done) == {row["volume_id"] for row in rows()}
    # A death costs what the dead had in their hands: two actors at most on the node, two of the driver, one killed.
    assert sum(done.values()) <= len(manifest()) + 5
    assert not list((tmp_path / "partials").glob("begun-*"))


def started(nodes: Nodes, folder: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "RAY_ADDRESS": nodes.cluster.address, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)], cwd=ROOT, env=env)


def await_more(folder: Path, seen: dict[str, Any], count: int) -> None:
    """Until so many more parts are published; those seen before must not have changed."""
    wanted, deadline = len(seen) + count, time.monotonic() + 100
    while True:
        now = {record["volumes"][0]: record for record in records(folder)}
        assert {volume: now.get(volume) for volume in seen} == seen
        seen.update(now)
        if len(seen) >= wanted:
            return
        assert time.monotonic() < deadline, f"{len(seen)} of {wanted} parts"
        time.sleep(0.05)
