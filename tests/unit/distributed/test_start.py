"""A Ray that does not come up is one line, not a traceback."""

import pytest
import ray

from harvester.distributed.cluster import start_ray
from harvester.errors import StepError


def test_a_ray_that_does_not_start_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def late(**options: object) -> None:
        asked.update(options)
        raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(
        StepError, match=r"Ray did not start on this machine \(.*timed out.*Start the same command again"
    ):
        start_ray()
    assert asked["address"] == "local"
