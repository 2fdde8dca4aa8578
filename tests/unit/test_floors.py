"""Versions below which a library runs what a stranger's file says."""

import re
import tomllib
from pathlib import Path

import pytest


@pytest.mark.parametrize(("library", "floor"), [("ray", (2, 60)), ("torch", (2, 10)), ("mlflow", (3, 13))])
def test_no_version_with_a_known_hole_is_installed(library: str, floor: tuple[int, int]) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (found,) = [
        asked
        for line in project["dependencies"]
        if (asked := re.fullmatch(rf"{library}(\[[a-z,]+\])?>=(\d+)\.(\d+).*", line))
    ]
    assert (int(found[2]), int(found[3])) >= floor
