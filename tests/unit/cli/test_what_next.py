"""What a harvest's end tells to do next."""

from pathlib import Path

import pytest

from harvester.cli.run_harvest import what_next
from harvester.run.summary import Summary
from harvester.storage.location import Location
from tests.builders import made_store
from tests.summaries import summary_tree


@pytest.mark.parametrize(
    ("harvested", "splits", "commands"),
    [
        (2, {"v": "vh"}, ["export", "audit", "tune"]),
        (2, {"v": "vh", "t": "vd_test"}, ["export", "audit", "retrain"]),
        (0, {"v": "vh"}, ["audit", "tune"]),
    ],
)
def test_next_is_what_can_be_done_with_it(
    harvested: int, splits: dict[str, str], commands: list[str], tmp_path: Path
) -> None:
    summary = Summary.model_validate(summary_tree(harvested=harvested))
    head, *lines = what_next(Location.of("/runs/night"), summary, made_store(tmp_path, splits))
    assert head == "next:"
    assert [line.split()[1] for line in lines] == commands
    assert all("--run /runs/night" in line for line in lines)
