"""One local Ray for the whole session: starting it costs more than most tests."""

import os
from collections.abc import Iterator

import pytest
import ray

from harvester.distributed.cluster import ONE_MACHINE


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    os.environ.update(ONE_MACHINE | os.environ)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
